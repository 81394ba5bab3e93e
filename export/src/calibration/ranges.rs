use std::collections::BTreeMap;

use lwv_train::{Error, Observer, Tensor};

/// Largest number of 16 bits.
const LARGEST_HALF: f32 = 65_504.0;

/// How many times larger than on the samples values may become before they overflow: other pictures and texts go further.
const HEADROOM: f32 = 8.0;

/// Largest magnitudes that linear layers read and make, over all samples.
#[derive(Default)]
pub(crate) struct Ranges {
    largest: BTreeMap<String, [f32; 2]>,
}

impl Ranges {
    /// The matrices that must stay in 32 bits, by canonical name, each with the reason.
    ///
    /// Where the layer that closes a gated feed-forward layer reads too much, that is the product of the two before it, so
    /// these stay in 32 bits with it.
    pub(crate) fn islands(&self) -> BTreeMap<String, String> {
        let mut islands = BTreeMap::new();
        for (name, largest) in &self.largest {
            for (value, verb) in largest.iter().zip(["reads", "makes"]) {
                // What is no number is too large as well.
                if *value * HEADROOM <= LARGEST_HALF {
                    continue;
                }
                let reason = format!("{verb} values up to {value:.0}, and 16 bits end at {LARGEST_HALF}");
                if verb == "reads"
                    && let Some(feed_forward) = name.strip_suffix("down_proj.weight")
                {
                    for part in ["gate_proj.weight", "up_proj.weight"] {
                        islands.insert(format!("{feed_forward}{part}"), format!("`{name}` {reason}"));
                    }
                }
                islands.insert(name.clone(), reason);
            }
        }
        islands
    }
}

impl Observer for Ranges {
    fn linear(&mut self, weight: &str, x: &Tensor, y: &Tensor) -> Result<(), Error> {
        let largest = self.largest.entry(weight.to_owned()).or_default();
        for (most, values) in largest.iter_mut().zip([x, y]) {
            let seen = values.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
            // `max` would pass over what is no number.
            *most = if seen > *most || seen.is_nan() {
                seen
            } else {
                *most
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(largest: &[(&str, [f32; 2])]) -> Ranges {
        let largest = largest
            .iter()
            .map(|(name, largest)| ((*name).to_owned(), *largest));
        Ranges {
            largest: largest.collect(),
        }
    }

    #[test]
    fn calm_layers_are_no_islands() {
        assert!(
            ranges(&[("a.q_proj.weight", [10.0, 8000.0])])
                .islands()
                .is_empty()
        );
    }

    #[test]
    fn the_product_before_the_last_layer_takes_both_factors_along() {
        let islands = ranges(&[("a.mlp.down_proj.weight", [20_000.0, 5.0])]).islands();
        let names: Vec<&str> = islands.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "a.mlp.down_proj.weight",
                "a.mlp.gate_proj.weight",
                "a.mlp.up_proj.weight"
            ]
        );
        assert!(islands["a.mlp.up_proj.weight"].contains("20000"));
    }

    #[test]
    fn outputs_that_overflow_or_are_no_number_make_islands() {
        let islands = ranges(&[("a.weight", [1.0, 1e6]), ("b.weight", [f32::NAN, 1.0])]).islands();
        assert_eq!(islands.len(), 2);
        assert!(islands["a.weight"].starts_with("makes"));
    }
}
