use std::collections::{HashMap, VecDeque};

use crate::loop_guard::stretch::Stretch;

/// Sequences of four tokens that are looked at, so many of the last ones.
const WINDOW: usize = 256;

/// Fewest different ones among them, in percent. Plain text has more than 90.
const LEAST: usize = 35;

type Ngram = [u32; 4];

/// Finds a text that is made of what it had before, in whatever order. A token costs the same, however long the text is.
#[derive(Debug, Clone, Default)]
pub(super) struct DistinctNgrams {
    /// The last tokens.
    tokens: VecDeque<u32>,
    window: VecDeque<Ngram>,
    counts: HashMap<Ngram, usize>,
    repeated: Stretch,
    last_repeated: bool,
}

impl DistinctNgrams {
    /// Takes the token at `place`. Returns where most of the text began to be repeated.
    pub(super) fn push(&mut self, place: usize, id: u32) -> Option<usize> {
        self.tokens.push_back(id);
        if self.tokens.len() > 4 {
            self.tokens.pop_front();
        }
        let ngram = Ngram::try_from(self.tokens.make_contiguous()).ok()?;
        self.last_repeated = self.counts.contains_key(&ngram);
        self.repeated.push(place, self.last_repeated);
        self.remember(ngram);
        let few = self.window.len() == WINDOW && self.counts.len() * 100 < LEAST * WINDOW;
        self.since().filter(|_| few)
    }

    /// Leaves a token out.
    pub(super) fn pass_over(&mut self) {
        self.tokens.clear();
    }

    /// Whether the last sequence was there before.
    pub(super) fn is_repeated(&self) -> bool {
        self.last_repeated
    }

    /// Since when most sequences are repeated.
    pub(super) fn since(&self) -> Option<usize> {
        self.repeated.since()
    }

    fn remember(&mut self, ngram: Ngram) {
        if self.window.len() == WINDOW
            && let Some(oldest) = self.window.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
        self.window.push_back(ngram);
        *self.counts.entry(ngram).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a loop is found in these tokens, and where it began.
    fn found(tokens: impl IntoIterator<Item = u32>) -> Option<(usize, usize)> {
        let mut ngrams = DistinctNgrams::default();
        let push = |(place, id)| Some((place, ngrams.push(place, id)?));
        tokens.into_iter().enumerate().find_map(push)
    }

    #[test]
    fn a_text_of_a_few_phrases_is_found() {
        // Phrases of ten tokens in an order without a period, after a hundred tokens of plain text.
        let order = (0_u32..).map(|step| (step * step * step / 7) % 5);
        let phrases = order.flat_map(|phrase| (0..10).map(move |token| 1000 + phrase * 10 + token));
        let tokens = (0..100).chain(phrases).take(600);
        let (after, began) = found(tokens).unwrap();
        assert!(
            (250..400).contains(&after) && (110..180).contains(&began),
            "{after} {began}"
        );
    }

    #[test]
    fn counting_is_no_loop() {
        // The numbers from 100 on, in digits, each with a comma and a blank.
        let digits = |number: u32| [number / 100, number / 10 % 10, number % 10, 20, 21];
        assert_eq!(found((100..400).flat_map(digits)), None);
    }
}
