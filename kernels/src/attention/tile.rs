#[cfg(target_arch = "x86_64")]
use fearless_simd::Avx512;
use fearless_simd::{Level, Simd, dispatch};

use crate::attention::cache::Element;
#[cfg(target_arch = "x86_64")]
use crate::attention::integer_tile::IntegerRoom;
use crate::attention::order::Order;
use crate::attention::small_product::{KEYS_AT_ONCE, View, add_product, dots};
use crate::attention::softmax::RunningSoftmax;

/// Keys that are looked at together: their rows, widened, stay in the first cache.
pub(crate) const KEYS: usize = 64;

/// Up to so many rows of queries, keys are multiplied as they lie; for more it pays to turn them over.
pub(crate) const FEW_ROWS: usize = 12;

/// Rows of queries that are multiplied with a key together.
const ROWS: usize = 3;

/// Memory of a thread.
#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(crate) queries: Vec<f32>,
    #[cfg(target_arch = "x86_64")]
    integers: IntegerRoom,
    scores: Vec<f32>,
    wide: Vec<f32>,
    turned: Vec<f32>,
}

/// Attention of some rows of queries over some keys of one head: one task of many.
pub(crate) struct RowsOverKeys<'a, T> {
    pub(crate) dim: usize,
    /// Keys and values of the head, `[capacity, dim]` in that order.
    pub(crate) order: Order,
    pub(crate) keys: &'a [T],
    pub(crate) values: &'a [T],
    /// Which of them.
    pub(crate) range: std::ops::Range<usize>,
    /// Rows of queries that see the same keys stand together, so many of them.
    pub(crate) group: usize,
    /// Keys that the first of them see; every further group sees one more.
    pub(crate) first_sees: usize,
    /// Whether keys are turned over, which pays where many rows are multiplied with them.
    pub(crate) turns: bool,
    /// Queries `[rows, dim]`, scaled, in `queries`.
    pub(crate) room: &'a mut Room,
    /// A softmax of each row, and `[rows, dim]`: what each takes of the values so far.
    pub(crate) softmax: &'a mut [RunningSoftmax],
    pub(crate) taken: &'a mut [f32],
}

