use std::sync::Arc;

use crate::tokenizer::{is_byte_level, join_pieces, token_piece};

/// Number of characters of the byte alphabet of GPT-2: printable bytes stand for themselves, the others follow
/// from U+0100 on.
const BYTE_CHARACTERS: usize = 0x144;

/// Text from token ids that arrive one at a time.
///
/// The pieces that [`push`](Self::push) and [`finish`](Self::finish) return, put together, are what
/// [`Tokenizer::decode`](crate::Tokenizer::decode) makes of all the ids, but that bytes written as `<0xE2>` which are no character
/// do not spoil the ones before them, as they do there. A character that is spread over several tokens comes with the last of them. With a byte-level tokenizer the cost of a token does not depend on the length
/// of the text; with others it does not as long as tokens end with whole characters.
#[derive(Debug, Clone)]
pub struct TokenStream {
    tokenizer: Arc<tokenizers::Tokenizer>,
    skip_special: bool,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    /// Bytes that may be the start of a character.
    Bytes(Vec<u8>),
    /// Other decoders look at neighbouring tokens (a space before a word, bytes written as `<0xE2>`), so the last
    /// pieces that were returned are decoded again together with the new ones.
    Window { pieces: Vec<String>, returned: usize },
}

impl TokenStream {
    pub(crate) fn new(tokenizer: Arc<tokenizers::Tokenizer>, skip_special: bool) -> Self {
        let state = if is_byte_level(&tokenizer) {
            State::Bytes(Vec::new())
        } else {
            State::Window {
                pieces: Vec::new(),
                returned: 0,
            }
        };
        Self {
            tokenizer,
            skip_special,
            state,
        }
    }

    /// Takes the next id. Returns the text that is complete with it, if any; never an empty one.
    pub fn push(&mut self, id: u32) -> Option<String> {
        let piece = token_piece(&self.tokenizer, id, self.skip_special)?;
        let text = match &mut self.state {
            State::Bytes(pending) => {
                push_bytes(&piece, pending);
                take_complete(pending)
            }
            State::Window { pieces, returned } => {
                pieces.push(piece);
                take_window(&self.tokenizer, pieces, returned, false)
            }
        };
        Some(text).filter(|text| !text.is_empty())
    }

    /// Returns what is left: the start of a character that never came to its end becomes U+FFFD, as in
    /// [`Tokenizer::decode`](crate::Tokenizer::decode). The stream can then be used for another text.
    pub fn finish(&mut self) -> Option<String> {
        let text = match &mut self.state {
            State::Bytes(pending) => String::from_utf8_lossy(&std::mem::take(pending)).into_owned(),
            State::Window { pieces, returned } => {
                let text = take_window(&self.tokenizer, pieces, returned, true);
                pieces.clear();
                *returned = 0;
                text
            }
        };
        Some(text).filter(|text| !text.is_empty())
    }
}

/// Appends a token's bytes. One with a character outside the byte alphabet stands for itself, as in tokenizers'
/// `ByteLevel` decoder.
fn push_bytes(piece: &str, pending: &mut Vec<u8>) {
    let start = pending.len();
    for character in piece.chars() {
        match BYTE_OF_CHARACTER.get(character as usize) {
            Some(Some(byte)) => pending.push(*byte),
            _ => {
                pending.truncate(start);
                pending.extend_from_slice(piece.as_bytes());
                return;
            }
        }
    }
}

/// Takes the longest part that no later byte can change.
fn take_complete(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    for chunk in pending.utf8_chunks() {
        text.push_str(chunk.valid());
        done += chunk.valid().len();
        let invalid = chunk.invalid();
        // An invalid end may be a character that is not complete yet.
        let unfinished = done + invalid.len() == pending.len() && is_start_of_character(invalid);
        if !invalid.is_empty() && !unfinished {
            text.push(char::REPLACEMENT_CHARACTER);
            done += invalid.len();
        }
    }
    pending.drain(..done);
    text
}

fn is_start_of_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// Decodes the pieces in the window and takes what was not returned before.
fn take_window(
    tokenizer: &tokenizers::Tokenizer,
    pieces: &mut Vec<String>,
    returned: &mut usize,
    to_the_end: bool,
) -> String {
    let decode = |pieces: &[String]| join_pieces(tokenizer, pieces.to_vec()).unwrap_or_default();
    let before = decode(&pieces[..*returned]);
    let now = decode(pieces);
    let Some(new) = now.strip_prefix(&before) else {
        // Bytes turned out to be no character, and the decoder now has something else for some before them, which are out
        // already. What comes after those is decoded by itself.
        pieces.drain(..*returned);
        *returned = 0;
        return take_window(tokenizer, pieces, returned, to_the_end);
    };
    if new.is_empty() || (!to_the_end && new.ends_with(char::REPLACEMENT_CHARACTER)) {
        return String::new();
    }
    let new = new.to_owned();
    pieces.drain(..*returned);
    *returned = pieces.len();
    new
}

