use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::words::count_words;
use crate::written::{SentenceEnd, WrittenText};

/// Fewest words of a sentence that counts. Where words are characters it takes twice as many.
const LEAST_WORDS: usize = 4;

/// The time at which a sentence is a loop.
const TIMES: usize = 3;

/// Sentences in a row that differ in nothing but numbers and make a loop. A text may well have three.
const COUNTED: usize = 4;

/// Marks after which a sentence may be over. Whether it is shows only when something follows, and a text may end here.
const TERMINATORS: [char; 6] = ['.', '!', '?', '。', '！', '？'];

/// Finds a sentence that comes for the third time in a text, and sentences in a row that only count on. Case, punctuation and the
/// number of a list's item make no difference; sentences in code blocks and tables do not count.
#[derive(Debug, Clone, Default)]
pub(super) struct SentenceRepeats {
    /// Sentences that were looked at.
    seen: usize,
    /// How often each came, by its hash.
    counts: HashMap<u64, usize>,
    /// Since when all sentences were there before.
    repeated_since: Option<usize>,
    counting: Counting,
}

/// Sentences at the end of a text that differ in nothing but numbers.
#[derive(Debug, Clone, Default)]
struct Counting {
    /// What they have in common, by its hash.
    template: Option<u64>,
    sentences: usize,
    /// Where the second of them begins.
    since: usize,
}

impl SentenceRepeats {
    /// Looks at the sentences that are new. Returns where sentences began to be repeated, if one comes for the third time.
    pub(super) fn look(&mut self, written: &WrittenText) -> Option<usize> {
        let mut looped = None;
        while let Some(end) = written.sentence_ends().get(self.seen) {
            let start = self.start(written);
            self.seen += 1;
            if written.in_code_or_table(end.tokens - 1) {
                continue;
            }
            let sentence = &written.text()[start.bytes..end.bytes];
            if self.count(sentence, start.tokens) >= TIMES {
                looped = self.repeated_since;
            }
            self.counting = self.counting.and(sentence, start.tokens);
            looped = looped.or_else(|| self.counting.loop_began());
        }
        looped.or_else(|| self.look_at_end(written))
    }

    /// Whether the text ends with what would be the third time.
    fn look_at_end(&self, written: &WrittenText) -> Option<usize> {
        let tokens = written.tokens();
        if !written.text().ends_with(TERMINATORS) || tokens == 0 || written.in_code_or_table(tokens - 1) {
            return None;
        }
        let start = self.start(written);
        let sentence = &written.text()[start.bytes..];
        let hash = hash_of(&normalized(sentence))?;
        let times = self.counts.get(&hash).map_or(0, |count| count + 1);
        if times >= TIMES {
            return Some(self.repeated_since.unwrap_or(start.tokens));
        }
        self.counting.and(sentence, start.tokens).loop_began()
    }

    /// Where the sentence begins that was not looked at yet.
    fn start(&self, written: &WrittenText) -> SentenceEnd {
        match self.seen.checked_sub(1) {
            Some(last) => written.sentence_ends()[last],
            None => SentenceEnd::default(),
        }
    }

    /// Since when sentences are repeated, or may turn out to be.
    pub(super) fn since(&self, written: &WrittenText) -> Option<usize> {
        let unfinished = written.sentence_ends().last().map_or(0, |end| end.tokens);
        let counted = (self.counting.sentences > 1).then_some(self.counting.since);
        let since = [self.repeated_since, counted].into_iter().flatten().min();
        Some(since.unwrap_or(unfinished))
    }

    /// How often a sentence came, this time included; 0 for one that is too short.
    fn count(&mut self, sentence: &str, start: usize) -> usize {
        let Some(hash) = hash_of(&normalized(sentence)) else {
            return 0;
        };
        let count = self.counts.entry(hash).or_default();
        *count += 1;
        if *count == 1 {
            self.repeated_since = None;
        } else {
            self.repeated_since.get_or_insert(start);
        }
        *count
    }
}

impl Counting {
    /// What it is with one more sentence, which begins after `start` tokens.
    fn and(&self, sentence: &str, start: usize) -> Self {
        let template = template(sentence).as_deref().and_then(hash_of);
        match template.is_some() && template == self.template {
            true => Self {
                sentences: self.sentences + 1,
                since: if self.sentences == 1 { start } else { self.since },
                template,
            },
            false => Self {
                template,
                sentences: 1,
                since: start,
            },
        }
    }

