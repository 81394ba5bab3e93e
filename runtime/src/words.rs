/// Counts words as the length targets mean them: every Chinese or Japanese character, Korean syllable or full-width
/// letter is a word; all else is a word from blank to blank, if it has a letter or digit in it.
///
/// ```
/// assert_eq!(lwv_runtime::count_words("Don't panic - 你好, world 42!"), 6);
/// ```
pub fn count_words(text: &str) -> usize {
    let mut counter = WordCounter::new();
    counter.push(text);
    counter.count()
}

/// Counts the words of a text that arrives in pieces, in time that does not depend on what came before. Same rule as
/// [`count_words`]; a word that is split over pieces counts once, from its first letter on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WordCounter {
    count: usize,
    in_word: bool,
}

impl WordCounter {
    /// A counter at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) {
        for character in text.chars() {
            if counts_alone(character) {
                self.count += 1;
                self.in_word = false;
            } else if character.is_whitespace() {
                self.in_word = false;
            } else if !self.in_word && character.is_alphanumeric() {
                self.count += 1;
                self.in_word = true;
            }
        }
    }

    /// Words so far.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// Kana, CJK ideographs with their extensions, Hangul syllables, full-width letters and half-width kana.
fn counts_alone(character: char) -> bool {
    matches!(u32::from(character),
        0x3040..=0x30FA | 0x30FC..=0x30FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xAC00..=0xD7A3 | 0xF900..=0xFAFF
        | 0xFF10..=0xFF19 | 0xFF21..=0xFF3A | 0xFF41..=0xFF5A | 0xFF66..=0xFF9D | 0x20000..=0x323AF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_characters() {
        for (text, words) in [
            ("", 0),
            ("One two  three.\nfour", 4),
            ("well-known don't 3.14", 3),
            ("- * — #", 0),
            ("你好，世界。", 4),
            ("GPU加速 test", 4),
            ("ひらがな", 4),
            ("한국어", 3),
        ] {
            assert_eq!(count_words(text), words, "{text:?}");
        }
    }

    #[test]
    fn pieces_count_as_the_whole() {
        let text = "Ein längeres Wort, 你好 and won't-stop 12.5 %";
        for split in text.char_indices().map(|(index, _)| index) {
            let mut counter = WordCounter::new();
            counter.push(&text[..split]);
            counter.push(&text[split..]);
            assert_eq!(counter.count(), count_words(text), "split at {split}");
        }
    }
}
