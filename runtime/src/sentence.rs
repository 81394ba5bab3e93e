/// Passes text on as it arrives, or only whole sentences of it, so that a text can be ended at one without taking back what was
/// shown. White space at the start and the end is dropped, and so are headings at the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct SentenceHold {
    /// All that arrived.
    arrived: String,
    stand: Stand,
    /// Where it stood after each piece, and the bytes that had arrived.
    stood: Vec<(usize, Stand)>,
}

/// How far text was passed on.
#[derive(Debug, Clone, Copy, Default)]
struct Stand {
    /// Where the text begins in what arrived, once it does.
    begin: Option<usize>,
    /// Up to where it was passed on or dropped.
    passed: usize,
    whole_sentences: bool,
}

impl SentenceHold {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Whether from now on only whole sentences are passed on.
    pub(crate) fn hold_sentences(&mut self, whole_sentences: bool) {
        self.stand.whole_sentences = whole_sentences;
    }

    /// Takes a piece. Returns what can be passed on, and whether that ends a sentence.
    pub(crate) fn push(&mut self, piece: &str) -> (String, bool) {
        self.arrived.push_str(piece);
        let passed = self.pass();
        self.stood.push((self.arrived.len(), self.stand));
        passed
    }

    fn pass(&mut self) -> (String, bool) {
        if self.stand.begin.is_none() && !self.begin() {
            return (String::new(), false);
        }
        let whole_sentences = self.stand.whole_sentences;
        let held = &self.arrived[self.stand.passed..];
        let end = last_sentence_end(held);
        let passed = if whole_sentences {
            end.unwrap_or(0)
        } else {
            held.trim_end().len()
        };
        let ended = end.is_some_and(|end| whole_sentences || end == passed);
        let text = held[..passed].to_owned();
        self.stand.passed += passed;
        (text, ended)
    }

    /// Takes back the last pieces, `bytes` bytes in all: it stands as if they had never arrived. Returns how many bytes of what
    /// was passed on that takes back.
    pub(crate) fn rewind(&mut self, bytes: usize) -> usize {
        let left = self.arrived.len().saturating_sub(bytes);
        self.arrived.truncate(left);
        self.stood.truncate(self.pieces_within(left));
        let stood = self.stood.last().map_or(Stand::default(), |(_, stood)| *stood);
        let stand = std::mem::replace(&mut self.stand, stood);
        stand.text_bytes() - stood.text_bytes()
    }

    fn pieces_within(&self, bytes: usize) -> usize {
        self.stood.partition_point(|(arrived, _)| *arrived <= bytes)
    }

    /// How many bytes of the text stay passed on if all but the first `bytes` bytes that arrived are taken back.
    pub(crate) fn passed_within(&self, bytes: usize) -> usize {
        let last = self.pieces_within(bytes).checked_sub(1);
        last.map_or(0, |last| self.stood[last].1.text_bytes())
    }

    /// Drops what does not belong to the text; returns whether the text is there.
    fn begin(&mut self) -> bool {
        loop {
            let held = &self.arrived[self.stand.passed..];
            let blank = held.len() - held.trim_start().len();
            let rest = &held[blank..];
            self.stand.passed += blank;
            if !rest.starts_with('#') {
                self.stand.begin = (!rest.is_empty()).then_some(self.stand.passed);
                return !rest.is_empty();
            }
            // A heading is written by the writer, not by the model.
            let Some(end) = rest.find('\n') else {
                return false;
            };
            self.stand.passed += end;
        }
    }

    /// The rest of a text that was ended by its writer.
    pub(crate) fn finish(&mut self) -> String {
        self.take_held().trim_end().to_owned()
    }

    /// The rest of a text that was cut off: its last whole sentence, or, where even the one that was begun is all there
    /// is, that.
    pub(crate) fn cut(&mut self, nothing_passed: bool) -> String {
        let held = self.take_held();
        match sentence_end_at_end(&held).or_else(|| last_sentence_end(&held)) {
            Some(end) => held[..end].to_owned(),
            None if nothing_passed || !self.stand.whole_sentences => held.trim_end().to_owned(),
            None => String::new(),
        }
    }

    fn take_held(&mut self) -> String {
        let held = self.arrived.split_off(self.stand.passed);
        self.stand.passed = self.arrived.len();
        held
    }
}

impl Stand {
    /// Bytes of the text that were passed on.
    fn text_bytes(&self) -> usize {
        self.passed - self.begin.unwrap_or(self.passed)
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

/// Whether a sentence or line ends where `before` does, when `after` goes on.
pub(crate) fn ends_sentence(before: &str, after: &str) -> bool {
    let kept = before.trim_end();
    if kept.is_empty() {
        return false;
    }
    if before[kept.len()..].contains('\n') || after.starts_with('\n') {
        return true;
    }
    let blank = kept.len() < before.len() || after.starts_with(char::is_whitespace);
    // No sentence is asked for more than its end, so that a text without any costs no more.
    let near = kept.ceil_char_boundary(kept.len().saturating_sub(64));
    sentence_end_at_end(&kept[near..]).is_some() && (blank || ends_without_blank(kept))
}

/// Full stops of scripts that put no blanks between sentences.
fn ends_without_blank(text: &str) -> bool {
    text.trim_end_matches(is_closer).ends_with(['。', '！', '？'])
}

fn is_closer(character: char) -> bool {
    "\"'”’»)]*_」』）".contains(character)
}

fn after_closers(text: &str, end: usize) -> usize {
    let closers = text[end..].chars().take_while(|c| is_closer(*c));
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
        hold.hold_sentences(true);
        assert_eq!(hold.push("ree four"), (String::new(), false));
        assert_eq!(hold.push("."), (String::new(), false), "3. may go on as 3.14");
        assert_eq!(hold.push(" Five"), ("ree four.".into(), true));
        assert_eq!(hold.cut(false), "");
    }

    #[test]
    fn a_cut_keeps_whole_sentences() {
        let cut = |text: &str, nothing_passed| {
            let mut hold = SentenceHold::new();
            hold.hold_sentences(true);
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

    #[test]
    fn what_was_passed_on_can_be_taken_back() {
        let text = "\n# Head\n\nOne two.  Three \"four.\"\nFive";
        for held_from in [0, 20, usize::MAX] {
            for back in 0..=text.len() {
                let mut hold = SentenceHold::new();
                let mut passed = String::new();
                for (at, character) in text.char_indices() {
                    hold.hold_sentences(at >= held_from);
                    passed.push_str(&hold.push(&character.to_string()).0);
                }
                let taken = hold.rewind(back);
                passed.truncate(passed.len() - taken);
                passed.push_str(&hold.push("; six.").0);
                passed.push_str(&hold.finish());
                let mut fresh = SentenceHold::new();
                let expected =
                    fresh.push(&format!("{}; six.", &text[..text.len() - back])).0 + &fresh.finish();
                assert_eq!(passed, expected, "{back} bytes back, held from {held_from}");
            }
        }
    }

    #[test]
    fn ends_are_told_by_what_comes_next() {
        for (before, after, ends) in [
            ("It ends.", " And", true),
            ("It is 3.", "5 m", false),
            ("Mr.", " Bee", false),
            ("甲乙。", "丙", true),
            ("He said \"no.\"", " Then", true),
            ("- an item", "\nnext", true),
            ("- an item\n", "next", true),
            ("a word", " more", false),
            ("", "a", false),
        ] {
            assert_eq!(ends_sentence(before, after), ends, "{before:?} {after:?}");
        }
    }
}
