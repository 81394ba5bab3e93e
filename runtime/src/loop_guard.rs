mod certainty;
mod distinct_ngrams;
mod periods;
mod sentence_repeats;
mod stretch;

use serde::{Deserialize, Serialize};

use crate::written::WrittenText;
use certainty::Certainty;
pub(crate) use certainty::entropy;
use distinct_ngrams::DistinctNgrams;
use periods::Periods;
use sentence_repeats::SentenceRepeats;

/// Times that a text goes back and tries again before it ends.
const ATTEMPTS: u8 = 3;

/// Tokens for which the sampler is strengthened after a text went back, unless more were taken back.
pub(crate) const STRENGTHENED_TOKENS: usize = 128;

/// Follows a text while it is generated and finds out when it turns in circles:
///
/// 1. the same block of tokens comes three times in a row ([`Periods`]),
/// 2. most sequences of four tokens were there before ([`DistinctNgrams`]),
/// 3. the same sentence comes for the third time ([`SentenceRepeats`]),
/// 4. the model has no more choice for a long time ([`Certainty`]).
///
/// Each of them tells where the loop began: where something came for the second time, so that the first time stays. Each
/// also tells at any time since when the text may turn out to be a loop; text before that is settled.
pub(crate) struct LoopGuard {
    watches: Watches,
    /// Entropy of the choice of each token.
    entropies: Vec<f32>,
    attempts: LoopAttempts,
}

/// What was tried against loops so far: all that a guard needs to go on, beside the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopAttempts {
    /// Tries to leave the loop that was found last.
    pub count: u8,
    /// Tokens of the text when a loop was found furthest on.
    pub furthest: usize,
}

#[derive(Default)]
struct Watches {
    periods: Periods,
    ngrams: DistinctNgrams,
    sentences: SentenceRepeats,
    certainty: Certainty,
}

impl LoopGuard {
    /// A guard of a text that may have begun already.
    pub(crate) fn new(written: &WrittenText) -> Self {
        let mut guard = Self {
            watches: Watches::default(),
            entropies: vec![f32::INFINITY; written.tokens()],
            attempts: LoopAttempts::default(),
        };
        guard.look_again(written);
        guard
    }

    /// Looks at the token that was written last, chosen by scores of this entropy. Returns the number of tokens after which
    /// a loop began, if there is one.
    pub(crate) fn observe(&mut self, written: &WrittenText, entropy: f32) -> Option<usize> {
        self.entropies.push(entropy);
        self.watches.look(written, written.tokens() - 1, entropy)
    }

    /// Starts anew with a text that went back.
    pub(crate) fn look_again(&mut self, written: &WrittenText) {
        self.entropies.truncate(written.tokens());
        self.watches = Watches::default();
        for (place, entropy) in self.entropies.iter().enumerate() {
            // Loops in here were found before, and this is what was kept.
            self.watches.look(written, place, *entropy);
        }
    }

    /// Counts a try to leave a loop that was found when the text had `found` tokens, of which `kept` stay. Returns which one
    /// it is, from 1, and nothing where all were made. Where more is kept than the text ever had in a loop, that loop was
    /// left, and this one has all tries again.
    pub(crate) fn attempt(&mut self, found: usize, kept: usize) -> Option<u8> {
        let attempts = &mut self.attempts;
        if kept > attempts.furthest {
            attempts.count = 0;
        }
        attempts.furthest = attempts.furthest.max(found);
        attempts.count += 1;
        (!self.is_exhausted()).then_some(self.attempts.count)
    }

    /// What was tried so far.
    pub(crate) fn attempts(&self) -> LoopAttempts {
        self.attempts
    }

    /// Goes on where another guard stood.
    pub(crate) fn resume(&mut self, attempts: LoopAttempts) {
        self.attempts = attempts;
    }

    /// Whether all tries were made, and the text ends.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.attempts.count > ATTEMPTS
    }

    /// Whether a block of tokens came twice in a row, so that the third time would be a loop.
    pub(crate) fn suspects_loop(&self) -> bool {
        self.watches.periods.came_twice()
    }

    /// Tokens at the start that are part of no loop, whatever comes.
    pub(crate) fn settled(&self, written: &WrittenText) -> usize {
        let tokens = written.tokens();
        let watches = &self.watches;
        [
            watches.periods.since(),
            watches.ngrams.since(),
            watches.sentences.since(written),
            watches.certainty.since(),
        ]
        .into_iter()
        .flatten()
        .fold(tokens, usize::min)
    }
}

impl Watches {
    fn look(&mut self, written: &WrittenText, place: usize, entropy: f32) -> Option<usize> {
        let id = written.id(place);
        let in_code_or_table = written.in_code_or_table(place);
        let block = self.periods.push(id, in_code_or_table);
        let sentence = self.sentences.look(written);
        let (few, certain) = if in_code_or_table {
            self.ngrams.pass_over();
            (None, None)
        } else {
            let few = self.ngrams.push(place, id);
            let certain = self.certainty.push(place, entropy, self.ngrams.is_repeated());
            (few, certain)
        };
        [block, sentence, few, certain].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{processor, tokens_of};

    /// How many tokens of `text` were read when a loop was found, and where it began.
    fn found(text: &str) -> Option<(usize, usize)> {
        let mut written = WrittenText::new(processor().tokenizer(), &[], &[], &[]);
        let mut guard = LoopGuard::new(&written);
        tokens_of(text).into_iter().enumerate().find_map(|(place, id)| {
            written.push(id);
            let settled = guard.settled(&written);
            let began = guard.observe(&written, 1.0)?;
            assert!(
                began >= settled,
                "{began} was settled, as was all before {settled}"
            );
            Some((place + 1, began))
        })
    }

    #[test]
    fn attempts_start_again_when_a_loop_is_left_behind() {
        let written = WrittenText::new(processor().tokenizer(), &[], &[], &[]);
        let mut guard = LoopGuard::new(&written);
        let mut attempts = |loops: &[(usize, usize)]| -> Vec<Option<u8>> {
            loops
                .iter()
                .map(|(found, kept)| guard.attempt(*found, *kept))
                .collect()
        };
        assert_eq!(
            attempts(&[(500, 300), (450, 300), (520, 310), (530, 310)]),
            [Some(1), Some(2), Some(3), None]
        );
        assert_eq!(attempts(&[(700, 531), (650, 531)]), [Some(1), Some(2)]);
    }

    #[test]
    fn plain_text_is_no_loop() {
        assert_eq!(found(include_str!("../../CONTRIBUTING.md")), None);
        assert_eq!(found(include_str!("../../ARCHITECTURE.md")), None);
    }

    #[test]
    fn going_back_forgets_the_loop() {
        let text = format!("A start. {}", "tick tock ".repeat(10));
        let mut written = WrittenText::new(processor().tokenizer(), &[], &[], &[]);
        let mut guard = LoopGuard::new(&written);
        for round in 0..3 {
            let rest = &text[written.text().len()..];
            let began = tokens_of(rest).into_iter().find_map(|id| {
                written.push(id);
                guard.observe(&written, 1.0)
            });
            assert_eq!(began, Some("A start. tick tock".len()), "round {round}");
            written.rewind(9);
            guard.look_again(&written);
        }
    }
}
