/// Passes text on as it arrives; from a moment on only whole sentences, so that a text can be ended at one without
/// taking back what was shown. White space at the start and the end is dropped, and so are headings at the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct SentenceHold {
    held: String,
    begun: bool,
    whole_sentences: bool,
}

impl SentenceHold {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// From now on only whole sentences are passed on.
    pub(crate) fn hold_sentences(&mut self) {
        self.whole_sentences = true;
    }

    /// Takes a piece. Returns what can be passed on, and whether that ends a sentence.
    pub(crate) fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        if !self.begun && !self.begin() {
            return (String::new(), false);
        }
        let end = last_sentence_end(&self.held);
        let passed = if self.whole_sentences {
            end.unwrap_or(0)
        } else {
            self.held.trim_end().len()
        };
        let ended = end.is_some_and(|end| self.whole_sentences || end == passed);
        (self.held.drain(..passed).collect(), ended)
    }

    /// Drops what does not belong to the text; returns whether the text is there.
    fn begin(&mut self) -> bool {
        loop {
            let blank = self.held.len() - self.held.trim_start().len();
            self.held.drain(..blank);
            if !self.held.starts_with('#') {
                self.begun = !self.held.is_empty();
                return self.begun;
            }
            // A heading is written by the writer, not by the model.
            let Some(end) = self.held.find('\n') else {
                return false;
            };
            self.held.drain(..end);
        }
    }

    /// The rest of a text that was ended by its writer.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held).trim_end().to_owned()
    }

    /// The rest of a text that was cut off: its last whole sentence, or, where even the one that was begun is all there
    /// is, that.
    pub(crate) fn cut(&mut self, nothing_passed: bool) -> String {
        let held = std::mem::take(&mut self.held);
        match sentence_end_at_end(&held).or_else(|| last_sentence_end(&held)) {
            Some(end) => held[..end].to_owned(),
            None if nothing_passed || !self.whole_sentences => held.trim_end().to_owned(),
            None => String::new(),
        }
    }
}

/// Where the last sentence ends that is known to end: the next character is there and does not go on with it.
fn last_sentence_end(text: &str) -> Option<usize> {
    text.char_indices()
        .rev()
        .find_map(|(at, character)| match character {
            '。' | '！' | '？' => Some(after_closers(text, at + character.len_utf8())),
            '\n' if at > 0 && !text[..at].ends_with('\n') => {
                Some(text[..at].trim_end().len()).filter(|end| *end > 0)
            }
            '.' | '!' | '?' | '…' => {
                let end = after_closers(text, at + character.len_utf8());
                let goes_on = |next: char| !next.is_whitespace();
                let known = text[end..].chars().next().is_some_and(|next| !goes_on(next));
                (known && !ends_in_abbreviation(&text[..at])).then_some(end)
            }
            _ => None,
        })
}

/// The end of a text whose last character ends a sentence, though nothing follows.
fn sentence_end_at_end(text: &str) -> Option<usize> {
    let end = text.trim_end().len();
    last_sentence_end(&format!("{} ", &text[..end])).filter(|found| *found == end)
}

fn after_closers(text: &str, end: usize) -> usize {
    let closers = text[end..]
        .chars()
        .take_while(|c| "\"'”’»)]*_」』）".contains(*c));
    end + closers.map(char::len_utf8).sum::<usize>()
}

/// `e.g`, `Mr`, `3` of a numbered list: a full stop behind these ends no sentence.
fn ends_in_abbreviation(before: &str) -> bool {
    let word = before
        .rsplit(|c: char| c.is_whitespace() || c == '(')
        .next()
        .unwrap_or("");
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    let item = before.rsplit('\n').next().is_some_and(|line| {
        let line = line.trim();
        !line.is_empty() && line.chars().all(|c| c.is_ascii_digit())
    });
    initial
        || item
        || matches!(
            word,
            "e.g" | "i.e" | "Mr" | "Mrs" | "Ms" | "Dr" | "vs" | "etc" | "Fig" | "No" | "St"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_passes_at_once_until_sentences_are_held() {
        let mut hold = SentenceHold::new();
        assert_eq!(hold.push("\n One"), ("One".into(), false));
        assert_eq!(hold.push(" two. Th"), (" two. Th".into(), false));
        hold.hold_sentences();
        assert_eq!(hold.push("ree four"), (String::new(), false));
        assert_eq!(hold.push("."), (String::new(), false), "3. may go on as 3.14");
        assert_eq!(hold.push(" Five"), ("ree four.".into(), true));
        assert_eq!(hold.cut(false), "");
    }

    #[test]
    fn a_cut_keeps_whole_sentences() {
        let cut = |text: &str, nothing_passed| {
            let mut hold = SentenceHold::new();
            hold.hold_sentences();
            let (passed, _) = hold.push(text);
            passed + &hold.cut(nothing_passed)
        };
        assert_eq!(cut("One two. Three", false), "One two.");
        assert_eq!(cut("One two. Three.", false), "One two. Three.");
        assert_eq!(cut("One two", true), "One two");
        assert_eq!(cut("甲乙。丙", false), "甲乙。");
        assert_eq!(cut("He said \"no.\" Then", false), "He said \"no.\"");
    }

    #[test]
    fn full_stops_that_end_nothing() {
        assert_eq!(last_sentence_end("of 3.14 metres"), None);
        assert_eq!(last_sentence_end("as e.g. bees"), None);
        assert_eq!(last_sentence_end("by Dr. A. Bee"), None);
        assert_eq!(last_sentence_end("1. Bees"), None);
        assert_eq!(last_sentence_end("A line\nnext"), Some(6));
        assert_eq!(last_sentence_end("Yes! No"), Some(4));
    }

    #[test]
    fn a_heading_at_the_start_is_dropped() {
        let mut hold = SentenceHold::new();
        let texts: String = ["\n#", "# Be", "es\n", "\n", "They fly."]
            .iter()
            .map(|piece| hold.push(piece).0)
            .collect();
        assert_eq!(texts, "They fly.");
    }

    #[test]
    fn white_space_round_the_text_is_dropped() {
        let mut hold = SentenceHold::new();
        let (first, _) = hold.push("  a \n\n");
        assert_eq!((first + &hold.finish()).as_str(), "a");
        let mut hold = SentenceHold::new();
        let texts: String = ["\n", "a", " ", "b", "\n\n"]
            .iter()
            .map(|piece| hold.push(piece).0)
            .collect();
        assert_eq!(texts + &hold.finish(), "a b");
    }
}
