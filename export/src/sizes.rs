//! How large a bundle is, before it is made.

use lwv_model::{ModelConfig, POSITION_TABLE, Precision, Target, expected_weights};

use crate::formats::{Formats, WeightFormat};
use crate::{Quantization, Recipe};

/// Bytes of a bundle's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedBytes {
    /// Of all graphs.
    pub weights: u64,
    /// Those that are read to write one more token: all but the vision tower, and of a table that is no head a row.
    pub read_for_a_token: u64,
}

/// Bytes of the weights that a bundle of a model would have.
pub fn planned_bytes(
    config: &ModelConfig,
    target: Target,
    precision: Precision,
    quantization: &Quantization,
) -> PlannedBytes {
    let no_islands = std::collections::BTreeMap::new();
    let formats = Formats::new(target, precision, quantization, &no_islands);
    let mut planned = PlannedBytes {
        weights: 0,
        read_for_a_token: 0,
    };
    for (name, shape) in expected_weights(config) {
        let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
        if name == "model.embed_tokens.weight" {
            let table = match formats.table(&name, columns) {
                Some(scheme) => scheme.bytes(rows, columns),
                None => rows * columns * formats.compute_type().size(),
            };
            planned.weights += table as u64;
            let is_shared = bytes(&formats, &name, rows, columns) == table;
            if config.text.tie_word_embeddings && is_shared {
                planned.read_for_a_token += table as u64;
            }
            if !config.text.tie_word_embeddings || is_shared {
                continue;
            }
        }
        let bytes = match shape.len() {
            1 => 4 * rows,
            _ => bytes(&formats, &name, rows, columns),
        };
        planned.weights += bytes as u64;
        if !name.starts_with("visual.") {
            planned.read_for_a_token += bytes as u64;
        }
    }
    planned
}

/// Bits that all matrices take, and their weights; a table that is the head too counts once.
pub(crate) fn matrix_bits(recipe: &Recipe, config: &ModelConfig) -> (f64, usize) {
    let formats = Formats::of(recipe);
    let matrices = expected_weights(config)
        .into_iter()
        .filter(|(name, shape)| shape.len() > 1 && name != POSITION_TABLE);
    let (mut all, mut weights) = (0, 0);
    for (name, shape) in matrices {
        let (rows, columns) = (shape[0], shape[1..].iter().product::<usize>());
        weights += rows * columns;
        all += bytes(&formats, &name, rows, columns);
    }
    (all as f64 * 8.0, weights)
}

fn bytes(formats: &Formats<'_>, name: &str, rows: usize, columns: usize) -> usize {
    match formats.matrix(name) {
        WeightFormat::Blocks(scheme) => scheme.bytes(rows, columns),
        WeightFormat::Channels => rows * (columns + 2),
        WeightFormat::Float(element) => rows * columns * element.size(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(tied: bool) -> ModelConfig {
        let config = json!({"model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": 2, "tie_word_embeddings": tied});
        ModelConfig::from_value(&config).unwrap()
    }

    fn planned(tied: bool, target: Target, precision: Precision) -> [u64; 2] {
        let planned = planned_bytes(&config(tied), target, precision, &Quantization::default());
        [planned.weights, planned.read_for_a_token]
    }

    #[test]
    fn tables_count_once_where_they_are_shared() {
        // Seven matrices of 64 × 64, three norms, and a table of 100 rows.
        let (layer, norms, table) = (7 * 64 * 64, 3 * 64 * 4, 100 * 64);
        let fp16 = |tables: u64, read: u64| {
            [
                2 * layer + norms + tables * 2 * table,
                2 * layer + norms + read * 2 * table,
            ]
        };
        assert_eq!(planned(true, Target::Ort, Precision::Fp16), fp16(1, 1));
        assert_eq!(planned(false, Target::Ort, Precision::Fp16), fp16(2, 1));
        // Engines read the table as floats, and the head as integers with a scale of 16 bits a row.
        let [weights, read] = planned(true, Target::TensorRt, Precision::Int8);
        assert_eq!(weights - read, 2 * table);
    }

    #[test]
    fn four_bits_take_less_than_eight() {
        let [int4, int8] =
            [Precision::Int4, Precision::Int8].map(|precision| planned(true, Target::Ort, precision)[0]);
        assert!(int4 * 3 < int8 * 2, "{int4} {int8}");
    }
}
