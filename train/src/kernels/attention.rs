//! Scaled dot-product attention in tiles (Dao et al., arXiv 2205.14135): no matrix of scores is ever whole, neither
//! forward nor backward, so memory grows with the number of rows.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::attention_blocks;
use super::float::{dot, max, sum};
use super::gemm::{Matrix, Target, Threads, multiply};
use super::{Float, host, on_host};

/// Query rows of a tile.
const QUERIES: usize = 128;
/// Key rows of a tile.
const KEYS: usize = 256;

/// Who attends to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// Query heads.
    pub(crate) heads: usize,
    /// Key and value heads; each serves `heads / key_value_heads` query heads.
    pub(crate) key_value_heads: usize,
    /// Whether a row sees only the rows up to itself.
    pub(crate) causal: bool,
    /// First row and number of rows of each run that attends within itself. Rows in no run get zeros.
    pub(crate) runs: Vec<(usize, usize)>,
}

impl Pattern {
    fn group(&self) -> usize {
        self.heads / self.key_value_heads
    }
}

/// What the backward pass needs again.
pub(crate) struct Attended {
    /// `[rows, heads · d]`.
    pub(crate) out: Tensor,
    /// `[rows, heads]`: logarithm of the sum of the exponentials of a row's scores.
    pub(crate) log_sums: Tensor,
}

/// `softmax(q kᵀ / sqrt(d)) v` for `q` `[rows, heads · d]`, `k` and `v` `[rows, key_value_heads · d]`.
pub(crate) fn forward(q: &Tensor, k: &Tensor, v: &Tensor, pattern: &Pattern) -> Result<Attended> {
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    on_host!(
        q,
        forward_host(&q, &k, &v, pattern),
        attention_blocks::forward(&q, &k, &v, pattern)
    )
}

/// Gradients of `q`, `k` and `v`, given that of the result.
pub(crate) fn backward(
    grad: &Tensor,
    [q, k, v]: [&Tensor; 3],
    attended: &Attended,
    pattern: &Pattern,
) -> Result<[Tensor; 3]> {
    let grad = grad.contiguous()?;
    let inputs = [q.contiguous()?, k.contiguous()?, v.contiguous()?];
    on_host!(
        grad,
        backward_host(&grad, &inputs, attended, pattern),
        attention_blocks::backward(&grad, &inputs, attended, pattern)
    )
}

/// One head's columns of a `[rows, heads · d]` matrix.
#[derive(Clone, Copy)]
struct Heads<'a, T> {
    values: &'a [T],
    width: usize,
    d: usize,
}

impl<'a, T: Float> Heads<'a, T> {
    fn rows(&self, head: usize, start: usize, count: usize) -> Matrix<'a, T> {
        Matrix::new(
            &self.values[start * self.width + head * self.d..],
            count,
            self.d,
            self.width,
        )
    }

    fn row(&self, head: usize, row: usize) -> &'a [T] {
        &self.values[row * self.width + head * self.d..][..self.d]
    }
}

/// Query rows of one run, which one thread takes at a time.
struct QueryBlock {
    run: (usize, usize),
    start: usize,
    count: usize,
}

fn query_blocks(pattern: &Pattern) -> Vec<QueryBlock> {
    let blocks = |&run: &(usize, usize)| {
        (0..run.1).step_by(QUERIES).map(move |offset| QueryBlock {
            run,
            start: run.0 + offset,
            count: QUERIES.min(run.1 - offset),
        })
    };
    pattern.runs.iter().flat_map(blocks).collect()
}

