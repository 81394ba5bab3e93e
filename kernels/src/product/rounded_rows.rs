use std::arch::x86_64::{__m128i, __m512i, _mm_setr_epi8, _mm_shuffle_epi8, _mm512_cvtepi32_epi8};

use fearless_simd::{Avx512, SimdBase, SimdFloat, SimdInto, SimdMask, f32x16, i32x4, i32x16};

use crate::product::packed_weight::Packing;
use crate::product::weight::{Bits, MAX_BLOCK};

/// Levels that are rounded together.
const LANES: usize = 16;

/// Rows that are multiplied together.
pub(crate) const ROWS: usize = 6;

/// Rows of activations, rounded to 8 bits block by block: an activation is its level times its block's scale, which makes the
/// largest of a block 127.
///
/// What is read together stands together: of each tile of up to [`ROWS`] rows, level after level in words of four that meet the
/// same word of codes, all rows of a word behind one another.
#[derive(Debug, Default)]
pub(crate) struct RoundedRows {
    words: Vec<i32>,
    /// Of each block and row.
    scales: Vec<f32>,
    /// Of each block and row: what sums begin with, so that codes count from zero.
    starts: Vec<i32>,
}

/// A tile of [`RoundedRows`].
#[derive(Clone, Copy)]
pub(crate) struct RoundedTile<'a> {
    /// `[words of a row, rows]`.
    pub(crate) words: &'a [i32],
    /// `[blocks, rows]`.
    pub(crate) scales: &'a [f32],
    /// `[blocks, rows]`.
    pub(crate) starts: &'a [i32],
}

impl RoundedRows {
    /// Rounds `rows` `[rows, inputs]` for products with a weight of `packing`.
    #[inline(always)]
    pub(crate) fn fill(&mut self, avx512: Avx512, rows: &[f32], packing: Packing) {
        let count = rows.len() / packing.inputs;
        let (words, blocks) = (packing.padded_inputs() / 4, packing.blocks());
        self.words.resize(count * words, 0);
        self.scales.resize(count * blocks, 0.0);
        self.starts.resize(count * blocks, 0);
        let tiles = rows.chunks(ROWS * packing.inputs);
        let words = self.words.chunks_mut(ROWS * words);
        let scales = self.scales.chunks_mut(ROWS * blocks);
        let starts = self.starts.chunks_mut(ROWS * blocks);
        for (((rows, words), scales), starts) in tiles.zip(words).zip(scales).zip(starts) {
            let height = rows.len() / packing.inputs;
            for (row, values) in rows.chunks_exact(packing.inputs).enumerate() {
                for (block, values) in values.chunks(packing.block_size).enumerate() {
                    let mut filled = [0.0; MAX_BLOCK];
                    let values = match values.len() == packing.block_size {
                        true => values,
                        false => {
                            filled[..values.len()].copy_from_slice(values);
                            &filled[..packing.block_size]
                        }
                    };
                    let words = &mut words[block * packing.block_size / 4 * height + row..];
                    let (scale, sum) = round(avx512, values, words, height, packing.bits);
                    scales[block * height + row] = scale;
                    starts[block * height + row] = -packing.bits.zero() * sum;
                }
            }
        }
    }

    /// Tile `index` of rows that were rounded for `packing`.
    #[inline(always)]
    pub(crate) fn tile(&self, index: usize, packing: Packing) -> RoundedTile<'_> {
        let part = |length: usize, all: usize| index * length..((index + 1) * length).min(all);
        let words = part(ROWS * packing.padded_inputs() / 4, self.words.len());
        let blocks = part(ROWS * packing.blocks(), self.scales.len());
        RoundedTile {
            words: &self.words[words],
            scales: &self.scales[blocks.clone()],
            starts: &self.starts[blocks],
        }
    }
}

/// Rounds a block into every `stride`th word; gives its scale and the sum of its levels.
#[inline(always)]
fn round(avx512: Avx512, values: &[f32], words: &mut [i32], stride: usize, bits: Bits) -> (f32, i32) {
    let vectors = values.as_chunks::<LANES>().0;
    let mut largest = f32x16::splat(avx512, 0.0);
    let mut spoilt = largest.is_nan();
    for values in vectors {
        let values = f32x16::from_slice(avx512, values);
        largest = largest.max(values.abs());
        spoilt |= values.is_nan();
    }
    let scale = largest.reduce_max() / 127.0;
    let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
    let mut sums = i32x16::splat(avx512, 0);
    for (index, values) in vectors.iter().enumerate() {
        let levels = (f32x16::from_slice(avx512, values) * inverse).round_ties_even();
        let levels: i32x16<Avx512> = levels.to_int_precise();
        sums += levels;
        let levels: i32x4<Avx512> = pack(avx512, levels.into(), bits == Bits::Four).simd_into(avx512);
        match stride {
            1 => levels.store_slice(&mut words[4 * index..][..4]),
            _ => {
                for (word, levels) in levels.as_slice().iter().enumerate() {
                    words[(4 * index + word) * stride] = *levels;
                }
            }
        }
    }
    // What is no number is not lost in rounding.
    let scale = if spoilt.any_true() { f32::NAN } else { scale };
    (scale, sums.reduce_sum())
}

fearless_simd::kernel! {
    /// Sixteen levels in words of four. Words of codes of 4 bits meet levels in two steps: their low halves, then their high ones.
    #[inline]
    fn pack(avx512: Avx512, levels: __m512i, halves: bool) -> __m128i {
        let levels = _mm512_cvtepi32_epi8(levels);
        match halves {
            true => _mm_shuffle_epi8(levels, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15)),
            false => levels,
        }
    }
}
