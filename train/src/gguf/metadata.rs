use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use serde_json::json;

use super::gguf_error;
use crate::Error;

/// The metadata of a GGUF file, with errors that name the entry.
pub(crate) struct Metadata<'a> {
    path: &'a Path,
    entries: &'a HashMap<String, Value>,
}

impl<'a> Metadata<'a> {
    pub(crate) fn new(path: &'a Path, entries: &'a HashMap<String, Value>) -> Self {
        Self { path, entries }
    }

    pub(crate) fn require_llama(&self) -> Result<(), Error> {
        match self.text("general.architecture")? {
            "llama" => Ok(()),
            other => Err(gguf_error(
                self.path,
                format!("architecture `{other}` is not `llama`"),
            )),
        }
    }

    pub(crate) fn heads(&self) -> Result<usize, Error> {
        self.number("llama.attention.head_count")
    }

    pub(crate) fn key_value_heads(&self) -> Result<usize, Error> {
        self.number("llama.attention.head_count_kv")
    }

    pub(crate) fn tokens(&self) -> Result<Vec<&str>, Error> {
        self.texts("tokenizer.ggml.tokens")
    }

    pub(crate) fn bos(&self) -> Result<usize, Error> {
        self.number("tokenizer.ggml.bos_token_id")
    }

    pub(crate) fn eos(&self) -> Result<usize, Error> {
        self.number("tokenizer.ggml.eos_token_id")
    }

    pub(crate) fn pad(&self) -> Result<usize, Error> {
        self.number("tokenizer.ggml.padding_token_id")
            .or_else(|_| self.eos())
    }

    pub(crate) fn unknown(&self) -> usize {
        self.number("tokenizer.ggml.unknown_token_id").unwrap_or(0)
    }

    /// `config.json` of a Llama checkpoint.
    pub(crate) fn config(&self, tied: bool) -> Result<serde_json::Value, Error> {
        let hidden = self.number("llama.embedding_length")?;
        // The file stores an f32; the ninth decimal is where its rounding begins.
        let eps = (self.float("llama.attention.layer_norm_rms_epsilon")? * 1e9).round() / 1e9;
        Ok(json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": self.number("llama.feed_forward_length")?,
            "num_hidden_layers": self.number("llama.block_count")?,
            "num_attention_heads": self.heads()?,
            "num_key_value_heads": self.key_value_heads()?,
            "head_dim": hidden / self.heads()?.max(1),
            "max_position_embeddings": self.context_length()?,
            "rms_norm_eps": eps,
            "rope_theta": self.float("llama.rope.freq_base")?,
            "vocab_size": self.tokens()?.len(),
            "attention_bias": false,
            "attention_dropout": 0.0,
            "mlp_bias": false,
            "tie_word_embeddings": tied,
            "initializer_range": 1.0 / (hidden as f64).sqrt(),
            "bos_token_id": self.bos()?,
            "eos_token_id": self.eos()?,
            "pad_token_id": self.pad()?,
            "torch_dtype": "float32",
            "use_cache": true,
        }))
    }

    /// `generation_config.json`.
    pub(crate) fn generation_config(&self) -> Result<serde_json::Value, Error> {
        Ok(json!({"bos_token_id": self.bos()?, "eos_token_id": self.eos()?, "pad_token_id": self.pad()?}))
    }

    pub(crate) fn context_length(&self) -> Result<usize, Error> {
        self.number("llama.context_length")
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str, Error> {
        self.entry(key)?
            .to_string()
            .map(String::as_str)
            .map_err(|e| gguf_error(self.path, format!("`{key}`: {e}")))
    }

    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&'a str>, Error> {
        let strings = self
            .list(key)?
            .iter()
            .map(|value| value.to_string().map(String::as_str));
        strings
            .collect::<candle_core::Result<_>>()
            .map_err(|e| gguf_error(self.path, format!("`{key}`: {e}")))
    }

    pub(crate) fn numbers(&self, key: &str) -> Result<Vec<usize>, Error> {
        let wrong = || gguf_error(self.path, format!("`{key}` holds something that is no number"));
        self.list(key)?
            .iter()
            .map(|value| integer(value).ok_or_else(wrong))
            .collect()
    }

    fn list(&self, key: &str) -> Result<&'a Vec<Value>, Error> {
        self.entry(key)?
            .to_vec()
            .map_err(|e| gguf_error(self.path, format!("`{key}`: {e}")))
    }

    fn number(&self, key: &str) -> Result<usize, Error> {
        integer(self.entry(key)?).ok_or_else(|| gguf_error(self.path, format!("`{key}` is no whole number")))
    }

    fn float(&self, key: &str) -> Result<f64, Error> {
        match self.entry(key)? {
            Value::F32(value) => Ok(f64::from(*value)),
            Value::F64(value) => Ok(*value),
            _ => Err(gguf_error(self.path, format!("`{key}` is no float"))),
        }
    }

    fn entry(&self, key: &str) -> Result<&'a Value, Error> {
        self.entries
            .get(key)
            .ok_or_else(|| gguf_error(self.path, format!("no metadata entry `{key}`")))
    }
}

fn integer(value: &Value) -> Option<usize> {
    match *value {
        Value::U8(n) => Some(n.into()),
        Value::U16(n) => Some(n.into()),
        Value::U32(n) => usize::try_from(n).ok(),
        Value::U64(n) => usize::try_from(n).ok(),
        Value::I8(n) => usize::try_from(n).ok(),
        Value::I16(n) => usize::try_from(n).ok(),
        Value::I32(n) => usize::try_from(n).ok(),
        Value::I64(n) => usize::try_from(n).ok(),
        _ => None,
    }
}
