mod hit_rates;
mod ngrams;

use hit_rates::HitRates;
use ngrams::Ngrams;

/// What one more guessed token costs, as a part of a step of one token. SmolLM2-135M in int4 takes 1.9 times as long for four
/// tokens as for one, and 3.1 times for eight; other models on processors are near it. On a card it is less.
const ROW_COST: f64 = 0.3;

/// Longest end of the text that is compared with what is followed.
const LONGEST_MATCH: usize = 16;

/// Guesses how a text goes on, by where its last tokens came before: they are found again in prompt and text, and what came
/// after them then may come again (Yang et al. 2023, "Inference with Reference", arXiv 2304.04487). Whoever asks has the guesses verified, so
/// that they change how fast a text comes and nothing else.
///
/// How many tokens are guessed follows from how often guesses were right after as long a match. It is counted of all tokens,
/// guesses that nobody made included, so a text that repeats nothing has nothing guessed.
#[derive(Debug)]
pub(crate) struct Lookup {
    most: usize,
    ngrams: Ngrams,
    rates: HitRates,
    /// Tokens of the text that were looked at.
    seen: usize,
    followed: Option<Match>,
}

/// An earlier place that the text goes on like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Match {
    /// The place of the token that comes next, if it goes on so.
    place: usize,
    /// Tokens before it that are the same.
    length: usize,
}

impl Lookup {
    /// Guesses up to `most` tokens of a text that begins with `tokens`.
    pub(crate) fn new(most: usize, tokens: &[u32]) -> Self {
        let mut ngrams = Ngrams::default();
        (0..tokens.len()).for_each(|place| ngrams.add(tokens, place));
        Self {
            most,
            ngrams,
            rates: HitRates::default(),
            seen: tokens.len(),
            followed: None,
        }
    }

    /// Looks at the tokens that are new in the text.
    pub(crate) fn follow(&mut self, tokens: &[u32]) {
        for place in self.seen..tokens.len() {
            if let Some(followed) = self.followed {
                let hit = tokens[followed.place] == tokens[place];
                self.rates.count(followed.length, hit);
                self.followed = hit.then_some(Match {
                    place: followed.place + 1,
                    length: followed.length + 1,
                });
            }
            self.ngrams.add(tokens, place);
            if self.followed.is_none() {
                self.followed = self.find(&tokens[..=place]);
            }
        }
        self.seen = tokens.len();
    }

    /// Forgets all but the first `tokens` tokens.
    pub(crate) fn rewind(&mut self, tokens: usize) {
        self.seen = self.seen.min(tokens);
        self.followed = None;
    }

    /// The next tokens of the text `tokens`, which was followed, as far as a guess pays; up to `most`.
    pub(crate) fn guess<'t>(&self, tokens: &'t [u32], most: usize) -> &'t [u32] {
        let Some(Match { place, length }) = self.followed else {
            return &[];
        };
        let most = most.min(self.most).min(tokens.len() - place);
        let (mut count, mut chance, mut right) = (0, 1.0, 0.0);
        while count < most {
            chance *= self.rates.of(length + count);
            // Tokens by time, with this token and without it.
            let cost = |guesses: usize| 1.0 + ROW_COST * guesses as f64;
            if (1.0 + right + chance) / cost(count + 1) <= (1.0 + right) / cost(count) {
                break;
            }
            right += chance;
            count += 1;
        }
        &tokens[place..place + count]
    }

    /// Where the last tokens of `tokens` came before.
    fn find(&self, tokens: &[u32]) -> Option<Match> {
        let place = self.ngrams.find(tokens)?;
        let pairs = tokens[..place].iter().rev().zip(tokens.iter().rev());
        let length = pairs.take(LONGEST_MATCH).take_while(|(a, b)| a == b).count();
        Some(Match { place, length })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Follows a text token by token and tells every guess.
    fn guesses(prompt: &[u32], text: &[u32], most: usize) -> Vec<Vec<u32>> {
        let mut tokens = prompt.to_vec();
        let mut lookup = Lookup::new(most, &tokens);
        let step = |id: &u32| {
            tokens.push(*id);
            lookup.follow(&tokens);
            lookup.guess(&tokens, usize::MAX).to_vec()
        };
        text.iter().map(step).collect()
    }

    #[test]
    fn what_comes_again_is_guessed_and_more_of_it_the_longer_it_does() {
        let prompt: Vec<u32> = (0..200).collect();
        let text: Vec<u32> = (50..120).collect();
        let guesses = guesses(&prompt, &text, 8);
        assert!(guesses[0].is_empty(), "one token is no match");
        for (at, guess) in guesses.iter().enumerate() {
            let next: Vec<u32> = (51 + at as u32..).take(guess.len()).collect();
            assert_eq!(*guess, next);
        }
        assert!((1..4).contains(&guesses[1].len()), "{:?}", guesses[1]);
        assert!(guesses[30..].iter().all(|guess| guess.len() == 8));
    }

    #[test]
    fn what_never_comes_again_is_not_guessed_for_long() {
        // Every second pair of tokens was there before, and what comes after it is always new.
        let text: Vec<u32> = (0..400)
            .map(|at| if at % 4 < 2 { at % 4 } else { 1000 + at })
            .collect();
        let guesses = guesses(&[], &text, 8);
        assert!(guesses[..40].iter().any(|guess| !guess.is_empty()));
        assert!(guesses[60..].iter().all(Vec::is_empty));
    }

    #[test]
    fn the_latest_place_and_the_longest_match_are_taken() {
        // After 1 2 came 3, then 4; after 9 1 2 came 5.
        let prompt = [9, 1, 2, 5, 0, 1, 2, 3, 0, 1, 2, 4, 0];
        let first = |text: &[u32]| guesses(&prompt, text, 1).pop().unwrap();
        assert_eq!(first(&[7, 1, 2]), [4]);
        assert_eq!(first(&[9, 1, 2]), [5]);
    }

    #[test]
    fn a_text_that_went_back_is_looked_up_as_it_is() {
        let mut tokens = vec![1, 2, 3, 4, 5, 6, 7];
        let mut lookup = Lookup::new(4, &[]);
        lookup.follow(&tokens);
        tokens.truncate(3);
        lookup.rewind(3);
        tokens.extend([8, 8, 3, 4]);
        lookup.follow(&tokens);
        // 3 4 came before only in what is gone.
        assert_eq!(lookup.followed, None);
        tokens.extend([9, 1, 2]);
        lookup.follow(&tokens);
        assert_eq!(lookup.followed, Some(Match { place: 2, length: 2 }));
    }
}
