//! Tiles of keys and values of 8 bits, multiplied as integers: twice the products of floats in an instruction, and nothing to
//! widen but once a tile. Queries and weights are rounded to 16 bits, which changes less than sums of floats in another order.

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_shufflehi_epi16, _mm256_shufflelo_epi16, _mm512_castsi512_si256,
    _mm512_cvtepi8_epi16, _mm512_cvtepi32_epi16, _mm512_dpwssd_epi32, _mm512_extracti64x4_epi64,
    _mm512_set1_epi32, _mm512_slli_epi16, _mm512_srai_epi16, _mm512_unpackhi_epi8, _mm512_unpacklo_epi8,
};

use fearless_simd::{
    Avx512, SimdBase, SimdFloat, SimdInt, SimdInto, SimdMask, f32x16, i8x64, i32x8, i32x16, u32x16,
};

use crate::attention::tile::KEYS;
use crate::lines::{LANES, Line, WORD, fetch, load, turn};

/// Rows that are multiplied together.
const ROWS: usize = 6;

/// Lines that are multiplied together: those of a tile of keys, or of 64 channels.
const LINES: usize = 4;

/// Channels of as many lines.
const CHANNELS: usize = LINES * LANES;

/// Pairs of as many numbers as a line has.
const PAIRS: usize = LANES / 2;

/// Bytes that memory gives at once.
const CACHE_LINE: usize = 64;

/// The largest level of 16 bits.
const LARGEST: f32 = 32_767.0;

