use std::path::Path;

use serde_json::Value;

use crate::{ConfigError, TextConfig, TileVisionConfig, Vision, VisionConfig};

/// A family of models, as `model_type` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Family {
    /// Qwen2.5-VL: the decoder of Qwen2 with M-RoPE, and a vision tower.
    Qwen25Vl,
    /// Qwen2, text only.
    Qwen2,
    /// Llama, text only.
    Llama,
    /// Idefics3, as which most SmolVLM checkpoints are published: the decoder of Llama, and a tower of tiles.
    Idefics3,
    /// SmolVLM: the same network.
    SmolVlm,
}

/// All of them.
const FAMILIES: [Family; 5] = [
    Family::Qwen25Vl,
    Family::Qwen2,
    Family::Llama,
    Family::Idefics3,
    Family::SmolVlm,
];

impl Family {
    /// The family's `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen25Vl => "qwen2_5_vl",
            Self::Qwen2 => "qwen2",
            Self::Llama => "llama",
            Self::Idefics3 => "idefics3",
            Self::SmolVlm => "smolvlm",
        }
    }

    /// Whether its decoder has the biases of Qwen2.
    fn has_qwen_decoder(self) -> bool {
        matches!(self, Self::Qwen25Vl | Self::Qwen2)
    }

    fn from_model_type(model_type: &str) -> Result<Self, ConfigError> {
        FAMILIES
            .into_iter()
            .find(|family| family.model_type() == model_type)
            .ok_or_else(|| ConfigError::UnknownFamily(model_type.to_owned()))
    }
}

/// What a checkpoint's `config.json` says, checked once.
///
/// Both spellings are read: the flat one of transformers 4 (text fields at the top level), which the published
/// LongWriter-V checkpoints have, and the nested one of transformers 5 (`text_config`).
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family.
    pub family: Family,
    /// The decoder.
    pub text: TextConfig,
    /// The vision tower, where the family has one.
    pub vision: Option<Vision>,
    /// Token that stands for one merged image patch in a prompt.
    pub image_token_id: Option<u32>,
    /// Token that stands for one merged video patch in a prompt.
    pub video_token_id: Option<u32>,
    /// Token before an image.
    pub vision_start_token_id: Option<u32>,
    /// Token after an image.
    pub vision_end_token_id: Option<u32>,
    /// Beginning-of-text token.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
}

impl ModelConfig {
    /// Reads `config.json` in `dir`, with the special tokens of `generation_config.json` where that is present.
    ///
    /// # Errors
    /// A file that cannot be read or is not JSON, an unknown `model_type`, a missing or unusable field.
    pub fn from_dir(dir: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::from_value(&read_json(&dir.join("config.json"))?)?;
        let generation = dir.join("generation_config.json");
        if generation.exists() {
            config.take_generation_tokens(&read_json(&generation)?);
        }
        Ok(config)
    }

    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// An unknown `model_type`, a missing or unusable field.
    pub fn from_value(config: &Value) -> Result<Self, ConfigError> {
        let model_type =
            config
                .get("model_type")
                .and_then(Value::as_str)
                .ok_or(ConfigError::MissingField {
                    section: "config.json",
                    field: "model_type",
                })?;
        let family = Family::from_model_type(model_type)?;
        let text_fields = config
            .get("text_config")
            .filter(|v| v.is_object())
            .unwrap_or(config);
        let told_tied: &[_] = match family {
            // Only the top level counts there (transformers `modeling_idefics3.py`).
            Family::Idefics3 | Family::SmolVlm => &[config],
            _ => &[config, text_fields],
        };
        let tied = told_tied
            .iter()
            .find_map(|fields| fields.get("tie_word_embeddings")?.as_bool());
        check_decoder(family, text_fields)?;
        let three_axes = family == Family::Qwen25Vl;
        let text = TextConfig::from_fields(
            text_fields,
            tied.unwrap_or(false),
            three_axes,
            family.has_qwen_decoder(),
        )?;
        let vision = vision(family, config, text.hidden_size)?;
        let token = |field| {
            [config, text_fields]
                .iter()
                .find_map(|fields| token_ids(fields.get(field)?).first().copied())
        };
        let eos_token_ids = [config, text_fields]
            .iter()
            .find_map(|fields| {
                fields
                    .get("eos_token_id")
                    .map(token_ids)
                    .filter(|ids| !ids.is_empty())
            })
            .unwrap_or_default();
        // The defaults are the families' own, which transformers leaves out of `config.json` at times.
        let media_token = |field, default| token(field).or(three_axes.then_some(default));
        let image_token_id = match family {
            Family::Idefics3 | Family::SmolVlm => token("image_token_id").or(Some(128_257)),
            _ => media_token("image_token_id", 151_655),
        };
        Ok(Self {
            family,
            text,
            vision,
            image_token_id,
            video_token_id: media_token("video_token_id", 151_656),
            vision_start_token_id: media_token("vision_start_token_id", 151_652),
            vision_end_token_id: media_token("vision_end_token_id", 151_653),
            bos_token_id: token("bos_token_id"),
            eos_token_ids,
            pad_token_id: token("pad_token_id"),
        })
    }

    /// Axes of a position id: 3 with M-RoPE, else 1.
    pub fn position_axes(&self) -> usize {
        self.text.rope.axis_count()
    }

