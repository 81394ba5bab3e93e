use std::arch::x86_64::{
    __m512, __m512i, _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtph_ps, _mm512_dpbusd_epi32,
    _mm512_extracti64x4_epi64, _mm512_set1_epi32,
};

use fearless_simd::{Avx512, SimdBase, SimdFloat, SimdInt, SimdInto, f32x16, i32x16, u32x16};

use crate::lines::fetch;
use crate::product::packed_weight::{LANES, PANELS, PackedWeight};
use crate::product::rounded_rows::RoundedTile;
use crate::product::weight::Bits;

/// Memory is asked for what comes so many lines later.
const AHEAD: usize = 96;

fearless_simd::kernel! {
    /// Adds to each sum the products of four codes with four levels.
    #[inline]
    fn dot_kernel(avx512: Avx512, sums: __m512i, codes: __m512i, levels: i32) -> __m512i {
        _mm512_dpbusd_epi32(sums, codes, _mm512_set1_epi32(levels))
    }
}

fearless_simd::kernel! {
    /// Scales of two panels, of 16 bits.
    #[inline]
    fn halves_to_floats(avx512: Avx512, halves: __m512i) -> [__m512; 2] {
        [
            _mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
            _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves)),
        ]
    }
}

fearless_simd::kernel! {
    #[inline]
    fn bits_to_floats(avx512: Avx512, bits: __m512i) -> __m512 {
        _mm512_castsi512_ps(bits)
    }
}

#[inline(always)]
fn dot(avx512: Avx512, sums: i32x16<Avx512>, codes: u32x16<Avx512>, levels: i32) -> i32x16<Avx512> {
    dot_kernel(avx512, sums.into(), codes.into(), levels).simd_into(avx512)
}

/// Products of the `R` rows of a tile with a group of outputs.
#[inline(always)]
pub(crate) fn multiply<const R: usize>(
    avx512: Avx512,
    tile: RoundedTile<'_>,
    weight: &PackedWeight<'_>,
    group: usize,
) -> [[f32x16<Avx512>; PANELS]; R] {
    match (weight.packing.bits, weight.packing.half_scales) {
        (Bits::Four, true) => multiply_codes::<R, 2, 1>(avx512, tile, weight, group),
        (Bits::Four, false) => multiply_codes::<R, 2, 2>(avx512, tile, weight, group),
        (Bits::Eight, true) => multiply_codes::<R, 1, 1>(avx512, tile, weight, group),
        (Bits::Eight, false) => multiply_codes::<R, 1, 2>(avx512, tile, weight, group),
    }
}

/// [`multiply`] for `H` codes in a byte and `S` lines of scales.
#[expect(
    clippy::needless_range_loop,
    reason = "the same indices walk through sums and what is summed"
)]
#[inline(always)]
fn multiply_codes<const R: usize, const H: usize, const S: usize>(
    avx512: Avx512,
    tile: RoundedTile<'_>,
    weight: &PackedWeight<'_>,
    group: usize,
) -> [[f32x16<Avx512>; PANELS]; R] {
    let scales = tile.scales.as_chunks::<R>().0;
    let starts = tile.starts.as_chunks::<R>().0;
    let words = tile.words.as_chunks::<R>().0.as_chunks::<H>().0;
    let block_words = words.len() / scales.len();
    let lines = weight.lines(group);
    let block_lines = S + block_words * PANELS;
    let later = weight.lines_from(group).get(AHEAD..).unwrap_or_default();
    let mut totals = [[f32x16::splat(avx512, 0.0); PANELS]; R];
    for (block, lines) in lines.chunks_exact(block_lines).enumerate() {
        let (of_codes, codes) = lines.split_at(S);
        let later = later.get(block * block_lines..).unwrap_or_default();
        if let Some(line) = later.first() {
            fetch(avx512, line);
        }
        let later = later.get(S..).unwrap_or_default().as_chunks::<PANELS>().0;
        let mut sums = [[i32x16::splat(avx512, 0); PANELS]; R];
        for row in 0..R {
            sums[row] = [i32x16::splat(avx512, starts[block][row]); PANELS];
        }
        let words = &words[block * block_words..][..block_words];
        for (index, (codes, words)) in codes.as_chunks::<PANELS>().0.iter().zip(words).enumerate() {
            if let Some(lines) = later.get(index) {
                for line in lines {
                    fetch(avx512, line);
                }
            }
            for panel in 0..PANELS {
                let codes = u32x16::from_slice(avx512, &codes[panel]);
                for half in 0..H {
                    let codes = match H {
                        1 => codes,
                        _ => (codes >> (4 * half as u32)) & 0x0f0f_0f0f,
                    };
                    for row in 0..R {
                        sums[row][panel] = dot(avx512, sums[row][panel], codes, words[half][row]);
                    }
                }
            }
        }
        let of_codes = floats::<S>(avx512, of_codes);
        for panel in 0..PANELS {
            for row in 0..R {
                let scale = of_codes[panel] * scales[block][row];
                let sum: f32x16<Avx512> = sums[row][panel].to_float();
                totals[row][panel] = sum.mul_add(scale, totals[row][panel]);
            }
        }
    }
    totals
}

/// The scales of a block, of `S` lines.
#[inline(always)]
fn floats<const S: usize>(avx512: Avx512, lines: &[[u32; LANES]]) -> [f32x16<Avx512>; PANELS] {
    let mut floats = [f32x16::splat(avx512, 0.0); PANELS];
    let first = u32x16::from_slice(avx512, &lines[0]);
    match S {
        1 => {
            let [low, high] = halves_to_floats(avx512, first.into());
            floats = [low.simd_into(avx512), high.simd_into(avx512)];
        }
        _ => {
            for panel in 0..PANELS {
                let bits = u32x16::from_slice(avx512, &lines[panel]);
                floats[panel] = bits_to_floats(avx512, bits.into()).simd_into(avx512);
            }
        }
    }
    floats
}
