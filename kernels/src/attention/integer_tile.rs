//! Tiles of keys and values of 8 bits, multiplied as integers: as many products of bytes in an instruction as it has bytes, and
//! nothing to widen. Queries and weights are rounded to 16 bits, which changes less than sums of floats in another order, and
//! multiplied as two bytes, the higher first.

use std::arch::x86_64::{__m128i, __m512i, _mm512_cvtepi32_epi8, _mm512_dpbusd_epi32};
use std::mem;
use std::ops::Range;

use fearless_simd::{Avx512, SimdBase, SimdFloat, SimdInt, SimdInto, SimdMask, f32x16, i8x64, i32x4, i32x16};

use crate::attention::tile::KEYS;
use crate::lines::{LANES, WORD, fetch};

/// Rows that are multiplied together.
const ROWS: usize = 6;

/// Lines that are multiplied together: those of a tile of keys, or of 64 channels.
const LINES: usize = 4;

/// Bytes of a line.
const BYTES: usize = LANES * WORD;

/// Channels of as many lines.
const CHANNELS: usize = LINES * LANES;

/// The largest levels of 16 bits, of queries, which have a sign, and of weights.
const LARGEST_QUERY: f32 = 32_639.0;
const LARGEST_WEIGHT: f32 = 65_535.0;

/// Memory of a thread.
#[derive(Debug, Default)]
pub(crate) struct IntegerRoom {
    queries: Halves,
    /// What the keys' offset adds to the products of each row, less than nothing.
    starts: Vec<i32>,
    /// A scale for each row of queries.
    scales: Vec<f32>,
    weights: Halves,
}

/// Rows of numbers of 16 bits in words of four bytes: the higher ones and the lower ones.
#[derive(Debug, Default)]
struct Halves {
    high: Vec<i32>,
    low: Vec<i32>,
}

/// Whether heads of `dim` channels can be multiplied so.
pub(crate) fn suits(dim: usize) -> bool {
    // More could overflow.
    dim.is_multiple_of(CHANNELS) && dim <= 256
}

impl IntegerRoom {
    /// Takes queries `[rows, dim]` of all tiles.
    #[inline(always)]
    pub(crate) fn take_queries(&mut self, avx512: Avx512, queries: &[f32], dim: usize) {
        self.queries.resize(queries.len());
        self.scales.clear();
        self.starts.clear();
        for (index, row) in queries.chunks_exact(dim).enumerate() {
            let mut largest = f32x16::splat(avx512, 0.0);
            let mut spoilt = largest.is_nan();
            for values in row.as_chunks::<LANES>().0 {
                let values = f32x16::from_slice(avx512, values);
                largest = largest.max(values.abs());
                spoilt |= values.is_nan();
            }
            let largest = largest.reduce_max();
            let inverse = if largest > 0.0 {
                LARGEST_QUERY / largest
            } else {
                0.0
            };
            let mut sums = i32x16::splat(avx512, 0);
            for (line, values) in row.as_chunks::<LANES>().0.iter().enumerate() {
                let levels = round(avx512, values, inverse);
                sums += levels;
                // The lower byte has a sign too.
                let high = (levels + 128) >> 8;
                self.queries.put(avx512, index * dim + line * LANES, high, levels);
            }
            self.starts.push(-128 * sums.reduce_sum());
            // What is no number is not lost in rounding.
            self.scales.push(if spoilt.any_true() {
                f32::NAN
            } else {
                largest / LARGEST_QUERY
            });
        }
    }

