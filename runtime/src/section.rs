use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::generation::{Event, FinishReason, Generation};
use crate::loop_guard::LoopAttempts;
use crate::sampler::SamplerState;
use crate::sentence::SentenceHold;
use crate::words::count_words;

/// A text ends by itself no earlier than at this part of its target.
const SHORTEST: f64 = 0.7;

/// From here on only whole sentences are shown, so that the text can end at one.
const HOLD_FROM: f64 = 0.8;

/// From here on the text ends with the next sentence.
const ENOUGH: f64 = 0.97;

/// Here it ends, if whole sentences make up enough of it.
const LONG: f64 = 1.15;

/// Here it ends in any case.
const LONGEST: f64 = 1.35;

/// A text with less than this part of its target is short.
const SHORT: f64 = 0.85;

/// Tokens that a word takes until it was measured; generous, since running out of tokens cuts a text short.
const USUAL_TOKENS_PER_WORD: f64 = 2.0;

/// How long a text is to be, in words, and what follows from that.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Length {
    target: usize,
    max_tokens: usize,
}

impl Length {
    /// `tokens_per_word` as measured on what was written before, if anything was.
    pub(crate) fn new(target: usize, tokens_per_word: Option<f64>) -> Self {
        // Half as much again, since the next section may have longer words.
        let per_word = tokens_per_word.unwrap_or(USUAL_TOKENS_PER_WORD) * 1.5;
        let max_tokens = (target as f64 * LONGEST * per_word).ceil() as usize + 32;
        Self { target, max_tokens }
    }

    /// Words before which the model cannot end the text.
    pub(crate) fn min_words(&self) -> usize {
        self.part(SHORTEST)
    }

    /// Most tokens, in case that the words do not come.
    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Whether a text of `words` words is short of the target.
    pub(crate) fn is_short(&self, words: usize) -> bool {
        words < self.part(SHORT)
    }

    fn part(&self, part: f64) -> usize {
        (self.target as f64 * part).round() as usize
    }
}

/// A section, or a text in one piece, that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenSection {
    /// The text, without white space around it.
    pub text: String,
    /// The tokens that the model chose; a few at the end may belong to a sentence that was cut off.
    pub token_ids: Vec<u32>,
    /// Words in the text.
    pub words: usize,
    /// Why it ended.
    pub reason: FinishReason,
}

/// Where a text stands while it is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing<'a> {
    /// The text that stays.
    pub(crate) text: &'a str,
    /// The tokens of the generation.
    pub(crate) token_ids: &'a [u32],
    /// The sampler after them.
    pub(crate) sampler: SamplerState,
    /// What the loop guard tried.
    pub(crate) loop_attempts: LoopAttempts,
    /// How many of the tokens were left when it went back.
    pub(crate) went_back_to: &'a [usize],
}

impl<'a> Standing<'a> {
    fn of(generation: &'a Generation<'_>, text: &'a str) -> Self {
        Self {
            text,
            token_ids: generation.generated(),
            sampler: generation.sampler_state(),
            loop_attempts: generation.loop_attempts(),
            went_back_to: generation.went_back_to(),
        }
    }
}

/// Runs a generation to the end of a text of that length. `event` sees prefill and images as they are, and tokens with
/// the text that stays; `keep` sees where the text stands after every token.
///
/// # Errors
/// A computation or `keep` failed.
pub(crate) fn write_to_length(
    mut generation: Generation<'_>,
    length: Length,
    mut event: impl FnMut(Event),
    mut keep: impl FnMut(Standing<'_>) -> Result<()>,
) -> Result<WrittenSection> {
    let mut hold = SentenceHold::new();
    let mut text = String::new();
    let mut settled = 0;
    let mut end = None;
    while end.is_none() {
        let Some(next) = generation.next() else { break };
        let (id, piece) = match next? {
            Event::Token { id, text } => (id, text),
            Event::Finished {
                reason, text: rest, ..
            } => {
                text.push_str(&hold.push(&rest).0);
                end = Some(reason);
                break;
            }
            Event::Rewound { tokens, bytes } => {
                let bytes = hold.rewind(bytes);
                text.truncate(text.len() - bytes);
                event(Event::Rewound { tokens, bytes });
                keep(Standing::of(&generation, &text))?;
                continue;
            }
            Event::Settled { bytes } => {
                let bytes = hold.passed_within(bytes);
                if bytes > settled {
                    settled = bytes;
                    event(Event::Settled { bytes });
                }
                continue;
            }
            other => {
                event(other);
                continue;
            }
        };
        let (words, tokens) = (generation.words(), generation.generated().len());
        hold.hold_sentences(words >= length.part(HOLD_FROM) || tokens * 5 >= length.max_tokens * 4);
        let (passed, ended) = hold.push(&piece);
        text.push_str(&passed);
        event(Event::Token { id, text: passed });
        if generation.goes_back() {
            continue;
        }
        keep(Standing::of(&generation, &text))?;
        let enough = ended && words >= length.part(ENOUGH);
        let long = words >= length.part(LONG) && !length.is_short(count_words(&text));
        if enough || long || words >= length.part(LONGEST) {
            end = Some(FinishReason::WordBudget);
        }
    }
    let reason = end.unwrap_or(FinishReason::Cancelled);
    if reason == FinishReason::Cancelled {
        keep(Standing::of(&generation, &text))?;
    }
    let rest = match reason {
        FinishReason::Eos | FinishReason::StopString | FinishReason::Cancelled => hold.finish(),
        _ => hold.cut(text.is_empty()),
    };
    text.push_str(&rest);
    // The rest goes with the last event, which says no token.
    let token_ids = generation.generated().to_vec();
    event(Event::Finished {
        reason,
        text: rest,
        stats: generation.stats(),
    });
    Ok(WrittenSection {
        words: count_words(&text),
        text,
        token_ids,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_from_the_target() {
        let length = Length::new(100, None);
        assert_eq!(
            (length.min_words(), length.part(ENOUGH), length.part(LONGEST)),
            (70, 97, 135)
        );
        assert_eq!(length.max_tokens(), 437);
        assert_eq!(Length::new(100, Some(1.0)).max_tokens(), 235);
    }
}