fn forward_host<T: Float>(q: &Tensor, k: &Tensor, v: &Tensor, pattern: &Pattern) -> Result<Attended> {
    let (rows, width) = q.dims2()?;
    let d = width / pattern.heads;
    let key_width = pattern.key_value_heads * d;
    let (q, k, v) = (
        host::elements::<T>(q)?,
        host::elements::<T>(k)?,
        host::elements::<T>(v)?,
    );
    let q = Heads {
        values: q.slice()?,
        width,
        d,
    };
    let k = Heads {
        values: k.slice()?,
        width: key_width,
        d,
    };
    let v = Heads {
        values: v.slice()?,
        width: key_width,
        d,
    };
    let (mut out, mut log_sums) = (
        vec![T::zero(); rows * width],
        vec![T::zero(); rows * pattern.heads],
    );
    let blocks = query_blocks(pattern);
    // Long blocks, the last of a causal run, go first, so that the threads end together.
    let results: Vec<_> = blocks
        .par_iter()
        .rev()
        .with_max_len(1)
        .map(|block| forward_block([q, k, v], block, pattern))
        .collect();
    for (block, (values, logs)) in blocks.iter().rev().zip(results) {
        out[block.start * width..][..values.len()].copy_from_slice(&values);
        log_sums[block.start * pattern.heads..][..logs.len()].copy_from_slice(&logs);
    }
    Ok(Attended {
        out: host::tensor(out, (rows, width))?,
        log_sums: host::tensor(log_sums, (rows, pattern.heads))?,
    })
}