    /// Scores of all rows with a tile's `keys`, `[KEYS, dim]` in blocks, `[rows, KEYS]`. Memory is asked for keys that are `later`.
    #[inline(always)]
    pub(crate) fn score(
        &mut self,
        avx512: Avx512,
        keys: &[i8],
        later: &[i8],
        dim: usize,
        scores: &mut [f32],
    ) {
        let words = dim / WORD;
        let mut keys = Lines {
            bytes: keys.as_chunks().0,
            later: later.as_chunks().0,
            words,
            word: 1,
            line: words,
        };
        let rows = scores.chunks_mut(ROWS * KEYS).zip(self.scales.chunks(ROWS));
        for (index, (scores, scales)) in rows.enumerate() {
            let rows = index * ROWS..index * ROWS + scales.len();
            let starts = &self.starts[rows.clone()];
            let sums = multiply::<true>(avx512, self.queries.rows(rows, words), starts, &keys.take());
            for (row, scale) in scales.iter().enumerate() {
                for line in 0..LINES {
                    let sums: f32x16<Avx512> = sums[row][line].to_float();
                    (sums * *scale).store_slice(&mut scores[row * KEYS + line * LANES..][..LANES]);
                }
            }
        }
    }

    /// Adds what rows take of a tile's `values`, `[KEYS, dim]` in blocks, by `weights` `[rows, KEYS]`, which are at most 1. Memory is
    /// asked for values that are `later`.
    #[inline(always)]
    pub(crate) fn add(
        &mut self,
        avx512: Avx512,
        weights: &[f32],
        values: &[i8],
        later: &[i8],
        dim: usize,
        taken: &mut [f32],
    ) {
        self.weights.resize(weights.len());
        for (line, weights) in weights.as_chunks::<LANES>().0.iter().enumerate() {
            let levels = round(avx512, weights, LARGEST_WEIGHT);
            self.weights.put(avx512, line * LANES, levels >> 8, levels);
        }
        let (bytes, later) = (values.as_chunks().0, later.as_chunks().0);
        for part in 0..dim / CHANNELS {
            let mut values = Lines {
                bytes: &bytes[part * LINES..],
                later: later.get(part * LINES..).unwrap_or_default(),
                words: KEYS / WORD,
                word: dim / LANES,
                line: 1,
            };
            for (index, taken) in taken.chunks_mut(ROWS * dim).enumerate() {
                let rows = index * ROWS..index * ROWS + taken.len() / dim;
                let starts = &[0; ROWS][..rows.len()];
                let weights = self.weights.rows(rows, KEYS / WORD);
                let sums = multiply::<false>(avx512, weights, starts, &values.take());
                for (row, taken) in taken.chunks_exact_mut(dim).enumerate() {
                    for line in 0..LINES {
                        let taken = &mut taken[part * CHANNELS + line * LANES..][..LANES];
                        let sums: f32x16<Avx512> = sums[row][line].to_float();
                        let before = f32x16::from_slice(avx512, taken);
                        sums.mul_add(f32x16::splat(avx512, LARGEST_WEIGHT.recip()), before)
                            .store_slice(taken);
                    }
                }
            }
        }
    }
}

/// Lines of bytes that are multiplied together, [`LINES`] of them, each of so many `words`.
struct Lines<'a> {
    bytes: &'a [[i8; BYTES]],
    /// What memory is asked for meanwhile, which lies alike.
    later: &'a [[i8; BYTES]],
    words: usize,
    /// From a word of a line to the next, and from a line to the next.
    word: usize,
    line: usize,
}

impl Lines<'_> {
    /// The lines for a product. Memory is asked only in the first.
    fn take(&mut self) -> Self {
        Self {
            later: mem::take(&mut self.later),
            ..*self
        }
    }
}

impl Halves {
    fn resize(&mut self, numbers: usize) {
        self.high.resize(numbers / WORD, 0);
        self.low.resize(numbers / WORD, 0);
    }

    /// Puts sixteen numbers where the `first` of them is to be: the lowest bytes of `high` and `low`.
    #[inline(always)]
    fn put(&mut self, avx512: Avx512, first: usize, high: i32x16<Avx512>, low: i32x16<Avx512>) {
        for (words, numbers) in [(&mut self.high, high), (&mut self.low, low)] {
            let bytes: i32x4<Avx512> = lowest_bytes(avx512, numbers.into()).simd_into(avx512);
            bytes.store_slice(&mut words[first / WORD..][..LANES / WORD]);
        }
    }