impl<T: Element> RowsOverKeys<'_, T> {
    /// Computes it with the vectors of this processor.
    pub(crate) fn compute(self) {
        match self.order {
            Order::Rows => dispatch!(Level::new(), simd => self.run(simd)),
            #[cfg(target_arch = "x86_64")]
            Order::Blocks(blocks) => {
                // Nothing else lies in blocks.
                if let (Some(keys), Some(values)) = (T::bytes(self.keys), T::bytes(self.values)) {
                    self.of(keys, values).compute_integers(blocks.0);
                }
            }
        }
    }

    /// Computes it with the vectors of `simd`.
    #[inline(always)]
    pub(crate) fn run<S: Simd>(self, simd: S) {
        let (rows, dim) = (self.softmax.len(), self.dim);
        let Room {
            queries,
            scores,
            wide,
            turned,
            ..
        } = self.room;
        scores.resize(rows * KEYS, 0.0);
        wide.resize(KEYS * dim, 0.0);
        turned.resize(KEYS * dim, 0.0);
        let mut start = self.range.start;
        while start < self.range.end {
            let count = KEYS.min(self.range.end - start);
            let tile = start * dim..(start + count) * dim;
            let (keys, values) = (&self.keys[tile.clone()], &self.values[tile]);
            let wide = &mut wide[..count * dim];
            if self.turns {
                score_many(simd, scores, queries, T::widen(keys, wide), turned, dim);
            } else if rows <= ROWS {
                score_few(simd, scores, queries, keys, dim);
            } else {
                score_few(simd, scores, queries, T::widen(keys, wide), dim);
            }
            weigh(
                simd,
                start,
                count,
                self.first_sees,
                self.group,
                scores,
                self.softmax,
                self.taken,
            );
            let (sizes, weights) = ([rows, count, dim], View::new(scores, KEYS));
            if rows <= ROWS {
                add_product(simd, self.taken, dim, weights, View::new(values, dim), sizes);
            } else {
                let values = View::new(T::widen(values, wide), dim);
                add_product(simd, self.taken, dim, weights, values, sizes);
            }
            start += count;
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl<'a, T> RowsOverKeys<'a, T> {
    /// The same of other keys and values.
    fn of<U>(self, keys: &'a [U], values: &'a [U]) -> RowsOverKeys<'a, U> {
        RowsOverKeys {
            dim: self.dim,
            order: self.order,
            keys,
            values,
            range: self.range,
            group: self.group,
            first_sees: self.first_sees,
            turns: self.turns,
            room: self.room,
            softmax: self.softmax,
            taken: self.taken,
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl RowsOverKeys<'_, i8> {
    /// Computes it in integers. It is compiled here, whatever it is called from.
    fn compute_integers(self, avx512: Avx512) {
        avx512.vectorize(
            #[inline(always)]
            || self.run_integers(avx512),
        );
    }

    #[inline(always)]
    fn run_integers(self, avx512: Avx512) {
        let (keys, values, dim) = (self.keys, self.values, self.dim);
        let Room {
            queries,
            integers,
            scores,
            ..
        } = &mut *self.room;
        scores.resize(self.softmax.len() * KEYS, 0.0);
        integers.take_queries(avx512, queries, dim);
        let mut last = [const { Vec::new() }; 2];
        for start in self.range.clone().step_by(KEYS) {
            let count = KEYS.min(self.range.end - start);
            // What is behind the last key counts nothing.
            let tile = start * dim..keys.len().min((start + KEYS) * dim);
            // The tile behind the next one, since memory takes longer than a tile.
            let later = (tile.end + KEYS * dim).min(keys.len())..keys.len();
            let (mut tile_keys, mut tile_values) = (&keys[tile.clone()], &values[tile]);
            if tile_keys.len() < KEYS * dim {
                for (last, tile) in last.iter_mut().zip([&mut tile_keys, &mut tile_values]) {
                    last.extend_from_slice(tile);
                    last.resize(KEYS * dim, 0);
                    *tile = last;
                }
            }
            integers.score(avx512, tile_keys, &keys[later.clone()], dim, scores);
            weigh(
                avx512,
                start,
                count,
                self.first_sees,
                self.group,
                scores,
                self.softmax,
                self.taken,
            );
            integers.add(avx512, scores, tile_values, &values[later], dim, self.taken);
        }
    }
}

/// Turns scores of rows with `count` keys from `start` on into weights, and scales what rows have `taken` so far.
#[expect(
    clippy::too_many_arguments,
    reason = "parts of a task, some of which are borrowed"
)]
#[inline(always)]
fn weigh<S: Simd>(
    simd: S,
    start: usize,
    count: usize,
    first_sees: usize,
    group: usize,
    scores: &mut [f32],
    softmax: &mut [RunningSoftmax],
    taken: &mut [f32],
) {
    let dim = taken.len() / softmax.len();
    let rows = softmax
        .iter_mut()
        .zip(scores.chunks_exact_mut(KEYS))
        .zip(taken.chunks_exact_mut(dim));
    for (row, ((softmax, scores), taken)) in rows.enumerate() {
        let sees = first_sees + row / group;
        let visible = sees.saturating_sub(start).min(count);
        let factor = softmax.weigh(simd, scores, visible);
        if factor != 1.0 {
            taken.iter_mut().for_each(|value| *value *= factor);
        }
    }
}

/// Scores of rows of queries, `[rows, KEYS]`, some keys at once. Rows of `keys` behind the last are of no meaning.
#[inline(always)]
fn score_few<S: Simd, T: Element>(simd: S, scores: &mut [f32], queries: &[f32], keys: &[T], dim: usize) {
    let rows = scores.chunks_mut(ROWS * KEYS).zip(queries.chunks(ROWS * dim));
    for (scores, queries) in rows {
        match queries.len() / dim {
            3 => score_rows::<S, T, 3>(simd, scores, queries, keys, dim),
            2 => score_rows::<S, T, 2>(simd, scores, queries, keys, dim),
            _ => score_rows::<S, T, 1>(simd, scores, queries, keys, dim),
        }
    }
}

#[inline(always)]
fn score_rows<S: Simd, T: Element, const R: usize>(
    simd: S,
    scores: &mut [f32],
    queries: &[f32],
    keys: &[T],
    dim: usize,
) {
    let queries: [&[f32]; R] = rows(queries, dim);
    let last = keys.len() / dim - 1;
    for first in (0..=last).step_by(KEYS_AT_ONCE) {
        // At the end the last key is taken again, into places that nobody looks at.
        let mut together = [keys; KEYS_AT_ONCE];
        for (offset, key) in together.iter_mut().enumerate() {
            *key = row(keys, dim, (first + offset).min(last));
        }
        for (row, of_row) in dots(simd, queries, together).into_iter().enumerate() {
            scores[row * KEYS + first..][..KEYS_AT_ONCE].copy_from_slice(&of_row);
        }
    }
}

#[inline(always)]
fn row<T>(rows: &[T], dim: usize, index: usize) -> &[T] {
    &rows[index * dim..][..dim]
}

#[inline(always)]
fn rows<const R: usize>(all: &[f32], dim: usize) -> [&[f32]; R] {
    let mut rows = [all; R];
    for (index, part) in rows.iter_mut().enumerate() {
        *part = row(all, dim, index);
    }
    rows
}

/// Scores of rows of queries, `[rows, KEYS]`, as a product with the keys turned over.
#[inline(always)]
fn score_many<S: Simd>(
    simd: S,
    scores: &mut [f32],
    queries: &[f32],
    keys: &[f32],
    turned: &mut [f32],
    dim: usize,
) {
    for (index, key) in keys.chunks_exact(dim).enumerate() {
        for (channel, value) in key.iter().enumerate() {
            turned[channel * KEYS + index] = *value;
        }
    }
    scores.fill(0.0);
    let rows = scores.len() / KEYS;
    let (queries, keys) = (View::new(queries, dim), View::new(turned, KEYS));
    add_product(simd, scores, KEYS, queries, keys, [rows, dim, KEYS]);
}
