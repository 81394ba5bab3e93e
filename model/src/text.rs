use serde::Deserialize;
use serde_json::Value;

use crate::{ConfigError, Rope};

/// Geometry of the decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct TextConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Number of rows of the embedding table and of the head.
    pub vocab_size: usize,
    /// Longest context the model was made for, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the variance in every RMS norm.
    pub rms_norm_eps: f64,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Whether the head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Whether the q, k and v projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub output_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Token whose embedding learns nothing from where it is read (`padding_idx` of PyTorch's `Embedding`, which
    /// transformers sets to the configuration's padding token).
    pub padding_id: Option<u32>,
}

#[derive(Deserialize)]
struct TextFields {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_sliding_window: Option<bool>,
    pad_token_id: Option<i64>,
}

impl TextConfig {
    /// Canonical name of the head's weight: the embedding table where they are tied.
    pub fn head_name(&self) -> &'static str {
        if self.tie_word_embeddings {
            "model.embed_tokens.weight"
        } else {
            "lm_head.weight"
        }
    }

    pub(crate) fn from_fields(
        fields: &Value,
        tied: bool,
        multimodal: bool,
        qwen: bool,
    ) -> Result<Self, ConfigError> {
        let text: TextFields = serde_json::from_value(fields.clone())
            .map_err(|e| ConfigError::invalid("text_config", "…", e.to_string()))?;
        let required = |value: Option<usize>, field| match value {
            Some(0) => Err(ConfigError::invalid(field, 0, "must be at least 1")),
            Some(value) => Ok(value),
            None => Err(ConfigError::MissingField {
                section: "config.json",
                field,
            }),
        };
        refuse_unsupported(&text)?;
        let hidden_size = required(text.hidden_size, "hidden_size")?;
        let num_attention_heads = required(text.num_attention_heads, "num_attention_heads")?;
        let head_dim = head_dim(text.head_dim, hidden_size, num_attention_heads)?;
        let attention_bias = text.attention_bias.unwrap_or(false);
        let config = Self {
            hidden_size,
            intermediate_size: required(text.intermediate_size, "intermediate_size")?,
            num_hidden_layers: required(text.num_hidden_layers, "num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads: text.num_key_value_heads.unwrap_or(num_attention_heads),
            head_dim,
            vocab_size: required(text.vocab_size, "vocab_size")?,
            max_position_embeddings: required(text.max_position_embeddings, "max_position_embeddings")?,
            rms_norm_eps: text.rms_norm_eps.unwrap_or(1e-6),
            rope: Rope::from_fields(fields, head_dim, multimodal)?,
            tie_word_embeddings: tied,
            // Qwen2 decoders always have q, k and v biases and never others (transformers `modeling_qwen2.py`).
            qkv_bias: qwen || attention_bias,
            output_bias: !qwen && attention_bias,
            mlp_bias: !qwen && text.mlp_bias.unwrap_or(false),
            padding_id: text.pad_token_id.and_then(|id| u32::try_from(id).ok()),
        };
        config.check_heads()?;
        Ok(config)
    }

    /// Width of the query projection.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of the key projection, and of the value projection.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Keys and values that one token leaves in the cache, in elements.
    pub fn cache_elements_per_token(&self) -> usize {
        2 * self.num_hidden_layers * self.key_value_size()
    }

    fn check_heads(&self) -> Result<(), ConfigError> {
        let (heads, kv) = (self.num_attention_heads, self.num_key_value_heads);
        if kv == 0 || heads % kv != 0 {
            let reason = format!("must divide num_attention_heads, {heads}");
            return Err(ConfigError::invalid("num_key_value_heads", kv, reason));
        }
        Ok(())
    }
}

fn head_dim(stated: Option<usize>, hidden_size: usize, heads: usize) -> Result<usize, ConfigError> {
    let head_dim = match stated {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let reason = format!("is not a multiple of num_attention_heads, {heads}");
            return Err(ConfigError::invalid("hidden_size", hidden_size, reason));
        }
    };
    if head_dim == 0 || !head_dim.is_multiple_of(2) {
        return Err(ConfigError::invalid(
            "head_dim",
            head_dim,
            "rotary embedding needs an even head size",
        ));
    }
    Ok(head_dim)
}

fn refuse_unsupported(text: &TextFields) -> Result<(), ConfigError> {
    if text.use_sliding_window == Some(true) {
        return Err(ConfigError::invalid(
            "use_sliding_window",
            true,
            "sliding-window decoders are not supported",
        ));
    }
    match text.hidden_act.as_deref() {
        None | Some("silu") => Ok(()),
        Some(other) => Err(ConfigError::invalid(
            "hidden_act",
            other,
            "only `silu` is supported",
        )),
    }
}