/// The byte that each character of the byte alphabet stands for (`bytes_to_unicode` of GPT-2).
const BYTE_OF_CHARACTER: [Option<u8>; BYTE_CHARACTERS] = {
    let mut table = [None; BYTE_CHARACTERS];
    let mut next = 0x100;
    let mut byte = 0;
    while byte < 0x100 {
        let printable = matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
        if printable {
            table[byte] = Some(byte as u8);
        } else {
            table[next] = Some(byte as u8);
            next += 1;
        }
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use crate::tokenizer::tests::byte_tokenizer;
    use crate::{TokenStream, Tokenizer};

    fn pieces(stream: &mut TokenStream, ids: &[u32]) -> Vec<Option<String>> {
        let mut pieces: Vec<_> = ids.iter().map(|id| stream.push(*id)).collect();
        pieces.push(stream.finish());
        pieces
    }

    fn joined(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> String {
        pieces(&mut tokenizer.stream(skip_special), ids)
            .into_iter()
            .flatten()
            .collect()
    }

    fn metaspace_tokenizer() -> Tokenizer {
        let vocab = serde_json::json!({"<unk>": 0, "▁This": 1, "▁is": 2, "<0xC3>": 3, "<0xA9>": 4, "!": 5, "<0x0A>": 6});
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": []},
        });
        Tokenizer::new(tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap())
    }

    #[test]
    fn a_character_comes_with_its_last_byte() {
        let tokenizer = byte_tokenizer();
        // U+1F600 is F0 9F 98 80: four tokens, since no merge covers it.
        let ids = tokenizer.encode("a😀b", false).unwrap();
        assert_eq!(ids.len(), 6);
        let got = pieces(&mut tokenizer.stream(true), &ids);
        assert_eq!(
            got,
            [
                Some("a".into()),
                None,
                None,
                None,
                Some("😀".into()),
                Some("b".into()),
                None
            ]
        );
    }

    #[test]
    fn deltas_add_up_to_the_whole_decoded_text() {
        let tokenizer = byte_tokenizer();
        let ids = tokenizer
            .encode("he said: é t 漢字 😀\r\n<|im_end|>ok", false)
            .unwrap();
        for skip_special in [true, false] {
            assert_eq!(
                joined(&tokenizer, &ids, skip_special),
                tokenizer.decode(&ids, skip_special).unwrap()
            );
        }
        // Every slice of ids starts and ends somewhere inside characters.
        for start in 0..ids.len() {
            let part = &ids[start..];
            assert_eq!(
                joined(&tokenizer, part, true),
                tokenizer.decode(part, true).unwrap()
            );
            let part = &ids[..start];
            assert_eq!(
                joined(&tokenizer, part, true),
                tokenizer.decode(part, true).unwrap()
            );
        }
    }

    #[test]
    fn arbitrary_bytes_equal_the_decoder() {
        let tokenizer = byte_tokenizer();
        let mut state = 1_u32;
        for length in 1..200 {
            let ids: Vec<u32> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Mostly lead and continuation bytes, so that broken characters are common.
                    (state >> 24) % 270
                })
                .collect();
            assert_eq!(
                joined(&tokenizer, &ids, false),
                tokenizer.decode(&ids, false).unwrap(),
                "{ids:?}"
            );
        }
    }

    #[test]
    fn what_is_left_is_flushed_once() {
        let tokenizer = byte_tokenizer();
        let ids = tokenizer.encode("漢", false).unwrap();
        let mut stream = tokenizer.stream(true);
        assert_eq!(stream.push(ids[0]), None);
        assert_eq!(stream.finish().as_deref(), Some("\u{FFFD}"));
        assert_eq!(stream.finish(), None);
    }

    #[test]
    fn other_decoders_keep_their_spaces_and_bytes() {
        let tokenizer = metaspace_tokenizer();
        let ids = [1, 2, 1, 3, 4, 5, 2];
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "This is Thisé! is");
        assert_eq!(joined(&tokenizer, &ids, true), "This is Thisé! is");
        assert!(pieces(&mut tokenizer.stream(true), &ids).contains(&Some("é".into())));
        assert_eq!(joined(&tokenizer, &[1, 6, 3, 4, 5], true), "This\né!");
    }

    /// Found by fuzzing: nothing came any more after a line end and half a character.
    #[test]
    fn bytes_that_are_no_character_spoil_nothing_else() {
        let tokenizer = metaspace_tokenizer();
        let ids = [1, 6, 3, 5, 2];
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "This\u{FFFD}\u{FFFD}! is");
        assert_eq!(joined(&tokenizer, &ids, true), "This\n\u{FFFD}! is");
        assert_eq!(joined(&tokenizer, &[1, 6, 3], true), "This\n\u{FFFD}");
    }
}
