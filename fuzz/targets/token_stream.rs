//! Text from tokens that come one at a time: however a text's bytes are spread over tokens, the pieces put together are what
//! all tokens decode to, and no character is broken that was whole.
//! The first byte says how; the rest is the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lwv_processor::Tokenizer;
use serde_json::{Map, Value, json};

/// Longer texts only take time.
const MOST_BYTES: usize = 400;

/// The characters that stand for bytes in vocabularies (`bytes_to_unicode` of GPT-2).
fn characters() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        let code = if printable { byte as u32 } else { next };
        next += u32::from(!printable);
        char::from_u32(code).expect("below the surrogates")
    })
}

/// A tokenizer of these tokens, whose pieces are bytes of GPT-2 or, with `fallback`, texts and bytes like `<0xE2>`.
fn tokenizer(tokens: &[String], fallback: bool) -> Option<Tokenizer> {
    let vocabulary: Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), id.into()))
        .collect();
    let decoder = if fallback {
        json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]})
    } else {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})
    };
    let description = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": fallback, "ignore_merges": false,
            "vocab": vocabulary, "merges": []},
    });
    let tokenizer = tokenizers::Tokenizer::from_bytes(description.to_string()).ok()?;
    Some(Tokenizer::new(tokenizer))
}

/// The bytes in pieces whose lengths follow from `seed`.
fn pieces(bytes: &[u8], mut seed: u32) -> Vec<&[u8]> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (piece, after) = rest.split_at(rest.len().min(1 + (seed >> 28) as usize % 5));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// Each piece as a token of its own.
fn tokens(bytes: &[u8], seed: u32, fallback: bool) -> Vec<String> {
    let characters = characters();
    let of_piece = |piece: &[u8]| -> Vec<String> {
        match (fallback, std::str::from_utf8(piece)) {
            (false, _) => vec![piece.iter().map(|byte| characters[usize::from(*byte)]).collect()],
            (true, Ok(text)) => vec![text.replace(' ', "▁")],
            (true, Err(_)) => piece.iter().map(|byte| format!("<0x{byte:02X}>")).collect(),
        }
    };
    pieces(bytes, seed).into_iter().flat_map(of_piece).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let Some((how, bytes)) = bytes.split_first() else {
        return;
    };
    let bytes = &bytes[..bytes.len().min(MOST_BYTES)];
    let fallback = how & 1 == 1;
    let written = tokens(bytes, u32::from(*how), fallback);
    let mut vocabulary = written.clone();
    vocabulary.sort();
    vocabulary.dedup();
    let Some(tokenizer) = tokenizer(&vocabulary, fallback) else {
        return;
    };
    let ids: Vec<u32> = written
        .iter()
        .map(|token| tokenizer.token_to_id(token).expect("it is in the vocabulary"))
        .collect();
    let mut stream = tokenizer.stream(false);
    let mut deltas: Vec<String> = ids.iter().filter_map(|id| stream.push(*id)).collect();
    deltas.extend(stream.finish());
    let (streamed, decoded) = (
        deltas.concat(),
        tokenizer.decode(&ids, false).expect("ids decode"),
    );
    if fallback && decoded.contains(char::REPLACEMENT_CHARACTER) {
        // Decoding gives up whole runs of bytes, of which some were good when they came. Nothing else is lost.
        let mut rest = streamed.chars();
        let kept = |wanted| wanted == char::REPLACEMENT_CHARACTER || rest.any(|found| found == wanted);
        assert!(decoded.chars().all(kept), "{streamed:?} of {decoded:?}");
    } else {
        assert_eq!(streamed, decoded);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        // A text may hold the characters that stand for something else.
        let plain = !fallback || !(text.contains('▁') || text.contains("<0x"));
        if plain {
            assert_eq!(streamed, text);
        }
        assert!(deltas.iter().all(|delta| !delta.is_empty()));
    }
});
