use lwv_processor::{TokenStream, Tokenizer};

use crate::markup::Markup;
use crate::sampler::TokenMark;
use crate::sentence::ends_sentence;
use crate::stop::StopStrings;
use crate::words::WordCounter;

/// The text of a generation as it is written: what its tokens decode to, what of it was handed out, and what each token is
/// in it. It begins with what was written before the generation, if anything was, and can go back to any token after that.
pub(crate) struct WrittenText {
    tokenizer: Tokenizer,
    stops: Vec<String>,
    breakers: Vec<String>,
    ids: Vec<u32>,
    /// Tokens that were written before.
    before: usize,
    text: String,
    tokens: Vec<WrittenToken>,
    marks: Vec<TokenMark>,
    /// Numbers of tokens after which a sentence or line ends, and where it ends in the text.
    sentence_ends: Vec<SentenceEnd>,
    /// The number of tokens when the text last grew.
    grown: usize,
    words: WordCounter,
    stream: TokenStream,
    stop: StopStrings,
    markup: Markup,
}

/// The text with a token.
#[derive(Debug, Clone, Copy)]
struct WrittenToken {
    /// Bytes that were handed out, or written before.
    handed_out: usize,
    in_code_or_table: bool,
}

/// The end of a sentence or line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SentenceEnd {
    /// Tokens up to it.
    pub(crate) tokens: usize,
    /// Bytes of text up to it.
    pub(crate) bytes: usize,
}

/// What a token added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Added {
    /// The text that is certain with it.
    pub(crate) text: String,
    /// A stop string was found; the text ends before it.
    pub(crate) stopped: bool,
}

impl WrittenText {
    /// `before` are the tokens that were written before. `stops` end the text after them, `breakers` mark tokens.
    pub(crate) fn new(tokenizer: &Tokenizer, before: &[u32], stops: &[String], breakers: &[String]) -> Self {
        let mut written = Self {
            stops: stops.to_vec(),
            breakers: breakers.to_vec(),
            ids: Vec::new(),
            before: before.len(),
            text: String::new(),
            tokens: Vec::new(),
            marks: Vec::new(),
            sentence_ends: Vec::new(),
            grown: 0,
            words: WordCounter::new(),
            stream: tokenizer.stream(true),
            stop: StopStrings::new(&[]),
            markup: Markup::default(),
            tokenizer: tokenizer.clone(),
        };
        for id in before {
            written.push(*id);
        }
        written.words = WordCounter::new();
        written.stream = tokenizer.stream(true);
        written.stop = StopStrings::new(stops);
        written
    }

    /// Takes the next token.
    pub(crate) fn push(&mut self, id: u32) -> Added {
        let piece = self.stream.push(id).unwrap_or_default();
        self.push_piece(id, &piece)
    }

    /// Takes the token that ended the text, which has none.
    pub(crate) fn push_end(&mut self, id: u32) -> Added {
        self.push_piece(id, "")
    }

    fn push_piece(&mut self, id: u32, piece: &str) -> Added {
        self.note_sentence_end(piece);
        let was = (self.markup.in_code_or_table(), self.markup.in_quotation());
        self.markup.push(piece);
        self.words.push(piece);
        let breaks = self.ends_breaker(piece);
        self.text.push_str(piece);
        let (text, stopped) = self.stop.push(piece);
        let in_code_or_table = was.0 || self.markup.in_code_or_table();
        self.ids.push(id);
        self.tokens.push(WrittenToken {
            handed_out: self.handed_out_after(self.tokens.len()) + text.len(),
            in_code_or_table,
        });
        self.marks.push(TokenMark {
            exempt: in_code_or_table || was.1 || self.markup.in_quotation(),
            breaks,
        });
        if !piece.is_empty() {
            self.grown = self.ids.len();
        }
        Added { text, stopped }
    }

    /// Remembers that a sentence ended with the text so far, which `piece` goes on with or not.
    fn note_sentence_end(&mut self, piece: &str) {
        let known = self.sentence_end().bytes;
        if !piece.is_empty() && known < self.text.len() && ends_sentence(&self.text[known..], piece) {
            self.end_sentence();
        }
    }

    /// Takes the text so far for the end of a sentence, whatever comes next.
    pub(crate) fn end_sentence(&mut self) {
        if self.sentence_end().bytes < self.text.len() {
            self.sentence_ends.push(SentenceEnd {
                tokens: self.grown,
                bytes: self.text.len(),
            });
        }
    }

    /// Whether a breaker ends within `piece`, which goes on with the text so far.
    fn ends_breaker(&self, piece: &str) -> bool {
        let ends = |breaker: &String| {
            let before = breaker.len().saturating_sub(1).min(self.text.len());
            let from = self.text.ceil_char_boundary(self.text.len() - before);
            !breaker.is_empty() && format!("{}{piece}", &self.text[from..]).contains(breaker.as_str())
        };
        self.breakers.iter().any(ends)
    }

    /// What is held back, at the end of a text. `whole` is whether the model ended it, so that even the start of a
    /// character is text.
    pub(crate) fn finish(&mut self, whole: bool) -> String {
        let rest = if whole { self.stream.finish() } else { None };
        let (mut text, stopped) = self.stop.push(&rest.unwrap_or_default());
        if !stopped {
            text.push_str(&self.stop.finish());
        }
        text
    }