/// The block's rows of the result `[count, heads · d]` and of the log sums `[count, heads]`.
fn forward_block<T: Float>(
    [q, k, v]: [Heads<'_, T>; 3],
    block: &QueryBlock,
    pattern: &Pattern,
) -> (Vec<T>, Vec<T>) {
    let (count, d) = (block.count, q.d);
    let scale = T::from_f64(d as f64).sqrt().recip();
    let mut out = vec![T::zero(); count * q.width];
    let mut log_sums = vec![T::zero(); count * pattern.heads];
    let mut scores = vec![T::zero(); count * KEYS];
    let mut rows = vec![SoftmaxRow::default(); count];
    for head in 0..pattern.heads {
        let key_head = head / pattern.group();
        rows.fill(SoftmaxRow::default());
        let out = &mut out[head * d..];
        for (start, keys) in key_tiles(block, pattern.causal) {
            let scores = &mut scores[..count * keys];
            let left = q.rows(head, block.start, count);
            let right = k.rows(key_head, start, keys).t();
            multiply((scores, keys), Target::Replace, left, right, scale, Threads::One);
            host::vectorized(
                #[inline(always)]
                || {
                    for (i, (row, scores)) in rows.iter_mut().zip(scores.chunks_exact_mut(keys)).enumerate() {
                        let seen = visible(block.start + i, start, keys, pattern.causal);
                        let shrink = row.take(scores, seen);
                        if shrink != T::one() {
                            out[i * q.width..][..d]
                                .iter_mut()
                                .for_each(|value| *value *= shrink);
                        }
                    }
                },
            );
            let (left, right) = (
                Matrix::new(scores, count, keys, keys),
                v.rows(key_head, start, keys),
            );
            multiply((out, q.width), Target::Add, left, right, T::one(), Threads::One);
        }
        for (i, row) in rows.iter().enumerate() {
            let inverse = row.sum.recip();
            out[i * q.width..][..d]
                .iter_mut()
                .for_each(|value| *value *= inverse);
            log_sums[i * pattern.heads + head] = row.max + row.sum.ln();
        }
    }
    (out, log_sums)
}

/// First row and number of rows of each tile of keys that a block of queries sees.
fn key_tiles(block: &QueryBlock, causal: bool) -> impl Iterator<Item = (usize, usize)> {
    let end = if causal {
        block.start + block.count
    } else {
        block.run.0 + block.run.1
    };
    (block.run.0..end)
        .step_by(KEYS)
        .map(move |start| (start, KEYS.min(end - start)))
}

/// How many of the `keys` rows from `start` on the query row sees.
#[inline(always)]
fn visible(row: usize, start: usize, keys: usize, causal: bool) -> usize {
    if causal {
        (row + 1).saturating_sub(start).min(keys)
    } else {
        keys
    }
}

/// The softmax of one row, as far as its scores are known.
#[derive(Clone, Copy)]
struct SoftmaxRow<T> {
    max: T,
    sum: T,
}

impl<T: Float> Default for SoftmaxRow<T> {
    fn default() -> Self {
        Self {
            max: T::neg_infinity(),
            sum: T::zero(),
        }
    }
}

impl<T: Float> SoftmaxRow<T> {
    /// Turns the first `seen` of the next `scores` into exponentials and the rest into zeros. Returns what the
    /// earlier exponentials must be multiplied with.
    #[inline(always)]
    fn take(&mut self, scores: &mut [T], seen: usize) -> T {
        let (scores, hidden) = scores.split_at_mut(seen);
        hidden.fill(T::zero());
        let largest = max(scores);
        let mut shrink = T::one();
        if largest > self.max {
            shrink = if self.sum > T::zero() {
                (self.max - largest).exp()
            } else {
                T::zero()
            };
            self.max = largest;
            self.sum *= shrink;
        }
        scores
            .iter_mut()
            .for_each(|score| *score = (*score - self.max).fast_exp());
        self.sum += sum(scores, |value| value);
        shrink
    }
}

/// Key rows of one run and one query head, whose gradients one thread computes.
struct KeyBlock {
    run: (usize, usize),
    head: usize,
    start: usize,
    count: usize,
}

/// Each run and head, in two parts of about the same work where the run is long, so that two threads share any number
/// of heads evenly.
fn key_blocks(pattern: &Pattern) -> Vec<KeyBlock> {
    let mut blocks = Vec::new();
    for &run in &pattern.runs {
        // The later keys of a causal run are seen by fewer queries.
        let share = if pattern.causal { 1.0 - 0.5f64.sqrt() } else { 0.5 };
        let cut = if run.1 > 2 * KEYS {
            (run.1 as f64 * share) as usize
        } else {
            run.1
        };
        for head in 0..pattern.heads {
            for (start, count) in [(run.0, cut), (run.0 + cut, run.1 - cut)] {
                if count > 0 {
                    blocks.push(KeyBlock {
                        run,
                        head,
                        start,
                        count,
                    });
                }
            }
        }
    }
    blocks
}

fn backward_host<T: Float>(
    grad: &Tensor,
    [q, k, v]: &[Tensor; 3],
    attended: &Attended,
    pattern: &Pattern,
) -> Result<[Tensor; 3]> {
    let (rows, width) = q.dims2()?;
    let d = width / pattern.heads;
    let key_width = pattern.key_value_heads * d;
    let (q, k, v) = (
        host::elements::<T>(q)?,
        host::elements::<T>(k)?,
        host::elements::<T>(v)?,
    );
    let (grad, out) = (host::elements::<T>(grad)?, host::elements::<T>(&attended.out)?);
    let log_sums = host::elements::<T>(&attended.log_sums)?;
    let of = |values, width| Heads { values, width, d };
    let grad = of(grad.slice()?, width);
    let known = Known {
        q: of(q.slice()?, width),
        k: of(k.slice()?, key_width),
        v: of(v.slice()?, key_width),
        grad,
        log_sums: log_sums.slice()?,
        deltas: deltas(grad, of(out.slice()?, width), pattern.heads),
    };
    let mut grads = [rows * width, rows * key_width, rows * key_width].map(|length| vec![T::zero(); length]);
    let blocks = key_blocks(pattern);
    // In groups, so that only a few blocks' own results are held at a time.
    for blocks in blocks.chunks(4 * rayon::current_num_threads()) {
        let results: Vec<_> = blocks
            .par_iter()
            .with_max_len(1)
            .map(|block| backward_block(&known, block, pattern))
            .collect();
        for (block, [q_rows, k_rows, v_rows]) in blocks.iter().zip(results) {
            let first_query = first_query(block, pattern.causal);
            let key_head = block.head / pattern.group();
            add_rows(&mut grads[0], width, (first_query, block.head * d), &q_rows, d);
            add_rows(&mut grads[1], key_width, (block.start, key_head * d), &k_rows, d);
            add_rows(&mut grads[2], key_width, (block.start, key_head * d), &v_rows, d);
        }
    }
    let [q, k, v] = grads;
    Ok([
        host::tensor(q, (rows, width))?,
        host::tensor(k, (rows, key_width))?,
        host::tensor(v, (rows, key_width))?,
    ])
}

/// What the backward pass reads.
struct Known<'a, T> {
    q: Heads<'a, T>,
    k: Heads<'a, T>,
    v: Heads<'a, T>,
    grad: Heads<'a, T>,
    log_sums: &'a [T],
    deltas: Vec<T>,
}

