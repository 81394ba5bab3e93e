use std::collections::BTreeMap;

use lwv_model::{ModelConfig, POSITION_TABLE, expected_weights};
use serde::{Deserialize, Serialize};

/// Matrices that read the same values, and what makes these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Readers {
    /// Canonical names.
    pub(crate) matrices: Vec<String>,
    /// Where a channel can be made smaller, so that the matrices make it larger again.
    pub(crate) maker: Maker,
}

/// What makes the channels that matrices read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Maker {
    /// Something that channels cannot be told apart in.
    Other,
    /// The norm with this weight: each of its numbers is a factor of a channel already.
    Norm(String),
    /// Outputs of another layer, of which what comes between makes no mixture.
    Outputs(Outputs),
}

/// Outputs of a layer that become channels: values, which attention takes means of, or one factor of a gated product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outputs {
    /// The layer's name, without `.weight`.
    pub(crate) layer: String,
    /// The first of the outputs.
    pub(crate) first: usize,
    /// How many outputs the layer has.
    pub(crate) of: usize,
    /// Groups of `width` outputs, each of which becomes `repeats` groups of channels.
    pub(crate) groups: usize,
    pub(crate) repeats: usize,
    pub(crate) width: usize,
}

impl Outputs {
    /// The output that becomes `channel`, counted from the first.
    fn output(&self, channel: usize) -> usize {
        channel / (self.repeats * self.width) * self.width + channel % self.width
    }

    /// The largest of what the channels of each output have.
    pub(crate) fn folded(&self, channels: &[f32]) -> Vec<f32> {
        let mut largest = vec![0.0_f32; self.groups * self.width];
        for (channel, value) in channels.iter().enumerate() {
            let most = &mut largest[self.output(channel)];
            *most = most.max(*value);
        }
        largest
    }

    /// What each channel has of its output's.
    pub(crate) fn spread(&self, outputs: &[f32]) -> Vec<f32> {
        let channels = 0..self.groups * self.repeats * self.width;
        channels.map(|channel| outputs[self.output(channel)]).collect()
    }

    /// A factor for every output of the layer, 1 where it is none of these.
    pub(crate) fn among_all(&self, factors: &[f32]) -> Vec<f32> {
        let mut all = vec![1.0; self.of];
        all[self.first..self.first + factors.len()].copy_from_slice(factors);
        all
    }
}

/// All matrices of a model by what they read, in the order in which the network asks for them; the embedding table only where
/// it is the head too.
pub(crate) fn readers(config: &ModelConfig) -> Vec<Readers> {
    let head = config.text.head_name();
    let shapes: BTreeMap<String, Vec<usize>> = expected_weights(config).into_iter().collect();
    let mut all: Vec<Readers> = Vec::new();
    for (name, shape) in expected_weights(config) {
        let is_table = name == "model.embed_tokens.weight";
        if shape.len() < 2 || is_table && name != head || name == POSITION_TABLE {
            continue;
        }
        let maker = if name == head {
            Maker::Norm("model.norm.weight".to_owned())
        } else {
            maker(&name, config, &shapes)
        };
        match all.last_mut() {
            Some(last) if maker != Maker::Other && last.maker == maker => last.matrices.push(name),
            _ => all.push(Readers {
                matrices: vec![name],
                maker,
            }),
        }
    }
    all
}

fn maker(matrix: &str, config: &ModelConfig, shapes: &BTreeMap<String, Vec<usize>>) -> Maker {
    let module = matrix.strip_suffix(".weight").unwrap_or(matrix);
    if let Some(layer) = tile_layer(module) {
        return tile_maker(module, layer, shapes);
    }
    let parts = [
        ("self_attn.q_proj", "input_layernorm"),
        ("self_attn.k_proj", "input_layernorm"),
        ("self_attn.v_proj", "input_layernorm"),
        ("attn.qkv", "norm1"),
    ];
    for (part, norm) in parts {
        if let Some(block) = module.strip_suffix(part) {
            return Maker::Norm(format!("{block}{norm}.weight"));
        }
    }
    for part in ["mlp.gate_proj", "mlp.up_proj"] {
        if let Some(block) = module.strip_suffix(part) {
            let norm = if block.starts_with("visual.") {
                "norm2"
            } else {
                "post_attention_layernorm"
            };
            return Maker::Norm(format!("{block}{norm}.weight"));
        }
    }
    let outputs = |layer: String, groups, repeats, width| {
        let of = shapes.get(&format!("{layer}.weight")).map_or(0, |shape| shape[0]);
        Maker::Outputs(Outputs {
            // Values come last.
            first: of - groups * width,
            layer,
            of,
            groups,
            repeats,
            width,
        })
    };
    let columns: usize = shapes[matrix][1..].iter().product();
    if let Some(block) = module.strip_suffix("mlp.down_proj") {
        return outputs(format!("{block}mlp.up_proj"), 1, 1, columns);
    }
    if let Some(block) = module.strip_suffix("self_attn.o_proj") {
        let text = &config.text;
        let repeats = text.num_attention_heads / text.num_key_value_heads;
        let layer = format!("{block}self_attn.v_proj");
        return outputs(layer, text.num_key_value_heads, repeats, text.head_dim);
    }
    if let Some(block) = module.strip_suffix("attn.proj") {
        return outputs(format!("{block}attn.qkv"), 1, 1, columns);
    }
    Maker::Other
}

