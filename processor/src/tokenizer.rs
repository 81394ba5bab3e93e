use std::path::Path;
use std::sync::Arc;

use tokenizers::Decoder;

use crate::{Error, Result, TokenStream};

/// The tokenizer of a checkpoint or bundle, from its `tokenizer.json`. A clone shares the vocabulary.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in `dir`.
    ///
    /// # Errors
    /// The file is missing, unreadable or no tokenizer.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            let advice =
                "save the tokenizer in the fast format (`tokenizer.save_pretrained` in transformers)";
            return Err(Error::MissingFile { path, advice });
        }
        let bytes = std::fs::read(&path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        tokenizers::Tokenizer::from_bytes(bytes)
            .map(Self::new)
            .map_err(|e| Error::Malformed {
                path,
                message: e.to_string(),
            })
    }

    /// Takes a tokenizer that was built in memory.
    pub fn new(mut tokenizer: tokenizers::Tokenizer) -> Self {
        // A prompt is never cut or filled up here, whatever settings the file was saved with.
        tokenizer.with_padding(None);
        // Taking truncation away cannot fail; only setting it can.
        let _ = tokenizer.with_truncation(None);
        Self {
            inner: Arc::new(tokenizer),
        }
    }

    /// The token ids of `text`. Control tokens written in the text become control tokens. With
    /// `add_special_tokens`, what the tokenizer puts around a text (often a beginning-of-text token) is added.
    ///
    /// # Errors
    /// The tokenizer cannot encode the text.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        self.inner
            .encode_fast(text, add_special_tokens)
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|e| Error::Tokenizer(e.to_string()))
    }

    /// The text of `ids`, without control tokens where `skip_special`. Bytes that are not UTF-8 become U+FFFD; ids
    /// that are not in the vocabulary are left out.
    ///
    /// # Errors
    /// The tokenizer cannot decode the ids.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|e| Error::Tokenizer(e.to_string()))
    }

    /// A decoder for ids that arrive one at a time.
    pub fn stream(&self, skip_special: bool) -> TokenStream {
        TokenStream::new(Arc::clone(&self.inner), skip_special)
    }

    /// The id of a token, given as it stands in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as it stands in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Number of tokens, added ones included. A model's own vocabulary may be larger: its rows are padded.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }
}

/// The text of one token's bytes or characters, as it goes into the decoder.
pub(crate) fn token_piece(tokenizer: &tokenizers::Tokenizer, id: u32, skip_special: bool) -> Option<String> {
    let added = tokenizer.get_added_vocabulary();
    added
        .simple_id_to_token(id)
        .or_else(|| tokenizers::Model::id_to_token(tokenizer.get_model(), id))
        .filter(|token| !skip_special || !added.is_special_token(token))
}

/// Whether the tokenizer writes every byte as a character of its own (GPT-2, Qwen2, Llama 3, SmolLM2).
pub(crate) fn is_byte_level(tokenizer: &tokenizers::Tokenizer) -> bool {
    matches!(
        tokenizer.get_decoder(),
        Some(tokenizers::DecoderWrapper::ByteLevel(_))
    )
}

/// Decodes pieces of text with the tokenizer's own decoder.
pub(crate) fn join_pieces(tokenizer: &tokenizers::Tokenizer, pieces: Vec<String>) -> Result<String> {
    match tokenizer.get_decoder() {
        Some(decoder) => decoder
            .decode(pieces)
            .map_err(|e| Error::Tokenizer(e.to_string())),
        None => Ok(pieces.join(" ")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A byte-level tokenizer with one token per byte, a few merges and control tokens: ids 0–255 are the bytes
    /// in the order of the byte alphabet, 256 `he`, 257 `Ġt`, 258 `Ã©`, from 259 the control tokens.
    pub(crate) fn byte_tokenizer() -> Tokenizer {
        Tokenizer::new(tokenizers::Tokenizer::from_bytes(byte_tokenizer_json()).unwrap())
    }

    /// Its `tokenizer.json`.
    pub(crate) fn byte_tokenizer_json() -> String {
        let mut alphabet: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
            .into_iter()
            .collect();
        alphabet.sort_unstable();
        let mut vocab: Vec<String> = alphabet.iter().map(char::to_string).collect();
        vocab.extend(["he", "Ġt", "Ã©"].map(str::to_owned));
        let vocab: serde_json::Map<String, serde_json::Value> = vocab
            .into_iter()
            .enumerate()
            .map(|(id, token)| (token, id.into()))
            .collect();
        let added: Vec<serde_json::Value> = [
            "<|im_start|>",
            "<|im_end|>",
            "<|vision_start|>",
            "<|image_pad|>",
            "<|vision_end|>",
        ]
        .iter()
        .enumerate()
        .map(|(i, token)| {
            serde_json::json!({"id": 259 + i, "content": token, "single_word": false, "lstrip": false,
                        "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
        let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": byte_level, "post_processor": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": [["h", "e"], ["Ġ", "t"], ["Ã", "©"]]},
        });
        json.to_string()
    }

    #[test]
    fn encodes_merges_and_control_tokens() {
        let tokenizer = byte_tokenizer();
        assert_eq!(
            tokenizer.encode("he<|im_end|>é t", false).unwrap(),
            [256, 260, 258, 257]
        );
        assert_eq!(tokenizer.vocab_size(), 264);
        assert_eq!(tokenizer.token_to_id("<|image_pad|>"), Some(262));
        assert_eq!(tokenizer.id_to_token(257).as_deref(), Some("Ġt"));
        assert_eq!(tokenizer.id_to_token(999), None);
    }

    #[test]
    fn decodes_with_and_without_control_tokens() {
        let tokenizer = byte_tokenizer();
        assert_eq!(tokenizer.decode(&[256, 260, 258, 257], true).unwrap(), "heé t");
        assert_eq!(
            tokenizer.decode(&[256, 260, 258, 257], false).unwrap(),
            "he<|im_end|>é t"
        );
    }

    #[test]
    fn a_folder_without_a_tokenizer_is_named() {
        let error = Tokenizer::from_dir(Path::new("/nonexistent"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("`/nonexistent/tokenizer.json` is missing; "),
            "{error}"
        );
    }
}
