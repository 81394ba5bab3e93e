use fearless_simd::{Simd, SimdBase};

use crate::attention::exponential::fast_exp;

/// The softmax of a row of scores that come tile by tile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunningSoftmax {
    /// The largest score so far.
    pub(crate) largest: f32,
    /// Sum of exponentials of scores less the largest.
    pub(crate) sum: f32,
}

impl RunningSoftmax {
    pub(crate) const EMPTY: Self = Self {
        largest: f32::NEG_INFINITY,
        sum: 0.0,
    };

    /// Turns `scores`, whose length is a multiple of the lanes, into weights; the first `visible` of them count and the others
    /// become 0. Returns what everything that was weighed before is to be multiplied by.
    #[inline(always)]
    pub(crate) fn weigh<S: Simd>(&mut self, simd: S, scores: &mut [f32], visible: usize) -> f32 {
        scores[visible..].fill(f32::NEG_INFINITY);
        let largest = self.largest.max(largest(simd, scores));
        if largest == f32::NEG_INFINITY {
            scores.fill(0.0);
            return 1.0;
        }
        for score in scores.iter_mut() {
            *score = fast_exp(*score - largest);
        }
        // The exponential of nothing is a tiny number.
        scores[visible..].fill(0.0);
        let factor = match self.largest {
            f32::NEG_INFINITY => 0.0,
            // As it is most of the time.
            same if same == largest => 1.0,
            smaller => fast_exp(smaller - largest),
        };
        self.sum = self.sum * factor + sum(simd, scores);
        self.largest = largest;
        factor
    }
}

#[inline(always)]
fn largest<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let mut largest = S::f32s::splat(simd, f32::NEG_INFINITY);
    for values in values.chunks_exact(S::f32s::LEN) {
        largest = largest.max(S::f32s::from_slice(simd, values));
    }
    largest.reduce_max()
}

#[inline(always)]
fn sum<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let mut sum = S::f32s::splat(simd, 0.0);
    for values in values.chunks_exact(S::f32s::LEN) {
        sum += S::f32s::from_slice(simd, values);
    }
    sum.reduce_sum()
}