/// Memory of a thread.
#[derive(Debug, Default)]
pub(crate) struct IntegerRoom {
    /// Queries in pairs of 16 bits, `[rows, dim / 2]`, and a scale for each row.
    queries: Vec<i32>,
    scales: Vec<f32>,
    /// Weights in pairs, `[rows, KEYS / 2]`.
    weights: Vec<i32>,
    turned: Vec<Line<u32>>,
    /// Pairs of channels of keys, `[dim / 2, KEYS]`.
    keys: Vec<Line<i32>>,
    /// Pairs of values, `[dim / 64, KEYS / 2, 64]`.
    values: Vec<Line<i32>>,
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
        self.queries.resize(queries.len() / 2, 0);
        self.scales.clear();
        for (row, pairs) in queries
            .chunks_exact(dim)
            .zip(self.queries.chunks_exact_mut(dim / 2))
        {
            let mut largest = f32x16::splat(avx512, 0.0);
            let mut spoilt = largest.is_nan();
            for values in row.as_chunks::<LANES>().0 {
                let values = f32x16::from_slice(avx512, values);
                largest = largest.max(values.abs());
                spoilt |= values.is_nan();
            }
            let largest = largest.reduce_max();
            let inverse = if largest > 0.0 { LARGEST / largest } else { 0.0 };
            let lines = row
                .as_chunks::<LANES>()
                .0
                .iter()
                .zip(pairs.as_chunks_mut::<PAIRS>().0);
            for (values, pairs) in lines {
                *pairs = like_keys(avx512, round(avx512, values, inverse));
            }
            // What is no number is not lost in rounding.
            self.scales.push(if spoilt.any_true() {
                f32::NAN
            } else {
                largest / LARGEST
            });
        }
    }

    /// Scores of all rows with a tile's `keys` `[count, dim]`, `[rows, KEYS]`; those behind the last key are of no meaning. Memory is
    /// asked for keys that are `later`.
    #[inline(always)]
    pub(crate) fn score(
        &mut self,
        avx512: Avx512,
        keys: &[i8],
        later: &[i8],
        dim: usize,
        scores: &mut [f32],
    ) {
        let last = keys.len() / dim - 1;
        let words = dim / WORD;
        self.keys.resize(dim / 2 * LINES, Line::default());
        for group in 0..LINES {
            ask_for(avx512, later, group * LANES * dim..(group + 1) * LANES * dim);
            let row = |lane: usize| &keys[(group * LANES + lane).min(last) * dim..][..dim];
            turn(
                &mut self.turned,
                words,
                #[inline(always)]
                |lane, start| {
                    let bytes = start * WORD..(start + LANES) * WORD;
                    let bytes: __m512i = load::<i8x64<Avx512>>(avx512, &row(lane)[bytes]).into();
                    let words: u32x16<Avx512> = bytes.simd_into(avx512);
                    words
                },
            );
            for (word, line) in self.turned[..words].iter().enumerate() {
                let words = u32x16::from_slice(avx512, &line.0);
                let [even, odd] = pairs_of_bytes(avx512, words.into());
                store(avx512, even, &mut self.keys[2 * word * LINES + group]);
                store(avx512, odd, &mut self.keys[(2 * word + 1) * LINES + group]);
            }
        }
        let rows = scores
            .chunks_mut(ROWS * KEYS)
            .zip(self.queries.chunks(ROWS * dim / 2));
        for ((scores, queries), scales) in rows.zip(self.scales.chunks(ROWS)) {
            let sums = multiply(avx512, scales.len(), queries, &self.keys);
            for (row, scale) in scales.iter().enumerate() {
                for line in 0..LINES {
                    let sums: f32x16<Avx512> = sums[row][line].to_float();
                    (sums * *scale).store_slice(&mut scores[row * KEYS + line * LANES..][..LANES]);
                }
            }
        }
    }

    /// Adds what rows take of a tile's `values` `[count, dim]` by `weights` `[rows, KEYS]`, which are at most 1 and 0 behind the
    /// last value. Memory is asked for values that are `later`.
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
        self.weights.resize(weights.len() / 2, 0);
        let lines = weights.as_chunks::<LANES>().0.iter();
        for (weights, pairs) in lines.zip(self.weights.as_chunks_mut::<PAIRS>().0) {
            *pairs = round(avx512, weights, LARGEST);
        }
        let count = values.len() / dim;
        for first in (0..dim).step_by(CHANNELS) {
            self.values.resize(KEYS / 2 * LINES, Line::default());
            let used = count.div_ceil(2);
            for (index, lines) in self.values.as_chunks_mut::<LINES>().0[..used]
                .iter_mut()
                .enumerate()
            {
                ask_for(
                    avx512,
                    later,
                    2 * index * dim + first..2 * index * dim + first + CHANNELS,
                );
                ask_for(
                    avx512,
                    later,
                    (2 * index + 1) * dim + first..(2 * index + 1) * dim + first + CHANNELS,
                );
                let row = |index: usize| {
                    let row = &values[index.min(count - 1) * dim + first..][..CHANNELS];
                    i8x64::from_slice(avx512, row).into()
                };
                for (line, pairs) in
                    lines
                        .iter_mut()
                        .zip(pairs_of_rows(avx512, row(2 * index), row(2 * index + 1)))
                {
                    store(avx512, pairs, line);
                }
            }
            let lines = &self.values[..used * LINES];
            let rows = self
                .weights
                .chunks(ROWS * KEYS / 2)
                .zip(taken.chunks_mut(ROWS * dim));
            for (weights, taken) in rows {
                let sums = multiply(avx512, taken.len() / dim, weights, lines);
                for (row, taken) in taken.chunks_exact_mut(dim).enumerate() {
                    let taken = &mut taken[first..][..CHANNELS];
                    for line in 0..LINES {
                        let sums: f32x16<Avx512> = sums[row][line].to_float();
                        let sums = sums * LARGEST.recip();
                        // Halves of two lines alternate, see `pairs_of_rows`.
                        let start = line / 2 * 2 * LANES + line % 2 * LANES / 2;
                        for half in 0..2 {
                            let taken = &mut taken[start + half * LANES..][..LANES / 2];
                            let sums = &sums.as_slice()[half * LANES / 2..][..LANES / 2];
                            for channel in 0..LANES / 2 {
                                taken[channel] += sums[channel];
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Lets some of `bytes` be read, which will be wanted.
#[inline(always)]
fn ask_for(avx512: Avx512, bytes: &[i8], wanted: std::ops::Range<usize>) {
    for byte in bytes.get(wanted).unwrap_or_default().iter().step_by(CACHE_LINE) {
        fetch(avx512, byte);
    }
}

/// Sixteen numbers times `factor`, rounded, in pairs of 16 bits.
#[inline(always)]
fn round(avx512: Avx512, numbers: &[f32; LANES], factor: f32) -> [i32; PAIRS] {
    let levels = (f32x16::from_slice(avx512, numbers) * factor).round_ties_even();
    let levels: i32x16<Avx512> = levels.to_int_precise();
    let pairs: i32x8<Avx512> = narrow(avx512, levels.into()).simd_into(avx512);
    pairs.to_array()
}

/// Pairs of channels as [`pairs_of_bytes`] makes them: of four, the first with the third and the second with the fourth.
#[inline(always)]
fn like_keys(avx512: Avx512, pairs: [i32; PAIRS]) -> [i32; PAIRS] {
    let pairs = i32x8::from_slice(avx512, &pairs);
    let pairs: i32x8<Avx512> = swap_inner(avx512, pairs.into()).simd_into(avx512);
    pairs.to_array()
}

#[inline(always)]
fn store(avx512: Avx512, vector: __m512i, line: &mut Line<i32>) {
    let vector: i32x16<Avx512> = vector.simd_into(avx512);
    vector.store_slice(&mut line.0);
}

/// Products of `rows` rows of pairs with lines of pairs, `[pairs, LINES]`.
#[inline(always)]
fn multiply(
    avx512: Avx512,
    rows: usize,
    pairs: &[i32],
    lines: &[Line<i32>],
) -> [[i32x16<Avx512>; LINES]; ROWS] {
    let mut sums = [[i32x16::splat(avx512, 0); LINES]; ROWS];
    macro_rules! multiply {
        ($($rows:literal)*) => {
            match rows {
                $($rows => sums[..$rows].copy_from_slice(&multiply_rows::<$rows>(avx512, pairs, lines)),)*
                _ => {}
            }
        };
    }
    multiply!(1 2 3 4 5 6);
    sums
}

#[inline(always)]
fn multiply_rows<const R: usize>(
    avx512: Avx512,
    pairs: &[i32],
    lines: &[Line<i32>],
) -> [[i32x16<Avx512>; LINES]; R] {
    let lines = lines.as_chunks::<LINES>().0;
    let stride = pairs.len() / R;
    let mut rows = [&pairs[..lines.len()]; R];
    for row in 1..R {
        rows[row] = &pairs[row * stride..][..lines.len()];
    }
    let mut sums = [[i32x16::splat(avx512, 0); LINES]; R];
    for (index, lines) in lines.iter().enumerate() {
        for line in 0..LINES {
            let numbers = i32x16::from_slice(avx512, &lines[line].0);
            for row in 0..R {
                sums[row][line] =
                    dot(avx512, sums[row][line].into(), numbers.into(), rows[row][index]).simd_into(avx512);
            }
        }
    }
    sums
}

fearless_simd::kernel! {
    /// Adds to each sum the products of a pair with a pair.
    #[inline]
    fn dot(avx512: Avx512, sums: __m512i, numbers: __m512i, pair: i32) -> __m512i {
        _mm512_dpwssd_epi32(sums, numbers, _mm512_set1_epi32(pair))
    }
}

fearless_simd::kernel! {
    #[inline]
    fn narrow(avx512: Avx512, levels: __m512i) -> __m256i {
        _mm512_cvtepi32_epi16(levels)
    }
}

fearless_simd::kernel! {
    #[inline]
    fn swap_inner(avx512: Avx512, pairs: __m256i) -> __m256i {
        _mm256_shufflehi_epi16::<0b11_01_10_00>(_mm256_shufflelo_epi16::<0b11_01_10_00>(pairs))
    }
}

fearless_simd::kernel! {
    /// Of words of four bytes, the first with the third and the second with the fourth.
    #[inline]
    fn pairs_of_bytes(avx512: Avx512, words: __m512i) -> [__m512i; 2] {
        [_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(words)), _mm512_srai_epi16::<8>(words)]
    }
}

fearless_simd::kernel! {
    /// Each byte of a row with that of another. Two lines have the channels of 32: the first eight, then the third eight in one,
    /// the second and the fourth eight in the other.
    #[inline]
    fn pairs_of_rows(avx512: Avx512, first: __m512i, second: __m512i) -> [__m512i; 4] {
        let low = _mm512_unpacklo_epi8(first, second);
        let high = _mm512_unpackhi_epi8(first, second);
        let front = |pairs: __m512i| -> __m256i { _mm512_castsi512_si256(pairs) };
        let back = |pairs: __m512i| -> __m256i { _mm512_extracti64x4_epi64::<1>(pairs) };
        [
            _mm512_cvtepi8_epi16(front(low)),
            _mm512_cvtepi8_epi16(front(high)),
            _mm512_cvtepi8_epi16(back(low)),
            _mm512_cvtepi8_epi16(back(high)),
        ]
    }
}
