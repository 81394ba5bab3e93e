use lwv_processor::Tokenizer;

use crate::error::Result;

/// What of `written`, the text so far, a prompt shows that has room for `room` tokens of it.
///
/// It is shown from the beginning until it is full, then from a sentence on that leaves half of the room free. Until that
/// half is full too, what is shown begins at the same place, so that prompts after one another begin alike and stay in the
/// cache: no token is computed again more often than once for every half of the room, and all prefill of a text grows with
/// its length. Where it begins follows from the text alone, so a writer that goes on with a draft shows the same.
///
/// # Errors
/// The tokenizer fails.
pub(crate) fn shown_text<'a>(written: &'a str, room: usize, tokenizer: &Tokenizer) -> Result<&'a str> {
    let (mut start, mut end, mut shown) = (0, 0, 0);
    let mut lengths = std::collections::VecDeque::new();
    for sentence in sentences(written) {
        let tokens = tokenizer.encode(sentence, false)?.len();
        lengths.push_back((sentence.len(), tokens));
        end += sentence.len();
        shown += tokens;
        if shown > room {
            while let Some((bytes, tokens)) = lengths.pop_front_if(|_| shown > room / 2) {
                start += bytes;
                shown -= tokens;
            }
        }
    }
    debug_assert_eq!(end, written.len());
    Ok(&written[start..])
}

/// The sentences of a text with the white space behind them.
fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let mut before = ' ';
    for (at, character) in text.char_indices() {
        let ended = match before {
            '。' | '！' | '？' => true,
            '.' | '!' | '?' => false,
            '\n' => character != '\n',
            _ => before.is_whitespace() && text[..at].trim_end_matches(' ').ends_with(['.', '!', '?']),
        };
        if ended && at > start && !character.is_whitespace() {
            sentences.push(&text[start..at]);
            start = at;
        }
        before = character;
    }
    sentences.extend(Some(&text[start..]).filter(|rest| !rest.is_empty()));
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::processor;

    #[test]
    fn sentences_are_the_whole_text() {
        let text = "One two. Three!\n\n## Head\n\n甲乙。丙 4.5 x";
        let found = sentences(text);
        assert_eq!(
            found,
            ["One two. ", "Three!\n\n", "## Head\n\n", "甲乙。", "丙 4.5 x"]
        );
        assert_eq!(sentences(""), [""; 0]);
    }

    #[test]
    fn what_is_shown_begins_at_few_places_and_always_fits() {
        let processor = processor();
        let text = "One two three. ".repeat(200);
        let (room, mut starts) = (300, Vec::new());
        for end in (0..=text.len()).step_by(15) {
            let shown = shown_text(&text[..end], room, processor.tokenizer()).unwrap();
            assert!(shown.len() <= room && text[..end].ends_with(shown));
            assert!(
                end < room || shown.len() >= room / 2 - 15,
                "{end}: {}",
                shown.len()
            );
            starts.push(end - shown.len());
        }
        assert!(starts.is_sorted());
        starts.dedup();
        assert_eq!(
            starts.len(),
            1 + text.len().saturating_sub(room).div_ceil(room / 2 + 15),
            "{starts:?}"
        );
    }

    #[test]
    fn a_sentence_without_end_is_not_shown_where_it_does_not_fit() {
        let processor = processor();
        assert_eq!(
            shown_text(&"x".repeat(50), 40, processor.tokenizer()).unwrap(),
            ""
        );
    }
}