/// `[rows, heads]`: the product of each head's result with its gradient, which is the sum over the row of
/// probability times its gradient.
fn deltas<T: Float>(grad: Heads<'_, T>, out: Heads<'_, T>, heads: usize) -> Vec<T> {
    let mut deltas = vec![T::zero(); grad.values.len() / grad.d];
    deltas
        .par_chunks_mut(heads)
        .with_min_len(64)
        .enumerate()
        .for_each(|(row, deltas)| {
            for (head, delta) in deltas.iter_mut().enumerate() {
                *delta = dot(grad.row(head, row), out.row(head, row));
            }
        });
    deltas
}

fn first_query(block: &KeyBlock, causal: bool) -> usize {
    if causal { block.start } else { block.run.0 }
}

/// Gradients of one head: of the query rows that see the block, and of the block's key and value rows, each `[…, d]`.
fn backward_block<T: Float>(known: &Known<'_, T>, block: &KeyBlock, pattern: &Pattern) -> [Vec<T>; 3] {
    let d = known.q.d;
    let (head, key_head) = (block.head, block.head / pattern.group());
    let (first, end) = (first_query(block, pattern.causal), block.run.0 + block.run.1);
    let scale = T::from_f64(d as f64).sqrt().recip();
    let mut q_rows = vec![T::zero(); (end - first) * d];
    let [mut k_rows, mut v_rows] = [(); 2].map(|()| vec![T::zero(); block.count * d]);
    let [mut probabilities, mut slopes] = [(); 2].map(|()| vec![T::zero(); QUERIES * KEYS]);
    for key in (block.start..block.start + block.count).step_by(KEYS) {
        let keys = KEYS.min(block.start + block.count - key);
        let (k_tile, v_tile) = (
            known.k.rows(key_head, key, keys),
            known.v.rows(key_head, key, keys),
        );
        let k_target = &mut k_rows[(key - block.start) * d..][..keys * d];
        let v_target = &mut v_rows[(key - block.start) * d..][..keys * d];
        let from = if pattern.causal { key } else { first };
        for query in (from..end).step_by(QUERIES) {
            let count = QUERIES.min(end - query);
            let (p, s) = (&mut probabilities[..count * keys], &mut slopes[..count * keys]);
            let (q_tile, g_tile) = (
                known.q.rows(head, query, count),
                known.grad.rows(head, query, count),
            );
            multiply(
                (p, keys),
                Target::Replace,
                q_tile,
                k_tile.t(),
                scale,
                Threads::One,
            );
            multiply(
                (s, keys),
                Target::Replace,
                g_tile,
                v_tile.t(),
                T::one(),
                Threads::One,
            );
            host::vectorized(
                #[inline(always)]
                || {
                    for (i, (p, s)) in p.chunks_exact_mut(keys).zip(s.chunks_exact_mut(keys)).enumerate() {
                        let seen = visible(query + i, key, keys, pattern.causal);
                        let place = (query + i) * pattern.heads + head;
                        differentiate_row(p, s, seen, known.log_sums[place], known.deltas[place]);
                    }
                },
            );
            let (p, s) = (
                Matrix::new(p, count, keys, keys),
                Matrix::new(s, count, keys, keys),
            );
            let q_target = &mut q_rows[(query - first) * d..][..count * d];
            multiply((v_target, d), Target::Add, p.t(), g_tile, T::one(), Threads::One);
            multiply((k_target, d), Target::Add, s.t(), q_tile, scale, Threads::One);
            multiply((q_target, d), Target::Add, s, k_tile, scale, Threads::One);
        }
    }
    [q_rows, k_rows, v_rows]
}

/// Turns a row of scores into probabilities, and of the probabilities' gradients into that of the scores.
#[inline(always)]
fn differentiate_row<T: Float>(p: &mut [T], s: &mut [T], seen: usize, log_sum: T, delta: T) {
    p[seen..].fill(T::zero());
    s[seen..].fill(T::zero());
    for (p, s) in p[..seen].iter_mut().zip(&mut s[..seen]) {
        *p = (*p - log_sum).fast_exp();
        *s = *p * (*s - delta);
    }
}

/// Adds rows of `d` elements to `target`, whose rows are `width` wide, from row and column `start` on.
fn add_rows<T: Float>(target: &mut [T], width: usize, start: (usize, usize), rows: &[T], d: usize) {
    let target = target[start.0 * width..].chunks_mut(width);
    for (target, row) in target.zip(rows.chunks_exact(d)) {
        host::store(&mut target[start.1..][..d], row, Target::Add);
    }
}
