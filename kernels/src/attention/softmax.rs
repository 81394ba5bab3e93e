use fearless_simd::{Simd, SimdBase};

use crate::attention::exponential::fast_exp;

/// Lanes of the widest vector.
const LANES: usize = 16;

/// The softmax of a row of scores that come tile by tile.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunningSoftmax {
    /// The largest score so far.
    pub(crate) largest: f32,
    /// Sums of exponentials of scores less the largest, one for each lane that a vector may have.
    sums: [f32; LANES],
}

impl RunningSoftmax {
    pub(crate) const EMPTY: Self = Self {
        largest: f32::NEG_INFINITY,
        sums: [0.0; LANES],
    };

    /// Sum of exponentials of all scores less the largest.
    pub(crate) fn sum(&self) -> f32 {
        self.sums.iter().sum()
    }

    /// Turns `scores`, whose length is a multiple of 16, into weights; the first `visible` of them count and the others
    /// become 0. Returns what everything that was weighed before is to be multiplied by.
    #[inline(always)]
    pub(crate) fn weigh<S: Simd>(&mut self, simd: S, scores: &mut [f32], visible: usize) -> f32 {
        if visible < scores.len() {
            scores[visible..].fill(f32::NEG_INFINITY);
        }
        let largest = self.largest.max(largest(simd, scores));
        if largest == f32::NEG_INFINITY {
            scores.fill(0.0);
            return 1.0;
        }
        for score in scores.iter_mut() {
            *score = fast_exp(*score - largest);
        }
        // The exponential of nothing is a tiny number.
        if visible < scores.len() {
            scores[visible..].fill(0.0);
        }
        let factor = match self.largest {
            f32::NEG_INFINITY => 0.0,
            // As it is most of the time.
            same if same == largest => 1.0,
            smaller => fast_exp(smaller - largest),
        };
        add_up(simd, &mut self.sums, scores, factor);
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

/// Adds `values` to `sums` times `factor`, lane by lane: a sum over lanes would be waited for in every tile.
#[inline(always)]
fn add_up<S: Simd>(simd: S, sums: &mut [f32; LANES], values: &[f32], factor: f32) {
    for (lanes, sums) in sums.chunks_exact_mut(S::f32s::LEN).enumerate() {
        let mut sum = S::f32s::from_slice(simd, sums) * factor;
        for values in values.chunks_exact(LANES) {
            sum += S::f32s::from_slice(simd, &values[lanes * S::f32s::LEN..][..S::f32s::LEN]);
        }
        sum.store_slice(sums);
    }
}