/// The layer of a tower of tiles that a matrix belongs to, with the dot after it.
fn tile_layer(module: &str) -> Option<&str> {
    let rest = module.strip_prefix("visual.encoder.layers.")?;
    let end = module.len() - rest.len() + rest.find('.')? + 1;
    Some(&module[..end])
}

/// As [`maker`] in a layer of a tower of tiles.
fn tile_maker(module: &str, layer: &str, shapes: &BTreeMap<String, Vec<usize>>) -> Maker {
    match &module[layer.len()..] {
        "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" => {
            Maker::Norm(format!("{layer}layer_norm1.weight"))
        }
        "mlp.fc1" => Maker::Norm(format!("{layer}layer_norm2.weight")),
        "self_attn.out_proj" => {
            let values = format!("{layer}self_attn.v_proj");
            let of = shapes
                .get(&format!("{values}.weight"))
                .map_or(0, |shape| shape[0]);
            Maker::Outputs(Outputs {
                layer: values,
                first: 0,
                of,
                groups: 1,
                repeats: 1,
                width: of,
            })
        }
        // What comes after the bent function between the two matrices cannot be moved before it.
        _ => Maker::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> ModelConfig {
        let config = json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 20, "max_position_embeddings": 64,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "eos_token_id": 2, "tie_word_embeddings": true});
        ModelConfig::from_value(&config).unwrap()
    }

    #[test]
    fn every_matrix_reads_once_and_the_tied_table_as_head() {
        let all = readers(&config());
        let matrices: Vec<&str> = all
            .iter()
            .flat_map(|readers| &readers.matrices)
            .map(String::as_str)
            .collect();
        assert_eq!(matrices.len(), 2 * 7 + 1);
        assert_eq!(
            matrices
                .iter()
                .filter(|name| name.contains("embed_tokens"))
                .count(),
            1
        );
        let sizes: Vec<usize> = all.iter().map(|readers| readers.matrices.len()).collect();
        assert_eq!(sizes.iter().filter(|size| **size == 3).count(), 2, "{sizes:?}");
        assert!(all.iter().all(|readers| readers.maker != Maker::Other));
    }

    #[test]
    fn matrices_of_tiles_read_norms_and_values() {
        let config = json!({"model_type": "smolvlm", "image_token_id": 5, "scale_factor": 2, "text_config": {"hidden_size": 8,
            "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20,
            "max_position_embeddings": 64}, "vision_config": {"hidden_size": 6, "intermediate_size": 10, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 4, "patch_size": 1}});
        let all = readers(&ModelConfig::from_value(&config).unwrap());
        let of = |matrix: &str| {
            let is_reader = |readers: &&Readers| readers.matrices.iter().any(|name| name == matrix);
            all.iter().find(is_reader)
        };
        let layer = "visual.encoder.layers.1";
        let queries = of(&format!("{layer}.self_attn.q_proj.weight")).unwrap();
        assert_eq!(queries.matrices.len(), 3);
        assert_eq!(queries.maker, Maker::Norm(format!("{layer}.layer_norm1.weight")));
        let Maker::Outputs(values) = &of(&format!("{layer}.self_attn.out_proj.weight")).unwrap().maker else {
            panic!("values make what attention gives");
        };
        assert_eq!(
            (values.layer.as_str(), values.width),
            ("visual.encoder.layers.1.self_attn.v_proj", 6)
        );
        let fed = &of(&format!("{layer}.mlp.fc1.weight")).unwrap().maker;
        assert_eq!(*fed, Maker::Norm(format!("{layer}.layer_norm2.weight")));
        for (matrix, maker) in [
            ("encoder.layers.1.mlp.fc2", 1),
            ("connector.modality_projection.proj", 1),
        ] {
            let found = of(&format!("visual.{matrix}.weight")).unwrap();
            assert_eq!(
                (&found.maker, found.matrices.len()),
                (&Maker::Other, maker),
                "{matrix}"
            );
        }
        assert!(of(POSITION_TABLE).is_none());
    }

    #[test]
    fn heads_that_share_values_share_their_factors() {
        let all = readers(&config());
        let Maker::Outputs(outputs) = &all
            .iter()
            .find(|readers| readers.matrices[0].ends_with("o_proj.weight"))
            .unwrap()
            .maker
        else {
            panic!("values make what attention gives");
        };
        assert_eq!((outputs.first, outputs.of, outputs.repeats), (0, 4, 2));
        // Two values for each of two groups, read by two heads each.
        assert_eq!(
            outputs.spread(&[1.0, 2.0, 3.0, 4.0]),
            [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]
        );
        assert_eq!(
            outputs.folded(&[1.0, 9.0, 5.0, 2.0, 0.0, 0.0, 0.0, 7.0]),
            [5.0, 9.0, 0.0, 7.0]
        );
    }

    #[test]
    fn values_are_the_last_of_joined_outputs() {
        let outputs = Outputs {
            layer: "attn.qkv".into(),
            first: 4,
            of: 6,
            groups: 1,
            repeats: 1,
            width: 2,
        };
        assert_eq!(outputs.among_all(&[3.0, 5.0]), [1.0, 1.0, 1.0, 1.0, 3.0, 5.0]);
    }
}