    /// Some rows of `words` words each.
    #[inline(always)]
    fn rows(&self, rows: Range<usize>, words: usize) -> [&[i32]; 2] {
        let words = rows.start * words..rows.end * words;
        [&self.high[words.clone()], &self.low[words]]
    }
}

/// Sixteen numbers times `factor`, rounded.
#[inline(always)]
fn round(avx512: Avx512, numbers: &[f32; LANES], factor: f32) -> i32x16<Avx512> {
    let levels = (f32x16::from_slice(avx512, numbers) * factor).round_ties_even();
    levels.to_int_precise()
}

/// Products of rows of words with lines of words, and what each row starts with. Of rows and lines, one has
/// bytes with a sign: the rows where `SIGNED`.
#[inline(always)]
fn multiply<const SIGNED: bool>(
    avx512: Avx512,
    halves: [&[i32]; 2],
    starts: &[i32],
    lines: &Lines<'_>,
) -> [[i32x16<Avx512>; LINES]; ROWS] {
    let mut sums = [[i32x16::splat(avx512, 0); LINES]; ROWS];
    macro_rules! multiply {
        ($($rows:literal)*) => {
            match starts.len() {
                $($rows => {
                    let products = multiply_rows::<$rows, SIGNED>(avx512, halves, starts, lines);
                    sums[..$rows].copy_from_slice(&products);
                })*
                _ => {}
            }
        };
    }
    multiply!(1 2 3 4 5 6);
    sums
}

#[inline(always)]
fn multiply_rows<const R: usize, const SIGNED: bool>(
    avx512: Avx512,
    [high, low]: [&[i32]; 2],
    starts: &[i32],
    lines: &Lines<'_>,
) -> [[i32x16<Avx512>; LINES]; R] {
    let mut sums = [[i32x16::splat(avx512, 0); LINES]; R];
    add_products::<R, SIGNED, true>(avx512, &mut sums, high, lines);
    for (sums, start) in sums.iter_mut().zip(starts) {
        for sum in sums {
            *sum = (*sum << 8) + *start;
        }
    }
    add_products::<R, SIGNED, false>(avx512, &mut sums, low, lines);
    sums
}

#[inline(always)]
fn add_products<const R: usize, const SIGNED: bool, const FETCH: bool>(
    avx512: Avx512,
    sums: &mut [[i32x16<Avx512>; LINES]; R],
    words: &[i32],
    lines: &Lines<'_>,
) {
    let Lines {
        bytes,
        later,
        words: count,
        word,
        line,
    } = *lines;
    let mut starts = [bytes; LINES];
    for (index, start) in starts.iter_mut().enumerate() {
        *start = &bytes[index * line..];
    }
    let stride = words.len() / R;
    let mut rows = [&words[..count]; R];
    for row in 1..R {
        rows[row] = &words[row * stride..][..count];
    }
    for index in 0..count {
        let mut numbers: [__m512i; LINES] = [i32x16::splat(avx512, 0).into(); LINES];
        for (at, (numbers, start)) in numbers.iter_mut().zip(starts).enumerate() {
            if FETCH && let Some(later) = later.get(index * word + at * line) {
                fetch(avx512, later);
            }
            *numbers = i8x64::from_slice(avx512, &start[index * word]).into();
        }
        for row in 0..R {
            let word: __m512i = i32x16::splat(avx512, rows[row][index]).into();
            for line in 0..LINES {
                let sum = sums[row][line].into();
                let sum = match SIGNED {
                    true => dot(avx512, sum, numbers[line], word),
                    false => dot(avx512, sum, word, numbers[line]),
                };
                sums[row][line] = sum.simd_into(avx512);
            }
        }
    }
}

fearless_simd::kernel! {
    /// Adds to each sum the products of four bytes with four that have a sign.
    #[inline]
    fn dot(avx512: Avx512, sums: __m512i, bytes: __m512i, signed: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sums, bytes, signed)
    }
}

fearless_simd::kernel! {
    #[inline]
    fn lowest_bytes(avx512: Avx512, numbers: __m512i) -> __m128i {
        _mm512_cvtepi32_epi8(numbers)
    }
}
