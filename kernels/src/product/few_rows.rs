use std::arch::x86_64::{
    __m128, __m128i, __m512, __m512i, _mm512_castps128_ps512, _mm512_castsi128_si512, _mm512_dpbusd_epi32,
    _mm512_permutexvar_epi32, _mm512_permutexvar_ps,
};
use std::ops::Range;

use fearless_simd::{
    Avx512, SimdBase, SimdFloat, SimdInt, SimdInto, f32x4, f32x16, i32x4, i32x16, u8x64, u32x16,
};

use crate::lines::{Line, fetch};
use crate::product::rounded_rows::RoundedRows;
use crate::product::steps::{BYTES, LANES, SCALES, Steps, WORD};
use crate::product::weight::{Bits, BlockWeight};

/// Outputs that are read together.
const OUTPUTS: usize = 4;

/// Rows that are multiplied together.
const ROWS: usize = 4;

/// Memory is asked for what comes so many bytes later.
const AHEAD: usize = 6144;

/// The same of scales, in those of a vector of codes.
const AHEAD_SCALES: usize = AHEAD / BYTES;

/// A few rows of activations in the order in which they meet codes, vector by vector.
#[derive(Debug, Default)]
pub(crate) struct FewRows {
    row: RoundedRows,
    /// Of all weights so far, which are of few kinds; those of the last come first.
    steps: Vec<Steps>,
    /// `[rows, steps, codes in a byte]`.
    levels: Vec<Line<i32>>,
    /// `[rows, steps]`: what sums begin with, so that codes count from zero.
    starts: Vec<Line<i32>>,
    /// `[rows, steps]`.
    scales: Vec<Line<f32>>,
}

impl FewRows {
    /// Rounds `rows` for products with `weight`.
    #[inline(always)]
    pub(crate) fn fill(&mut self, avx512: Avx512, rows: &[f32], weight: &BlockWeight<'_>) {
        match self.steps.iter().position(|steps| steps.are_of(weight)) {
            Some(place) => self.steps.swap(0, place),
            None => self.steps.insert(0, Steps::of(weight)),
        }
        let steps = &self.steps[0].steps;
        let halves = weight.bits.codes_in_byte();
        let vectors = rows.len() / weight.inputs * steps.len();
        self.levels.resize(vectors * halves, Line::default());
        self.starts.resize(vectors, Line::default());
        self.scales.resize(vectors, Line::default());
        for (index, row) in rows.chunks_exact(weight.inputs).enumerate() {
            self.row.fill(avx512, row, weight);
            let rounded = self.row.tile(0, weight);
            let vectors = index * steps.len()..(index + 1) * steps.len();
            let levels = &mut self.levels[vectors.start * halves..vectors.end * halves];
            let (starts, scales) = (&mut self.starts[vectors.clone()], &mut self.scales[vectors]);
            let lines = levels.chunks_exact_mut(halves).zip(starts).zip(scales);
            for (step, ((levels, starts), scales)) in steps.iter().zip(lines) {
                let words = &rounded.words[step.start / WORD * halves..][..LANES * halves];
                take_words(avx512, words, levels);
                let scale_of = u32x16::from_slice(avx512, &step.scale_of.0);
                let blocks = step.scale..step.scale + SCALES;
                let scale = f32x4::from_slice(avx512, &rounded.scales[blocks.clone()]);
                let scale: f32x16<Avx512> = spread(avx512, scale.into(), scale_of.into()).simd_into(avx512);
                (scale * f32x16::from_slice(avx512, &step.counts.0)).store_slice(&mut scales.0);
                let start = i32x4::from_slice(avx512, &rounded.starts[blocks]);
                let start = spread_integers(avx512, start.into(), scale_of.into()).simd_into(avx512);
                let start: i32x16<Avx512> = start;
                (start & i32x16::from_slice(avx512, &step.begins.0)).store_slice(&mut starts.0);
            }
        }
    }

    /// Products with `outputs` of `weight`, `[rows, outputs]`.
    #[inline(always)]
    pub(crate) fn multiply(
        &self,
        avx512: Avx512,
        weight: &BlockWeight<'_>,
        outputs: Range<usize>,
        out: &mut [f32],
    ) {
        let width = outputs.len();
        let rows = out.len() / width;
        for first in outputs.clone().step_by(OUTPUTS) {
            let column = first - outputs.start;
            for row in (0..rows).step_by(ROWS) {
                macro_rules! multiply {
                    ($(($rows:literal, $bits:ident, $halves:literal))*) => {
                        match ((rows - row).min(ROWS), weight.bits) {
                            $(($rows, Bits::$bits) => {
                                let products = self.products::<$rows, $halves>(avx512, weight, first, row);
                                for (index, products) in products.iter().enumerate() {
                                    let out = &mut out[(row + index) * width..][column..width];
                                    let count = out.len().min(OUTPUTS);
                                    out[..count].copy_from_slice(&products[..count]);
                                }
                            })*
                            _ => {}
                        }
                    };
                }
                multiply! {
                    (1, Four, 2)(2, Four, 2)(3, Four, 2)(4, Four, 2)
                    (1, Eight, 1)(2, Eight, 1)(3, Eight, 1)(4, Eight, 1)
                }
            }
        }
    }

