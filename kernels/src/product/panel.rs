use std::arch::x86_64::{__m512i, _MM_HINT_T0, _mm_prefetch};
use std::array;

use fearless_simd::{Avx512, SimdBase, SimdInto, f32x16, u8x64, u32x16};

use crate::product::weight::BlockWeight;

/// Outputs of a panel: the lanes of a vector.
pub(crate) const OUTPUTS: usize = 16;

/// Memory is asked for what comes so many outputs later.
const AHEAD: usize = 4 * OUTPUTS;

/// Bytes of a word.
const WORD: usize = 4;

/// A word of four bytes, or a number, of each output.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
pub(crate) struct Line<T>(pub(crate) [T; OUTPUTS]);

/// Sixteen outputs of a weight, turned over: what is multiplied with the same activations lies side by side.
#[derive(Debug, Default)]
pub(crate) struct Panel {
    /// `[words of an output, outputs]`, with some of no meaning behind them.
    pub(crate) codes: Vec<Line<u32>>,
    /// `[blocks, outputs]`, likewise.
    pub(crate) scales: Vec<Line<f32>>,
}

impl Panel {
    /// Takes the outputs from `first` on; those behind the last of the weight are the last again.
    #[inline(always)]
    pub(crate) fn fill(&mut self, avx512: Avx512, weight: &BlockWeight<'_>, first: usize) {
        let output = |lane: usize| (first + lane).min(weight.outputs - 1);
        let codes: [&[u8]; OUTPUTS] = array::from_fn(|lane| weight.row(output(lane)));
        let later = weight.codes_from(first + AHEAD);
        let words = codes[0].len() / WORD;
        turn(&mut self.codes, words, |lane, start| {
            let bytes = start * WORD..((start + OUTPUTS) * WORD).min(codes[lane].len());
            if let Some(byte) = later.get(start * WORD * OUTPUTS + lane * 64) {
                fetch(avx512, byte);
            }
            load_words(avx512, &codes[lane][bytes])
        });
        let scales: [&[f32]; OUTPUTS] = array::from_fn(|lane| weight.row_scales(output(lane)));
        turn(&mut self.scales, weight.blocks(), |lane, start| {
            let end = (start + OUTPUTS).min(scales[lane].len());
            load::<f32x16<Avx512>>(avx512, &scales[lane][start..end])
        });
    }
}

fearless_simd::kernel! {
    #[inline]
    fn fetch_line(avx512: Avx512, line: *const i8) {
        _mm_prefetch::<_MM_HINT_T0>(line);
    }
}

/// Lets the cache line of `element` be read, which will be wanted.
#[inline(always)]
pub(crate) fn fetch<T>(avx512: Avx512, element: &T) {
    fetch_line(avx512, std::ptr::from_ref(element).cast());
}

/// Turns rows of `length` over. `load` gives sixteen elements of a row.
#[inline(always)]
fn turn<V, T>(lines: &mut Vec<Line<T>>, length: usize, load: impl Fn(usize, usize) -> V)
where
    V: SimdBase<Avx512, Element = T>,
    T: Copy + Default,
{
    lines.resize(length.max(OUTPUTS), Line::default());
    for start in (0..length).step_by(OUTPUTS) {
        // The last vector takes some again rather than reach beyond the end.
        let start = start.min(length.saturating_sub(OUTPUTS));
        let mut vectors: [V; OUTPUTS] = array::from_fn(
            #[inline(always)]
            |lane| load(lane, start),
        );
        // Four perfect shuffles of sixteen rows are their transpose.
        for _ in 0..4 {
            let before = vectors;
            for pair in 0..OUTPUTS / 2 {
                let (low, high) = before[pair].interleave(before[pair + OUTPUTS / 2]);
                (vectors[2 * pair], vectors[2 * pair + 1]) = (low, high);
            }
        }
        for (line, vector) in lines[start..].iter_mut().zip(vectors) {
            vector.store_slice(&mut line.0);
        }
    }
}

/// Sixteen elements, or fewer with zeros behind them.
#[inline(always)]
fn load<V>(avx512: Avx512, elements: &[V::Element]) -> V
where
    V: SimdBase<Avx512>,
    V::Element: Copy + Default,
{
    match elements.len() == V::LEN {
        true => V::from_slice(avx512, elements),
        false => {
            let mut vector = V::splat(avx512, V::Element::default());
            vector.as_mut_slice()[..elements.len()].copy_from_slice(elements);
            vector
        }
    }
}

#[inline(always)]
fn load_words(avx512: Avx512, bytes: &[u8]) -> u32x16<Avx512> {
    let bytes: __m512i = load::<u8x64<Avx512>>(avx512, bytes).into();
    bytes.simd_into(avx512)
}
