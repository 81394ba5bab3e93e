use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{Attended, Heads, KEYS, Pattern, QUERIES, visible};
use crate::kernels::float::dot;
use crate::kernels::gemm::{Matrix, Target, Threads, multiply};
use crate::kernels::{Float, host};

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

pub(super) fn backward_host<T: Float>(
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
