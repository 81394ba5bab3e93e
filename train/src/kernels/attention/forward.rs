use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Attended, Heads, KEYS, Pattern, QUERIES, visible};
use crate::kernels::float::{max, sum};
use crate::kernels::gemm::{Matrix, Target, Threads, multiply};
use crate::kernels::{Float, host};

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

pub(super) fn forward_host<T: Float>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    pattern: &Pattern,
) -> Result<Attended> {
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
