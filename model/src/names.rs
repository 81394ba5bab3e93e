use crate::{
    DecoderInputs, Logits, ModelConfig, Ops, Rotary, Segments, TileOps, Vision, VisionInputs, decoder,
    tile_tower, token_embeddings, vision_tower,
};

/// The names that one weight bears in the layouts that exist.
///
/// Canonical names are those of the published checkpoints: `model.*`, `visual.*` and `lm_head.weight`. transformers 5
/// holds a multimodal model's parts as `model.language_model.*` and `model.visual.*`; other tools write
/// `language_model.model.*`. Idefics3 and SmolVLM have `model.text_model.*`, `model.vision_model.*` and `model.connector.*`.
#[derive(Debug, Clone, Copy, Default)]
pub struct WeightNames;

/// Canonical prefix, and what other layouts put in its place.
const LAYOUTS: &[(&str, &[&str])] = &[
    (
        "model.",
        &[
            "model.language_model.",
            "language_model.model.",
            "model.text_model.",
        ],
    ),
    ("visual.connector.", &["model.connector."]),
    ("visual.", &["model.visual.", "model.vision_model."]),
    ("lm_head.", &["language_model.lm_head.", "model.lm_head."]),
];

impl WeightNames {
    /// Every name that the weight `canonical` may bear, the canonical one first.
    pub fn candidates(canonical: &str) -> Vec<String> {
        let others = LAYOUTS
            .iter()
            .filter_map(|(prefix, others)| Some((canonical.strip_prefix(prefix)?, others)));
        let others =
            others.flat_map(|(rest, others)| others.iter().map(move |other| format!("{other}{rest}")));
        std::iter::once(canonical.to_owned()).chain(others).collect()
    }

    /// The canonical name of a weight that is called `name` in some layout.
    pub fn canonical(name: &str) -> String {
        let other_layouts = LAYOUTS
            .iter()
            .flat_map(|(prefix, others)| others.iter().map(move |other| (other, prefix)));
        for (other, prefix) in other_layouts {
            if let Some(rest) = name.strip_prefix(other) {
                return format!("{prefix}{rest}");
            }
        }
        name.to_owned()
    }
}

/// Canonical name and shape of every weight that a model with `config` has, in the order in which the network asks.
pub fn expected_weights(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let mut names = NameOps::default();
    let segments = Segments {
        gather: (),
        lengths: (),
        scatter: (),
    };
    let images = VisionInputs {
        pixel_values: (),
        positions: (),
        windows: segments.clone(),
        frames: segments,
    };
    let tokens = DecoderInputs {
        embeds: (),
        positions: (),
    };
    let Ok(()) = token_embeddings(&mut names, &config.text, &());
    match &config.vision {
        Some(Vision::Windows(vision)) => {
            let Ok(()) = vision_tower(&mut names, vision, &images);
        }
        Some(Vision::Tiles(vision)) => {
            let Ok(()) = tile_tower(&mut names, vision, &());
        }
        None => {}
    }
    let Ok(()) = decoder(&mut names, &config.text, &tokens, Logits::LastPosition);
    names.weights
}

/// An interpreter that computes nothing and remembers which weights were asked for.
#[derive(Default)]
struct NameOps {
    weights: Vec<(String, Vec<usize>)>,
}

type Nothing = Result<(), std::convert::Infallible>;

impl Ops for NameOps {
    type Tensor = ();
    type Error = std::convert::Infallible;

    fn weight(&mut self, name: &str, shape: &[usize]) -> Nothing {
        if !self.weights.iter().any(|(known, _)| known == name) {
            self.weights.push((name.to_owned(), shape.to_vec()));
        }
        Ok(())
    }
    fn embedding(&mut self, (): &(), (): &()) -> Nothing {
        Ok(())
    }
    fn linear(&mut self, (): &(), (): &(), _: Option<&()>) -> Nothing {
        Ok(())
    }
    fn rms_norm(&mut self, (): &(), (): &(), _: f64) -> Nothing {
        Ok(())
    }
    fn add(&mut self, (): &(), (): &()) -> Nothing {
        Ok(())
    }
    fn mul(&mut self, (): &(), (): &()) -> Nothing {
        Ok(())
    }
    fn silu(&mut self, (): &()) -> Nothing {
        Ok(())
    }
    fn gelu(&mut self, (): &()) -> Nothing {
        Ok(())
    }
    fn columns(&mut self, (): &(), _: usize, _: usize) -> Nothing {
        Ok(())
    }
    fn join_rows(&mut self, (): &(), _: usize) -> Nothing {
        Ok(())
    }
    fn last_position(&mut self, (): &()) -> Nothing {
        Ok(())
    }
    fn rotary(&mut self, (): &(), _: &[usize], _: &[f32]) -> Result<Rotary<()>, Self::Error> {
        Ok(Rotary { cos: (), sin: () })
    }
    fn rotate(&mut self, (): &(), _: usize, _: &Rotary<()>) -> Nothing {
        Ok(())
    }
    fn causal_attention(&mut self, _: usize, (): &(), (): &(), (): &(), _: usize, _: usize) -> Nothing {
        Ok(())
    }
    fn segment_attention(&mut self, (): &(), (): &(), (): &(), _: usize, _: &Segments<()>) -> Nothing {
        Ok(())
    }
}

impl TileOps for NameOps {
    fn layer_norm(&mut self, (): &(), (): &(), (): &(), _: f64) -> Nothing {
        Ok(())
    }
    fn gelu_tanh(&mut self, (): &()) -> Nothing {
        Ok(())
    }
    fn add_to_tiles(&mut self, (): &(), (): &(), _: &[usize]) -> Nothing {
        Ok(())
    }
    fn tile_attention(&mut self, (): &(), (): &(), (): &(), _: usize, _: usize) -> Nothing {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_layout_maps_to_the_canonical_name() {
        for canonical in [
            "model.layers.3.mlp.up_proj.weight",
            "visual.blocks.0.attn.qkv.bias",
            "visual.connector.modality_projection.proj.weight",
            "lm_head.weight",
        ] {
            let candidates = WeightNames::candidates(canonical);
            assert_eq!(candidates[0], canonical);
            assert!(candidates.len() > 1);
            for name in candidates {
                assert_eq!(WeightNames::canonical(&name), canonical);
            }
        }
    }

    #[test]
    fn a_tied_head_is_not_expected() {
        let mut config = json!({"model_type": "qwen2", "hidden_size": 8, "intermediate_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10,
            "max_position_embeddings": 64});
        let untied = expected_weights(&ModelConfig::from_value(&config).unwrap());
        assert!(untied.contains(&("lm_head.weight".into(), vec![10, 8])));
        assert!(untied.contains(&("model.layers.0.self_attn.k_proj.bias".into(), vec![4])));
        config["tie_word_embeddings"] = json!(true);
        let tied = expected_weights(&ModelConfig::from_value(&config).unwrap());
        assert_eq!(tied.len(), untied.len() - 1);
        assert!(!tied.iter().any(|(name, _)| name == "lm_head.weight"));
    }
}