    fn loop_began(&self) -> Option<usize> {
        (self.sentences >= COUNTED).then_some(self.since)
    }
}

/// What tells normalized sentences apart; nothing for one that is too short.
fn hash_of(normalized: &str) -> Option<u64> {
    let least = if normalized.contains(' ') {
        LEAST_WORDS
    } else {
        2 * LEAST_WORDS
    };
    if count_words(normalized) < least {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    normalized.hash(&mut hasher);
    Some(hasher.finish())
}

/// Letters and digits in lower case, with one blank between words, without the number that a list's item begins with.
fn normalized(sentence: &str) -> String {
    let sentence = sentence.trim_start();
    let after_number = sentence.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_numbered = after_number.len() < sentence.len() && after_number.starts_with(['.', ')']);
    let words = if is_numbered { after_number } else { sentence }
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").to_lowercase()
}

/// A normalized sentence without its numbers; nothing where it has none.
fn template(sentence: &str) -> Option<String> {
    let normalized = normalized(sentence);
    let is_number = |word: &str| word.contains(|c: char| c.is_numeric());
    if !normalized.split(' ').any(is_number) {
        return None;
    }
    let words = normalized
        .split(' ')
        .map(|word| if is_number(word) { "0" } else { word });
    Some(words.collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{processor, tokens_of};

    /// Where the loop began that is found in a text, as the text before it.
    fn before_loop(text: &str) -> Option<&str> {
        let mut written = WrittenText::new(processor().tokenizer(), &[], &[], &[]);
        let mut repeats = SentenceRepeats::default();
        tokens_of(text).into_iter().find_map(|id| {
            written.push(id);
            repeats.look(&written).map(|began| &text[..began])
        })
    }

    #[test]
    fn a_sentence_comes_three_times() {
        assert_eq!(
            before_loop(
                "Bees fly far away. Wasps sting. Bees fly FAR away! So it is with them. Bees fly - far away. End."
            ),
            Some("Bees fly far away. Wasps sting. Bees fly FAR away! So it is with them.")
        );
        assert_eq!(
            before_loop("A start. Bees fly far away. Bees fly far away. Bees fly far away. "),
            Some("A start. Bees fly far away."),
            "the first of them stays"
        );
        assert_eq!(
            before_loop(
                "Bees fly far away.\n\n1. Bees fly far away.\n2. Wasps do not, so far.\n\nBees fly far away."
            ),
            Some("Bees fly far away.\n\n1. Bees fly far away.\n2. Wasps do not, so far."),
            "the text may end after it"
        );
        assert_eq!(
            before_loop("They fly far. They fly far. They fly far. They fly far. "),
            None
        );
        assert_eq!(before_loop("Bees fly far away. Bees fly far away. "), None);
    }

    #[test]
    fn sentences_that_only_count_on_are_a_loop() {
        assert_eq!(
            before_loop(
                "Tea is old. It was found in the 22nd century. It was found in the 24th century. It was found in the 26th century. It was found in the 30th century. "
            ),
            Some("Tea is old. It was found in the 22nd century.")
        );
        assert_eq!(
            before_loop(
                "1. The art of tea in 8444.\n2. The art of tea in 9472.\n3. The art of tea in 14870.\n4. The art of tea in 17998."
            ),
            Some("1. The art of tea in 8444."),
            "the text may end after it"
        );
        let three = "Rain fell on 3 days in May. Rain fell on 5 days in May. Rain fell on 9 days in May. ";
        assert_eq!(before_loop(&format!("{three}Then came summer. {three}")), None);
        let months = ["May", "June", "July", "August", "September"];
        let differ: String = months
            .map(|month| format!("Rain fell on 7 days in {month}. "))
            .concat();
        assert_eq!(before_loop(&differ), None);
    }

    #[test]
    fn code_and_tables_do_not_count() {
        assert_eq!(before_loop(&"| bees fly far away |\n".repeat(5)), None);
        assert_eq!(
            before_loop(&format!("```\n{}```\n", "the same line of code\n".repeat(5))),
            None
        );
    }

    #[test]
    fn chinese_sentences_have_no_blanks() {
        let text = "蜜蜂飞得非常远。蜜蜂飞得非常远。蜜蜂飞得非常远。";
        // Bytes are tokens here, and seven characters are too few.
        assert_eq!(before_loop(text), None);
        let text = text.replace("远", "远的");
        assert!(before_loop(&format!("{text}完")).is_some());
    }
}
