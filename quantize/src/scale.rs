use crate::{Bits, BlockScheme};

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
    let (plain, bits) = (plain_scale(block, scheme), scheme.bits);
    let step = (LARGEST - SMALLEST) / (CANDIDATES - 1) as f32;
    let factors = (0..CANDIDATES).map(|i| SMALLEST + step * i as f32);
    let candidates = factors.flat_map(|factor| [plain * factor, -plain * factor]);
    let (mut best, mut least) = (plain, squared_error(block, importance, bits, plain));
    let candidates = candidates.map(|scale| scheme.stored(scale));
    for scale in candidates.filter(|scale| !scheme.positive || *scale >= 0.0) {
        let error = squared_error(block, importance, bits, scale);
        if error < least {
            (best, least) = (scale, error);
        }
    }
    best
}

fn squared_error(block: &[f32], importance: &[f32], bits: Bits, scale: f32) -> f32 {
    let inverse = inverse(scale);
    let offset = bits.offset() as f32;
    // Halves are rounded to even here, which no choice depends on and vector units can do.
    let error = |w: &f32| (w * inverse).round_ties_even().clamp(-offset, offset - 1.0) * scale - w;
    block
        .iter()
        .zip(importance)
        .map(|(w, weight)| error(w) * error(w) * weight)
        .sum()
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
        let error = |scale| squared_error(&block, &importance, Bits::Four, scale);
        assert!(best.abs() < plain.abs() && error(best) < error(plain));
    }

    #[test]
    fn the_best_scale_is_never_worse_than_the_plain_one() {
        let block: Vec<f32> = (0..32).map(|i| ((i * 37 % 19) as f32 - 9.0) * 0.1).collect();
        let importance = vec![1.0; 32];
        let error = |scale| squared_error(&block, &importance, Bits::Four, scale);
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
