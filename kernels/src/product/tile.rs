use std::arch::x86_64::{__m512i, _mm512_dpbusd_epi32, _mm512_set1_epi32};

use fearless_simd::{Avx512, SimdBase, SimdFloat, SimdInt, SimdInto, f32x16, i32x16, u32x16};

use crate::product::panel::Panel;
use crate::product::rounded_rows::RoundedTile;
use crate::product::weight::Bits;

fearless_simd::kernel! {
    /// Adds to each sum the products of four codes with four levels.
    #[inline]
    fn dot_kernel(avx512: Avx512, sums: __m512i, codes: __m512i, levels: i32) -> __m512i {
        _mm512_dpbusd_epi32(sums, codes, _mm512_set1_epi32(levels))
    }
}

#[inline(always)]
fn dot(avx512: Avx512, sums: i32x16<Avx512>, codes: u32x16<Avx512>, levels: i32) -> i32x16<Avx512> {
    dot_kernel(avx512, sums.into(), codes.into(), levels).simd_into(avx512)
}

/// Products of the `R` rows of a tile with the outputs of `P` panels.
#[inline(always)]
pub(crate) fn multiply<const R: usize, const P: usize>(
    avx512: Avx512,
    bits: Bits,
    tile: RoundedTile<'_>,
    panels: &[Panel; P],
) -> [[f32x16<Avx512>; P]; R] {
    match bits {
        Bits::Four => multiply_codes::<R, P, 2>(avx512, tile, panels),
        Bits::Eight => multiply_codes::<R, P, 1>(avx512, tile, panels),
    }
}

/// [`multiply`] for `H` codes in a byte.
#[expect(
    clippy::needless_range_loop,
    reason = "the same indices walk through sums and what is summed"
)]
#[inline(always)]
fn multiply_codes<const R: usize, const P: usize, const H: usize>(
    avx512: Avx512,
    tile: RoundedTile<'_>,
    panels: &[Panel; P],
) -> [[f32x16<Avx512>; P]; R] {
    let scales = tile.scales.as_chunks::<R>().0;
    let starts = tile.starts.as_chunks::<R>().0;
    let words = tile.words.as_chunks::<R>().0;
    let blocks = scales.len();
    let block_words = words.len() / blocks;
    let block_lines = block_words / H;
    let mut totals = [[f32x16::splat(avx512, 0.0); P]; R];
    for block in 0..blocks {
        let mut sums = [[i32x16::splat(avx512, 0); P]; R];
        for row in 0..R {
            sums[row] = [i32x16::splat(avx512, starts[block][row]); P];
        }
        let words = words[block * block_words..][..block_words].as_chunks::<H>().0;
        let mut lines = [&panels[0].codes[..]; P];
        for panel in 0..P {
            lines[panel] = &panels[panel].codes[block * block_lines..][..block_lines];
        }
        for line in 0..block_lines {
            let words = &words[line];
            for panel in 0..P {
                let codes = u32x16::from_slice(avx512, &lines[panel][line].0);
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
        for panel in 0..P {
            let of_codes = f32x16::from_slice(avx512, &panels[panel].scales[block].0);
            for row in 0..R {
                let scale = of_codes * scales[block][row];
                let sum: f32x16<Avx512> = sums[row][panel].to_float();
                totals[row][panel] = sum.mul_add(scale, totals[row][panel]);
            }
        }
    }
    totals
}
