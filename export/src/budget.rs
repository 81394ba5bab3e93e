use std::collections::BTreeMap;

use lwv_quantize::{Bits, BlockScheme};

use crate::PartLoss;

/// Chooses which parts get 8 bits instead of 4 so that all matrices take no more than `bits_per_weight` on average, scales
/// included: first those that lose most for every byte that they would take more. `fixed` is the sizes in bits and in weights
/// of matrices about which nothing is to be chosen.
///
/// Returns the bits of every matrix that differs from 4.
pub(crate) fn spend(
    losses: &[PartLoss],
    bits_per_weight: f64,
    block_size: usize,
    fixed: (f64, usize),
) -> BTreeMap<String, Bits> {
    let [four, eight] = [Bits::Four, Bits::Eight].map(|bits| self::bits_per_weight(bits, block_size));
    let weights: usize = losses.iter().map(|part| part.weights).sum();
    let total = (weights + fixed.1) as f64;
    let mut left = bits_per_weight * total - four * weights as f64 - fixed.0;
    let mut by_gain: Vec<&PartLoss> = losses.iter().collect();
    let gain = |part: &PartLoss| part.mean_divergence / part.weights.max(1) as f64;
    by_gain.sort_by(|a, b| gain(b).total_cmp(&gain(a)));
    let mut chosen = BTreeMap::new();
    for part in by_gain {
        let cost = (eight - four) * part.weights as f64;
        if cost <= left {
            left -= cost;
            chosen.extend(part.matrices.iter().map(|name| (name.clone(), Bits::Eight)));
        }
    }
    chosen
}

/// Bits of a weight with its share of a scale.
pub(crate) fn bits_per_weight(bits: Bits, block_size: usize) -> f64 {
    let scheme = BlockScheme {
        bits,
        block_size,
        positive: false,
        half_scales: false,
    };
    scheme.bytes(1, block_size) as f64 * 8.0 / block_size as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, weights: usize, mean_divergence: f64) -> PartLoss {
        PartLoss {
            part: name.to_owned(),
            matrices: vec![format!("{name}.weight")],
            weights,
            mean_divergence,
        }
    }

    #[test]
    fn what_loses_most_for_its_size_comes_first() {
        let losses = [
            part("large", 1000, 0.3),
            part("small", 100, 0.2),
            part("calm", 100, 0.001),
        ];
        // Blocks of 32: 5 and 9 bits with scales. 100 of 1,200 weights in 8 bits are 5.33 on average.
        let chosen = spend(&losses, 5.4, 32, (0.0, 0));
        assert_eq!(chosen.keys().collect::<Vec<_>>(), ["small.weight"]);
        assert!(spend(&losses, 5.0, 32, (0.0, 0)).is_empty());
        assert_eq!(spend(&losses, 9.0, 32, (0.0, 0)).len(), 3);
    }

    #[test]
    fn matrices_that_are_fixed_take_of_the_budget() {
        let losses = [part("small", 100, 0.2)];
        assert!(spend(&losses, 7.0, 32, (900.0, 100)).is_empty());
        assert_eq!(spend(&losses, 9.0, 32, (900.0, 100)).len(), 1);
    }
}
