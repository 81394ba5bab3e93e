use fearless_simd::{Level, Simd, SimdBase, SimdFloat, dispatch, f32x16};

use crate::{Bits, BlockScheme};

/// Weights whose errors are summed side by side, whatever vectors a processor has: so sums are the same on all.
const LANES: usize = 16;

/// Factors of the plain scale that are tried: a smaller scale clips the largest weights and rounds the others less.
const CANDIDATES: i32 = 36;
const SMALLEST: f32 = 0.65;
const LARGEST: f32 = 1.2;

/// The scale at which the weight of largest magnitude is the lowest level exactly, so that the side with one level more is
/// the one that needs it. Negative where that weight is positive; 0 for a block of zeros.
///
/// Where it must be positive, the largest weight is the lowest level or its opposite.
pub(crate) fn plain_scale(block: &[f32], scheme: BlockScheme) -> f32 {
    let offset = scheme.bits.offset() as f32;
    let largest = block
        .iter()
        .copied()
        .fold(0.0, |most: f32, w| if w.abs() > most.abs() { w } else { most });
    scheme.stored(match scheme.positive {
        true => largest.abs() / (offset - 1.0),
        false => largest / -offset,
    })
}

/// The scale of least squared error, each weight's counted `importance` times: the plain one, or one of its multiples of
/// either sign.
pub(crate) fn best_scale(block: &[f32], importance: &[f32], scheme: BlockScheme) -> f32 {
    let plain = plain_scale(block, scheme);
    let (block, importance) = (lines(block), lines(importance));
    dispatch!(Level::new(), simd => search(simd, &block, &importance, scheme, plain))
}

/// Numbers in lines, the last of them filled with zeros, which have no error.
fn lines(numbers: &[f32]) -> Vec<[f32; LANES]> {
    let mut lines = vec![[0.0; LANES]; numbers.len().div_ceil(LANES)];
    lines.as_flattened_mut()[..numbers.len()].copy_from_slice(numbers);
    lines
}

#[inline(always)]
fn search<S: Simd>(
    simd: S,
    block: &[[f32; LANES]],
    importance: &[[f32; LANES]],
    scheme: BlockScheme,
    plain: f32,
) -> f32 {
    let step = (LARGEST - SMALLEST) / (CANDIDATES - 1) as f32;
    let (mut best, mut least) = (plain, squared_error(simd, block, importance, scheme.bits, plain));
    for candidate in 0..CANDIDATES {
        let factor = SMALLEST + step * candidate as f32;
        for scale in [plain * factor, -plain * factor] {
            let scale = scheme.stored(scale);
            if scheme.positive && scale < 0.0 {
                continue;
            }
            let error = squared_error(simd, block, importance, scheme.bits, scale);
            if error < least {
                (best, least) = (scale, error);
            }
        }
    }
    best
}

#[inline(always)]
fn squared_error<S: Simd>(
    simd: S,
    block: &[[f32; LANES]],
    importance: &[[f32; LANES]],
    bits: Bits,
    scale: f32,
) -> f32 {
    let inverse = inverse(scale);
    let offset = bits.offset() as f32;
    let mut sums = f32x16::splat(simd, 0.0);
    for (weights, importance) in block.iter().zip(importance) {
        let weights = f32x16::from_slice(simd, weights);
        // Halves are rounded to even here, which no choice depends on and vector units can do.
        let levels = (weights * inverse).round_ties_even();
        let errors = levels.max(-offset).min(offset - 1.0) * scale - weights;
        sums += errors * errors * f32x16::from_slice(simd, importance);
    }
    sums.reduce_sum()
}

/// What weights are multiplied by to become levels; 0 where all weights are 0.
pub(crate) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: BlockScheme = BlockScheme {
        bits: Bits::Four,
        block_size: 32,
        positive: false,
        half_scales: false,
    };

    fn error_of(block: &[f32], importance: &[f32], bits: Bits, scale: f32) -> f32 {
        dispatch!(Level::new(), simd => squared_error(simd, &lines(block), &lines(importance), bits, scale))
    }

    #[test]
    fn errors_are_those_of_weights_one_by_one() {
        let numbers = |step: usize| (0..61).map(move |i| ((i * step % 23) as f32 - 11.0) * 0.17);
        let (block, importance): (Vec<f32>, Vec<f32>) =
            (numbers(37).collect(), numbers(5).map(f32::abs).collect());
        for (bits, lowest, highest) in [(Bits::Four, -8.0, 7.0), (Bits::Eight, -128.0, 127.0)] {
            for (length, scale) in [(61, 0.21), (48, -0.13), (7, 0.0)] {
                let errors = block[..length].iter().zip(&importance).map(|(w, times)| {
                    let level = (w * inverse(scale)).round_ties_even().clamp(lowest, highest);
                    f64::from(level * scale - w).powi(2) * f64::from(*times)
                });
                let (expected, got) = (
                    errors.sum::<f64>(),
                    error_of(&block[..length], &importance[..length], bits, scale),
                );
                assert!(
                    (f64::from(got) - expected).abs() < 1e-5 * expected,
                    "{got} instead of {expected}"
                );
            }
        }
    }

    #[test]
    fn the_largest_weight_is_the_lowest_level() {
        let scale = plain_scale(&[0.5, -2.0, 1.0], FOUR);
        assert_eq!(scale, 0.25);
        assert_eq!(Bits::Four.level(-2.0 * inverse(scale)), -8);
        assert_eq!(plain_scale(&[0.5, 2.0], FOUR), -0.25);
        assert_eq!(plain_scale(&[0.0; 4], FOUR), 0.0);
    }

    #[test]
    fn an_outlier_of_no_importance_is_clipped() {
        let block = [0.55, -0.36, 0.27, 1.0];
        let importance = [1.0, 1.0, 1.0, 0.0];
        let plain = plain_scale(&block, FOUR);
        let best = best_scale(&block, &importance, FOUR);
        let error = |scale| error_of(&block, &importance, Bits::Four, scale);
        assert!(best.abs() < plain.abs() && error(best) < error(plain));
    }

    #[test]
    fn the_best_scale_is_never_worse_than_the_plain_one() {
        let block: Vec<f32> = (0..32).map(|i| ((i * 37 % 19) as f32 - 9.0) * 0.1).collect();
        let importance = vec![1.0; 32];
        let error = |scale| error_of(&block, &importance, Bits::Four, scale);
        assert!(error(best_scale(&block, &importance, FOUR)) <= error(plain_scale(&block, FOUR)));
    }

    #[test]
    fn scales_that_must_be_positive_are() {
        let scheme = BlockScheme {
            positive: true,
            ..FOUR
        };
        for block in [[0.5, -2.0, 1.0], [-0.5, 2.0, -1.0]] {
            assert_eq!(plain_scale(&block, scheme), 2.0 / 7.0);
            assert!(best_scale(&block, &[1.0; 3], scheme) > 0.0);
        }
    }

    #[test]
    fn weights_are_rounded_by_the_scale_that_is_stored() {
        let scheme = BlockScheme {
            half_scales: true,
            ..FOUR
        };
        let block: Vec<f32> = (0..32).map(|i| ((i * 37 % 19) as f32 - 9.0) * 0.1).collect();
        for scale in [
            plain_scale(&block, scheme),
            best_scale(&block, &[1.0; 32], scheme),
        ] {
            assert_eq!(scale, scheme.stored(scale));
            assert_ne!(scale, 0.0);
        }
    }
}
