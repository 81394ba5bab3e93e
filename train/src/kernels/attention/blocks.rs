//! Attention composed of candle's operations, for devices and types without a kernel of our own. Query rows go block
//! by block, so that memory grows with the number of rows here too.

use candle_core::{D, Result, Tensor};

use super::{Attended, Pattern};
use crate::kernels::gradient::wide;

/// Query rows whose scores are held at a time.
const QUERIES: usize = 512;

pub(in crate::kernels) fn forward(q: &Tensor, k: &Tensor, v: &Tensor, pattern: &Pattern) -> Result<Attended> {
    let (mut outs, mut sums) = (Rows::new(q.dims2()?.0), Rows::new(q.dims2()?.0));
    for block in blocks(pattern) {
        let (queries, keys) = (
            heads(q, &block.queries, pattern.heads)?,
            key_heads(k, &block.keys, pattern)?,
        );
        let values = key_heads(v, &block.keys, pattern)?;
        let scores = block.scores(&queries, &keys)?;
        let log_sums = scores.log_sum_exp(D::Minus1)?.unsqueeze(2)?;
        let probabilities = scores.broadcast_sub(&log_sums)?.exp()?.to_dtype(values.dtype())?;
        outs.push(&block.queries, flat(&probabilities.matmul(&values)?)?);
        sums.push(&block.queries, log_sums.squeeze(2)?.t()?.contiguous()?);
    }
    Ok(Attended {
        out: outs.join()?,
        log_sums: sums.join()?,
    })
}

pub(in crate::kernels) fn backward(
    grad: &Tensor,
    [q, k, v]: &[Tensor; 3],
    attended: &Attended,
    pattern: &Pattern,
) -> Result<[Tensor; 3]> {
    let (rows, key_width) = k.dims2()?;
    let mut q_grads = Rows::new(rows);
    let zeros = Tensor::zeros((rows, key_width), wide(&k.narrow(0, 0, 1)?)?.dtype(), k.device())?;
    let (mut k_grad, mut v_grad) = (zeros.clone(), zeros);
    for block in blocks(pattern) {
        let (queries, keys) = (
            heads(q, &block.queries, pattern.heads)?,
            key_heads(k, &block.keys, pattern)?,
        );
        let (grads, values) = (
            heads(grad, &block.queries, pattern.heads)?,
            key_heads(v, &block.keys, pattern)?,
        );
        let out = heads(&attended.out, &block.queries, pattern.heads)?;
        let log_sums = attended
            .log_sums
            .narrow(0, block.queries.0, block.queries.1)?
            .t()?
            .unsqueeze(2)?;
        let probabilities = block.scores(&queries, &keys)?.broadcast_sub(&log_sums)?.exp()?;
        let delta = (wide(&grads)? * wide(&out)?)?.sum_keepdim(D::Minus1)?;
        let slopes = wide(&grads.matmul(&values.transpose(1, 2)?.contiguous()?)?)?;
        let slopes = ((&probabilities * slopes.broadcast_sub(&delta)?)? * block.scale(&queries)?)?
            .to_dtype(q.dtype())?;
        let probabilities = probabilities.to_dtype(q.dtype())?;
        q_grads.push(&block.queries, flat(&slopes.matmul(&keys)?)?);
        let k_piece = slopes.transpose(1, 2)?.contiguous()?.matmul(&queries)?;
        let v_piece = probabilities.transpose(1, 2)?.contiguous()?.matmul(&grads)?;
        k_grad = add_at(&k_grad, block.keys.0, &shared(&k_piece, pattern)?)?;
        v_grad = add_at(&v_grad, block.keys.0, &shared(&v_piece, pattern)?)?;
    }
    Ok([
        q_grads.join()?,
        k_grad.to_dtype(k.dtype())?,
        v_grad.to_dtype(v.dtype())?,
    ])
}

/// A block of queries and the keys it sees: first row and number of rows of each.
struct Block {
    queries: (usize, usize),
    keys: (usize, usize),
    causal: bool,
}

impl Block {
    fn scale(&self, queries: &Tensor) -> Result<f64> {
        Ok(1.0 / (queries.dim(D::Minus1)? as f64).sqrt())
    }