    /// Products of `R` rows from `row` on with four outputs from `first` on, of `H` codes in a byte.
    #[inline(always)]
    fn products<const R: usize, const H: usize>(
        &self,
        avx512: Avx512,
        weight: &BlockWeight<'_>,
        first: usize,
        row: usize,
    ) -> [[f32; OUTPUTS]; R] {
        // Cut to lengths that are the same number, so that one look at them does for all outputs.
        let (bytes, blocks) = (weight.row_bytes(), weight.blocks());
        let (mut codes, mut scales) = ([&[][..]; OUTPUTS], [&[][..]; OUTPUTS]);
        for lane in 0..OUTPUTS {
            let output = (first + lane).min(weight.outputs - 1);
            (codes[lane], scales[lane]) =
                (&weight.row(output)[..bytes], &weight.row_scales(output)[..blocks]);
        }
        let later = weight.codes_from(first).get(AHEAD..).unwrap_or_default();
        let later = later.as_chunks::<{ OUTPUTS * BYTES }>().0;
        let later_scales = weight.scales_from(first);
        let steps = &self.steps[0].steps;
        let count = steps.len();
        let scales_each = weight.blocks().div_ceil(count);
        let mut levels = [&self.levels.as_chunks::<H>().0[..0]; R];
        let mut starts = [&self.starts[..0]; R];
        let mut row_scales = [&self.scales[..0]; R];
        for r in 0..R {
            let steps = (row + r) * count..(row + r + 1) * count;
            levels[r] = &self.levels.as_chunks::<H>().0[steps.clone()];
            starts[r] = &self.starts[steps.clone()];
            row_scales[r] = &self.scales[steps];
        }
        let mut totals = [[f32x16::splat(avx512, 0.0); OUTPUTS]; R];
        for (index, step) in steps.iter().enumerate() {
            if let Some(scale) = later_scales.get((AHEAD_SCALES + index * OUTPUTS) * scales_each) {
                fetch(avx512, scale);
            }
            let scale_of = u32x16::from_slice(avx512, &step.scale_of.0);
            if let Some(lines) = later.get(index) {
                for line in lines.as_chunks::<BYTES>().0 {
                    fetch(avx512, line);
                }
            }
            for lane in 0..OUTPUTS {
                let codes = u8x64::from_slice(avx512, &codes[lane][step.start..][..BYTES]);
                let scale = f32x4::from_slice(avx512, &scales[lane][step.scale..][..SCALES]);
                let scale: f32x16<Avx512> = spread(avx512, scale.into(), scale_of.into()).simd_into(avx512);
                for r in 0..R {
                    let mut sum = i32x16::from_slice(avx512, &starts[r][index].0);
                    for half in 0..H {
                        let codes = match H {
                            1 => codes.into(),
                            _ => half_of(avx512, codes.into(), half as u32),
                        };
                        let levels = i32x16::from_slice(avx512, &levels[r][index][half].0);
                        sum = dot(avx512, sum.into(), codes, levels.into()).simd_into(avx512);
                    }
                    let sum: f32x16<Avx512> = sum.to_float();
                    let scale = scale * f32x16::from_slice(avx512, &row_scales[r][index].0);
                    totals[r][lane] = sum.mul_add(scale, totals[r][lane]);
                }
            }
        }
        let mut products = [[0.0; OUTPUTS]; R];
        for r in 0..R {
            for lane in 0..OUTPUTS {
                products[r][lane] = totals[r][lane].reduce_sum();
            }
        }
        products
    }
}

/// Words of levels as they meet codes: those of low halves, and where there are such, those of high halves.
#[inline(always)]
fn take_words(avx512: Avx512, words: &[i32], levels: &mut [Line<i32>]) {
    match levels {
        [low, high] => {
            let (first, second) = words.split_at(LANES);
            let [first, second] = [first, second].map(|words| i32x16::from_slice(avx512, words));
            let (lows, highs) = first.deinterleave(second);
            lows.store_slice(&mut low.0);
            highs.store_slice(&mut high.0);
        }
        [all] => all.0.copy_from_slice(words),
        _ => {}
    }
}

#[inline(always)]
fn half_of(avx512: Avx512, codes: __m512i, half: u32) -> __m512i {
    let codes: u32x16<Avx512> = codes.simd_into(avx512);
    ((codes >> (4 * half)) & 0x0f0f_0f0f).into()
}

fearless_simd::kernel! {
    /// Adds to each sum the products of four codes with four levels.
    #[inline]
    fn dot(avx512: Avx512, sums: __m512i, codes: __m512i, levels: __m512i) -> __m512i {
        _mm512_dpbusd_epi32(sums, codes, levels)
    }
}

fearless_simd::kernel! {
    /// Gives each of sixteen places one of four numbers.
    #[inline]
    fn spread_integers(avx512: Avx512, numbers: __m128i, places: __m512i) -> __m512i {
        _mm512_permutexvar_epi32(places, _mm512_castsi128_si512(numbers))
    }
}

fearless_simd::kernel! {
    /// Gives each of sixteen places one of four scales.
    #[inline]
    fn spread(avx512: Avx512, scales: __m128, places: __m512i) -> __m512 {
        _mm512_permutexvar_ps(places, _mm512_castps128_ps512(scales))
    }
}
