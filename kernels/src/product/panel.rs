use std::array;

use fearless_simd::{Avx512, f32x16};

use crate::lines::{LANES, Line, WORD, fetch, load, load_words, turn};
use crate::product::weight::BlockWeight;

/// Outputs of a panel.
pub(crate) const OUTPUTS: usize = LANES;

/// Memory is asked for what comes so many outputs later.
const AHEAD: usize = 4 * OUTPUTS;

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
