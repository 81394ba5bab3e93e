use std::collections::BTreeMap;

use serde::Serialize;

/// How what linear layers read is rounded to 8 bits, and what was moved from there into their weights.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ActivationScales {
    /// Canonical name of a matrix → value of one level of what it reads. What others read is not rounded.
    pub(crate) steps: BTreeMap<String, f32>,
    /// Canonical name of a weight → what its last dimension is multiplied by: matrices by what makes the channels that they
    /// read alike, the norm before them by the inverse.
    pub(crate) inputs: BTreeMap<String, Vec<f32>>,
    /// Name of a layer, without `.weight` → what its outputs are multiplied by, where a layer after it reads them.
    pub(crate) outputs: BTreeMap<String, Vec<f32>>,
    /// Canonical name of a matrix that reads what is not rounded → by how much that would have changed what it makes.
    pub(crate) exact: BTreeMap<String, f64>,
}

impl ActivationScales {
    /// Whether the weight `name` is not as it was.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.inputs.contains_key(name) || self.outputs.contains_key(layer(name))
    }

    /// Multiplies `weights`, which are those of `name` from the number `start` on.
    pub(crate) fn apply(&self, name: &str, shape: &[usize], start: usize, weights: &mut [f32]) {
        let places = start..start + weights.len();
        if let Some(factors) = self.inputs.get(name) {
            let weights = weights.iter_mut().zip(places.clone());
            weights.for_each(|(weight, place)| *weight *= factors[place % factors.len()]);
        }
        if let Some(factors) = self.outputs.get(layer(name)) {
            // A bias has one number an output.
            let columns: usize = shape[1..].iter().product();
            let weights = weights.iter_mut().zip(places);
            weights.for_each(|(weight, place)| *weight *= factors[place / columns]);
        }
    }
}

/// The layer that a weight or bias belongs to.
fn layer(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(layer, _)| layer)
}

/// How far values may go that are rounded to 8 bits; what is beyond is clipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationRange {
    /// To where what layers make of them changes least.
    LeastError,
    /// As far as they went on the samples.
    Largest,
    /// As far as 99.99 % of them went.
    Percentile,
    /// To where the distribution changes least (relative entropy, as TensorRT's own calibrator has it).
    Entropy,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_columns_and_biases_are_multiplied_wherever_a_piece_begins() {
        let scales = ActivationScales {
            inputs: [("a.weight".to_owned(), vec![1.0, 10.0])].into(),
            outputs: [("a".to_owned(), vec![1.0, 2.0, 3.0])].into(),
            ..ActivationScales::default()
        };
        let mut piece = [1.0; 3];
        scales.apply("a.weight", &[3, 2], 3, &mut piece);
        assert_eq!(piece, [20.0, 3.0, 30.0]);
        let mut bias = [1.0; 2];
        scales.apply("a.bias", &[3], 1, &mut bias);
        assert_eq!(bias, [2.0, 3.0]);
        assert!(scales.has("a.bias") && !scales.has("b.weight"));
    }
}
