use serde_json::{Map, Value, json};

use super::metadata::Metadata;
use crate::Error;

/// `tokenizer.ggml.token_type` of a control token.
const CONTROL: usize = 3;

/// `tokenizer.json`, rebuilt by SmolLM's rule: digits one by one, then byte-level BPE, and no token put in front.
pub(crate) fn tokenizer(metadata: &Metadata<'_>) -> Result<Value, Error> {
    let tokens = metadata.tokens()?;
    let types = metadata.numbers("tokenizer.ggml.token_type")?;
    let control = types.iter().enumerate().filter(|(_, kind)| **kind == CONTROL);
    let added: Vec<Value> = control
        .map(|(id, _)| {
            json!({"id": id, "content": tokens[id], "special": true, "normalized": false, "single_word": false,
                "lstrip": false, "rstrip": false})
        })
        .collect();
    let vocabulary: Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| ((*token).to_owned(), json!(id)))
        .collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true}, byte_level,
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": tokens[metadata.unknown()],
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false,
            "vocab": vocabulary, "merges": metadata.texts("tokenizer.ggml.merges")?,
        },
    }))
}

/// `tokenizer_config.json`.
pub(crate) fn config(metadata: &Metadata<'_>) -> Result<Value, Error> {
    let tokens = metadata.tokens()?;
    let (bos, eos) = (tokens[metadata.bos()?], tokens[metadata.eos()?]);
    Ok(json!({
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": false,
        "clean_up_tokenization_spaces": false,
        "model_max_length": metadata.context_length()?,
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": tokens[metadata.pad()?],
        "unk_token": tokens[metadata.unknown()],
        "additional_special_tokens": [bos, eos],
        "chat_template": metadata.text("tokenizer.chat_template")?,
    }))
}