    /// `[heads, queries, keys]`, in f32, negative infinity where a query does not see a key.
    fn scores(&self, queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
        let scores =
            (wide(&queries.matmul(&keys.transpose(1, 2)?.contiguous()?)?)? * self.scale(queries)?)?;
        if !self.causal {
            return Ok(scores);
        }
        let device = scores.device();
        let row = |range: (usize, usize)| Tensor::arange(range.0 as u32, (range.0 + range.1) as u32, device);
        let hidden = row(self.keys)?
            .unsqueeze(0)?
            .broadcast_gt(&row(self.queries)?.unsqueeze(1)?)?;
        let hidden = hidden.broadcast_as(scores.shape())?;
        let nothing = Tensor::new(f32::NEG_INFINITY, device)?.to_dtype(scores.dtype())?;
        hidden.where_cond(&nothing.broadcast_as(scores.shape())?, &scores)
    }
}

fn blocks(pattern: &Pattern) -> Vec<Block> {
    let mut blocks = Vec::new();
    for &(start, count) in &pattern.runs {
        for offset in (0..count).step_by(QUERIES) {
            let queries = (start + offset, QUERIES.min(count - offset));
            let keys = (start, if pattern.causal { offset + queries.1 } else { count });
            blocks.push(Block {
                queries,
                keys,
                causal: pattern.causal,
            });
        }
    }
    blocks
}

/// Rows `range` of `[rows, heads · d]` as `[heads, rows, d]`.
fn heads(x: &Tensor, range: &(usize, usize), heads: usize) -> Result<Tensor> {
    let rows = x.narrow(0, range.0, range.1)?;
    rows.reshape((range.1, heads, ()))?.transpose(0, 1)?.contiguous()
}

/// As [`heads`], each key and value head repeated for the query heads that share it.
fn key_heads(x: &Tensor, range: &(usize, usize), pattern: &Pattern) -> Result<Tensor> {
    let (shared, group) = (pattern.key_value_heads, pattern.heads / pattern.key_value_heads);
    let x = heads(x, range, shared)?;
    let (_, rows, d) = x.dims3()?;
    let repeated = x.unsqueeze(1)?.broadcast_as((shared, group, rows, d))?;
    repeated.reshape((pattern.heads, rows, d))
}

/// `[heads, rows, d]` as `[rows, heads · d]`.
fn flat(x: &Tensor) -> Result<Tensor> {
    x.transpose(0, 1)?.flatten(1, 2)
}

/// Sums the query heads that share a key and value head: `[heads, rows, d]` to `[rows, key_value_heads · d]`, in f32.
fn shared(x: &Tensor, pattern: &Pattern) -> Result<Tensor> {
    let (_, rows, d) = x.dims3()?;
    flat(&wide(x)?.reshape((pattern.key_value_heads, (), rows, d))?.sum(1)?)
}

/// `target` with `rows` added from row `start` on.
fn add_at(target: &Tensor, start: usize, rows: &Tensor) -> Result<Tensor> {
    let (total, (count, _)) = (target.dim(0)?, rows.dims2()?);
    target + rows.pad_with_zeros(0, start, total - start - count)?
}

/// Pieces of a result, in the order of their rows, with zeros where there is no piece.
struct Rows {
    total: usize,
    next: usize,
    pieces: Vec<(usize, Tensor)>,
}

impl Rows {
    fn new(total: usize) -> Self {
        Self {
            total,
            next: 0,
            pieces: Vec::new(),
        }
    }

    fn push(&mut self, range: &(usize, usize), piece: Tensor) {
        self.pieces.push((range.0 - self.next, piece));
        self.next = range.0 + range.1;
    }

    fn join(self) -> Result<Tensor> {
        let padded: Vec<Tensor> = self
            .pieces
            .iter()
            .map(|(gap, piece)| piece.pad_with_zeros(0, *gap, 0))
            .collect::<Result<_>>()?;
        Tensor::cat(&padded, 0)?.pad_with_zeros(0, 0, self.total - self.next)
    }
}