    /// Goes back to the first `count` tokens, which are no fewer than were there before. Returns how many bytes that were
    /// handed out are taken back.
    pub(crate) fn rewind(&mut self, count: usize) -> usize {
        let handed_out = self.handed_out_after(self.tokens.len());
        let (before, after) = self.ids[..count].split_at(self.before);
        let mut shorter = Self::new(&self.tokenizer, before, &self.stops, &self.breakers);
        for id in after {
            shorter.push(*id);
        }
        // A sentence that is known to end here ends here, whatever comes next.
        let known = self.sentence_ends.partition_point(|end| end.tokens <= count);
        self.sentence_ends.truncate(known);
        shorter.sentence_ends = std::mem::take(&mut self.sentence_ends);
        *self = shorter;
        handed_out - self.handed_out_after(count)
    }

    /// Tokens, those that were written before included.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens that were written before.
    pub(crate) fn before(&self) -> usize {
        self.before
    }

    /// Bytes of text after the first `count` tokens that were handed out or written before.
    pub(crate) fn handed_out_after(&self, count: usize) -> usize {
        count
            .checked_sub(1)
            .map_or(0, |last| self.tokens[last].handed_out)
    }

    /// The last sentence end that comes with the first `count` tokens.
    pub(crate) fn sentence_end_before(&self, count: usize) -> SentenceEnd {
        let within = self.sentence_ends.partition_point(|end| end.tokens <= count);
        let last = within.checked_sub(1).map(|last| self.sentence_ends[last]);
        last.unwrap_or_default()
    }

    /// The last sentence end that is known.
    pub(crate) fn sentence_end(&self) -> SentenceEnd {
        self.sentence_ends.last().copied().unwrap_or_default()
    }

    /// All sentence ends that are known.
    pub(crate) fn sentence_ends(&self) -> &[SentenceEnd] {
        &self.sentence_ends
    }

    /// The text, what was written before and what is held back included.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A token by its place.
    pub(crate) fn id(&self, place: usize) -> u32 {
        self.ids[place]
    }

    /// Whether a token, by its place, touches a code block or table.
    pub(crate) fn in_code_or_table(&self, place: usize) -> bool {
        self.tokens[place].in_code_or_table
    }

    /// Marks of all tokens.
    pub(crate) fn marks(&self) -> &[TokenMark] {
        &self.marks
    }

    /// Whether the text is inside what may repeat.
    pub(crate) fn is_exempt(&self) -> bool {
        self.markup.in_code_or_table() || self.markup.in_quotation()
    }

    /// Words so far, without those that were written before.
    pub(crate) fn words(&self) -> usize {
        self.words.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{processor, tokens_of};

    fn written(before: &str, text: &str, stops: &[&str]) -> WrittenText {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let tokenizer = processor().tokenizer().clone();
        let mut written = WrittenText::new(
            &tokenizer,
            &tokens_of(before),
            &texts(stops),
            &texts(&["\n\n", ":"]),
        );
        for id in tokens_of(text) {
            written.push(id);
        }
        written
    }

    #[test]
    fn sentences_end_where_the_next_token_shows_it() {
        let text = "One. Two 3.5 m.\n- item\nlast.";
        let ends = written("", text, &[]).sentence_ends().to_vec();
        let parts: Vec<&str> = ends.iter().map(|end| &text[..end.bytes]).collect();
        assert_eq!(parts, ["One.", "One. Two 3.5 m.", "One. Two 3.5 m.\n- item"]);
        assert!(
            ends.iter().all(|end| end.tokens == end.bytes),
            "a token is a byte here"
        );
    }

    #[test]
    fn marks_tell_what_tokens_touch() {
        let text = "a \"b\" c: d\n\ne";
        let written = written("", text, &[]);
        let chosen = |of: fn(&TokenMark) -> bool| -> String {
            let marked = text.chars().zip(written.marks()).filter(|(_, mark)| of(mark));
            marked.map(|(character, _)| character).collect()
        };
        assert_eq!(chosen(|mark| mark.exempt), "\"b\"");
        assert_eq!(
            chosen(|mark| mark.breaks),
            ":\n",
            "the second of the two line ends"
        );
    }

    #[test]
    fn going_back_is_as_if_the_rest_had_never_been() {
        let text = "Naïve. 河 \"x\".\n| a |\n## en";
        let bytes = text.len();
        for count in 0..=bytes {
            let mut all = written("Before. ", text, &["\n## end", "y"]);
            let handed_out = all.handed_out_after(8 + bytes);
            let taken = all.rewind(8 + count);
            let mut part = written("Before. ", "", &["\n## end", "y"]);
            for id in &tokens_of(text)[..count] {
                part.push(*id);
            }
            assert_eq!(taken, handed_out - part.handed_out_after(8 + count));
            assert_eq!(all.words(), part.words());
            let rest = |written: &mut WrittenText| -> String {
                let pushed: String = tokens_of("!?")
                    .into_iter()
                    .map(|id| written.push(id).text)
                    .collect();
                pushed + &written.finish(true)
            };
            assert_eq!(rest(&mut all), rest(&mut part), "back to {count}");
        }
    }
}
