use std::cmp::Reverse;

use crate::sampler::SamplerSettings;
use crate::sampler::history::Counted;
use crate::sampler::repeats::Repeats;

/// The most that is subtracted, so that scores stay numbers.
const MOST: f32 = 1e30;

/// "Don't Repeat Yourself": a token that would go on with a repetition is penalized by
/// `multiplier · base ^ (length − allowed_length)`, where `length` is the number of tokens before it that are the same as
/// the last ones, if that is at least `allowed_length`. A repetition reaches back to the last sequence breaker at most, and
/// a token that ends a breaker is never penalized.
///
/// Source: p-e-w, oobabooga/text-generation-webui #5677, and llama.cpp #9702 (`llama_sampler_dry`), which has the same
/// formula and limits. Differently from there, breakers are found in the text instead of among the vocabulary's tokens.
#[derive(Debug, Clone, Default)]
pub(super) struct Dry {
    /// Tokens that would go on with a repetition, and its length. Kept between calls so that a token costs no allocation.
    followers: Vec<(u32, usize)>,
}

impl Dry {
    /// Costs two looks at every token in range, beside the finding of `repeats`, which must be those of `text`.
    pub(super) fn apply(
        &mut self,
        settings: &SamplerSettings,
        text: &Counted<'_>,
        repeats: &Repeats,
        logits: &mut [f32],
    ) {
        let allowed = settings.dry_allowed_length;
        let tokens = &text.tokens;
        let start = match settings.dry_range {
            0 => 0,
            range => tokens.len().saturating_sub(range),
        };
        let breaks = |place: &usize| !settings.dry_sequence_breakers.is_empty() && text.mark(*place).breaks;
        let last_break = (start..tokens.len()).rev().find(breaks);
        let longest = tokens.len() - last_break.map_or(start, |place| place + 1);
        if longest < allowed {
            return;
        }
        self.followers.clear();
        self.followers.extend(
            (start..tokens.len())
                .map(|place| (place, repeats.before(place).min(place - start).min(longest)))
                .filter(|(place, length)| *length >= allowed && !breaks(place))
                .map(|(place, length)| (tokens[place], length)),
        );
        // Of a token's repetitions the longest counts.
        self.followers
            .sort_unstable_by_key(|(id, length)| (*id, Reverse(*length)));
        self.followers.dedup_by_key(|(id, _)| *id);
        for (id, length) in &self.followers {
            if let Some(score) = logits.get_mut(*id as usize) {
                let grown = settings.dry_base.powf((*length - allowed) as f32);
                *score -= (settings.dry_multiplier * grown).min(MOST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{History, Sampler, TokenMark};

    fn dry() -> SamplerSettings {
        SamplerSettings {
            dry_multiplier: 0.5,
            dry_base: 2.0,
            dry_allowed_length: 2,
            ..SamplerSettings::greedy()
        }
    }

    /// What is subtracted from the scores of tokens 0 to 4. Tokens of `breaking` end a breaker.
    fn penalties(settings: SamplerSettings, generated: &[u32], breaking: &[u32]) -> [f32; 5] {
        let marks: Vec<TokenMark> = generated
            .iter()
            .map(|id| TokenMark {
                breaks: breaking.contains(id),
                ..TokenMark::default()
            })
            .collect();
        let mut logits = [100.0; 5];
        let history = History {
            generated,
            marks: &marks,
            ..History::default()
        };
        let mut sampler = Sampler::new(settings).unwrap();
        sampler.choose_after(&mut logits, &history).unwrap();
        logits.map(|score| 100.0 - score)
    }

    #[test]
    fn the_penalty_grows_with_the_repetition() {
        assert_eq!(
            penalties(dry(), &[1, 2, 3, 1], &[]),
            [0.0; 5],
            "one token is no repetition yet"
        );
        // 1 2 was there, and 3 after it: 0.5 · 2⁰.
        assert_eq!(penalties(dry(), &[1, 2, 3, 1, 2], &[]), [0.0, 0.0, 0.0, 0.5, 0.0]);
        // 0 1 2 was there: 0.5 · 2¹.
        assert_eq!(
            penalties(dry(), &[0, 1, 2, 3, 0, 1, 2], &[]),
            [0.0, 0.0, 0.0, 1.0, 0.0]
        );
        // After 1 2 came 3 once; after 0 1 2 came 4.
        assert_eq!(
            penalties(dry(), &[0, 1, 2, 4, 1, 2, 3, 0, 1, 2], &[]),
            [0.0, 0.0, 0.0, 0.5, 1.0]
        );
    }

    #[test]
    fn a_repetition_ends_at_a_breaker_and_at_the_range() {
        // Between 4 and the end there is one token only.
        assert_eq!(penalties(dry(), &[4, 1, 2, 4, 1], &[4]), [0.0; 5]);
        // 4 1 2 is a repetition of three tokens, of which two count.
        assert_eq!(
            penalties(dry(), &[4, 1, 2, 3, 4, 1, 2], &[4]),
            [0.0, 0.0, 0.0, 0.5, 0.0]
        );
        assert_eq!(
            penalties(dry(), &[1, 2, 4, 1, 2], &[4]),
            [0.0; 5],
            "a breaker is not penalized"
        );
        let short = SamplerSettings {
            dry_range: 4,
            ..dry()
        };
        assert_eq!(
            penalties(short.clone(), &[1, 2, 3, 1, 2], &[]),
            [0.0; 5],
            "of the first repetition only 2 is in range"
        );
        let range = SamplerSettings {
            dry_range: 5,
            ..short
        };
        assert_eq!(
            penalties(range, &[0, 1, 2, 3, 1, 2], &[]),
            [0.0, 0.0, 0.0, 0.5, 0.0]
        );
    }

    #[test]
    fn a_long_repetition_leaves_numbers() {
        let penalty = penalties(dry(), &[3; 2000], &[])[3];
        assert!(penalty.is_finite() && penalty > 1e29, "{penalty}");
    }
}