    fn take_generation_tokens(&mut self, generation: &Value) {
        let token = |field| {
            generation
                .get(field)
                .and_then(|value| token_ids(value).first().copied())
        };
        self.bos_token_id = token("bos_token_id").or(self.bos_token_id);
        self.pad_token_id = token("pad_token_id").or(self.pad_token_id);
        if let Some(ids) = generation
            .get("eos_token_id")
            .map(token_ids)
            .filter(|ids| !ids.is_empty())
        {
            self.eos_token_ids = ids;
        }
    }
}

/// Refuses a family of any decoder with another than Llama's.
fn check_decoder(family: Family, text_fields: &Value) -> Result<(), ConfigError> {
    let model_type = text_fields.get("model_type").and_then(Value::as_str);
    match (family, model_type) {
        (Family::Idefics3 | Family::SmolVlm, Some(other)) if other != "llama" => Err(ConfigError::invalid(
            "text_config.model_type",
            other,
            "only `llama` is supported there",
        )),
        _ => Ok(()),
    }
}

/// The vision tower of a family that has one.
fn vision(family: Family, config: &Value, text_hidden_size: usize) -> Result<Option<Vision>, ConfigError> {
    let fields = || {
        config.get("vision_config").ok_or(ConfigError::MissingField {
            section: "config.json",
            field: "vision_config",
        })
    };
    Ok(match family {
        Family::Qwen25Vl => Some(Vision::Windows(VisionConfig::from_fields(
            fields()?,
            text_hidden_size,
        )?)),
        Family::Idefics3 | Family::SmolVlm => Some(Vision::Tiles(TileVisionConfig::from_fields(
            fields()?,
            config.get("scale_factor"),
            text_hidden_size,
        )?)),
        Family::Qwen2 | Family::Llama => None,
    })
}

/// A token id, or a list of them; anything else is none.
fn token_ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(values) => values.iter().filter_map(id).collect(),
        single => id(single).into_iter().collect(),
    }
}

fn read_json(path: &Path) -> Result<Value, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|e| ConfigError::Json {
        path: path.to_owned(),
        message: e.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text() -> Value {
        json!({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 300, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
            "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}, "eos_token_id": 7})
    }

    fn vision() -> Value {
        json!({"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "in_chans": 3,
            "patch_size": 14, "temporal_patch_size": 2, "spatial_merge_size": 2, "window_size": 112,
            "fullatt_block_indexes": [1], "out_hidden_size": 32, "hidden_act": "silu"})
    }

    #[test]
    fn flat_and_nested_configs_are_equal() {
        let mut flat = text();
        flat["model_type"] = json!("qwen2_5_vl");
        flat["tie_word_embeddings"] = json!(true);
        flat["vision_config"] = vision();
        let nested = json!({"model_type": "qwen2_5_vl", "tie_word_embeddings": true, "text_config": text(),
            "vision_config": vision()});
        let flat = ModelConfig::from_value(&flat).unwrap();
        assert_eq!(flat, ModelConfig::from_value(&nested).unwrap());
        assert_eq!(flat.eos_token_ids, [7]);
        assert!(flat.text.qkv_bias && flat.text.tie_word_embeddings && !flat.text.output_bias);
        assert_eq!(flat.position_axes(), 3);
    }

    #[test]
    fn llama_has_one_axis_and_no_vision() {
        let mut config = text();
        config["model_type"] = json!("llama");
        config["rope_scaling"] = Value::Null;
        let config = ModelConfig::from_value(&config).unwrap();
        assert_eq!(
            (config.position_axes(), config.vision, config.image_token_id),
            (1, None, None)
        );
    }

    #[test]
    fn decoders_beside_tiles_are_tied_by_the_top_level() {
        let mut fields = text();
        fields["rope_scaling"] = Value::Null;
        fields["tie_word_embeddings"] = json!(true);
        let vision = json!({"hidden_size": 16, "num_attention_heads": 2, "image_size": 64, "patch_size": 16});
        let mut config = json!({"model_type": "smolvlm", "text_config": fields, "vision_config": vision});
        let read = ModelConfig::from_value(&config).unwrap();
        assert!(!read.text.tie_word_embeddings && !read.text.qkv_bias);
        assert_eq!((read.position_axes(), read.image_token_id), (1, Some(128_257)));
        assert_eq!(read.vision.unwrap().merge_size(), 2);
        config["tie_word_embeddings"] = json!(true);
        assert!(ModelConfig::from_value(&config).unwrap().text.tie_word_embeddings);
        config["text_config"]["model_type"] = json!("mistral");
        let error = ModelConfig::from_value(&config).unwrap_err().to_string();
        assert!(
            error.contains("text_config.model_type") && error.contains("mistral"),
            "{error}"
        );
    }

    #[test]
    fn unusable_configs_name_the_field() {
        let message = |edit: fn(&mut Value)| {
            let mut config = text();
            config["model_type"] = json!("qwen2");
            config["rope_scaling"] = Value::Null;
            edit(&mut config);
            ModelConfig::from_value(&config).unwrap_err().to_string()
        };
        assert!(message(|c| c["model_type"] = json!("mamba")).contains("`mamba`"));
        assert!(message(|c| c["hidden_size"] = Value::Null).contains("`hidden_size`"));
        assert!(message(|c| c["num_key_value_heads"] = json!(3)).contains("num_key_value_heads"));
        assert!(message(|c| c["use_sliding_window"] = json!(true)).contains("use_sliding_window"));
        assert!(message(|c| c["hidden_act"] = json!("relu")).contains("hidden_act"));
    }
}
