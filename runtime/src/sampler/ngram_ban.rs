use crate::sampler::History;
use crate::sampler::history::Counted;
use crate::sampler::repeats::Repeats;

/// The ban of n-grams that were there already, as transformers' `NoRepeatNGramLogitsProcessor` bans them. N-grams that
/// touch a code block, a table or a quotation neither ban anything nor are banned.
#[derive(Debug, Clone, Default)]
pub(super) struct NgramBan {
    /// Banned tokens and the scores they had.
    banned: Vec<(u32, f32)>,
}

impl NgramBan {
    /// Costs one look at every token, beside the finding of `repeats`, which must be those of `text`.
    pub(super) fn apply(
        &mut self,
        size: usize,
        history: &History<'_>,
        text: &Counted<'_>,
        repeats: &Repeats,
        logits: &mut [f32],
    ) {
        self.banned.clear();
        let tokens = &text.tokens;
        let exempt = |place: &usize| text.mark(*place).exempt;
        let begin = tokens.len().saturating_sub(size - 1);
        if history.exempt || (begin..tokens.len()).any(|place| exempt(&place)) {
            return;
        }
        // Tokens up to here that no exempt one interrupts.
        let mut run = 0;
        for (place, id) in tokens.iter().enumerate() {
            run = if exempt(&place) { 0 } else { run + 1 };
            if run < size || repeats.before(place) < size - 1 {
                continue;
            }
            if let Some(score) = logits.get_mut(*id as usize) {
                self.banned.push((*id, *score));
                *score = f32::NEG_INFINITY;
            }
        }
    }

    /// Takes the ban back, where nothing was left to choose.
    pub(super) fn lift(&mut self, logits: &mut [f32]) {
        for (id, score) in self.banned.drain(..).rev() {
            logits[id as usize] = score;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::sampler::{History, Sampler, SamplerSettings, TokenMark};

    fn ban(size: usize) -> SamplerSettings {
        SamplerSettings {
            no_repeat_ngram_size: size,
            ..SamplerSettings::greedy()
        }
    }

    /// Tokens of 0 to 4 that are banned.
    fn banned(size: usize, history: &History<'_>) -> Vec<usize> {
        let mut logits = [1.0; 5];
        Sampler::new(ban(size))
            .unwrap()
            .choose_after(&mut logits, history)
            .unwrap();
        (0..5).filter(|id| logits[*id] == f32::NEG_INFINITY).collect()
    }

    fn after(generated: &[u32]) -> History<'_> {
        History {
            generated,
            ..History::default()
        }
    }

    #[test]
    fn what_would_end_an_ngram_again_is_banned() {
        // The examples of transformers' tests: 1 1 bans 1 for n = 2.
        assert_eq!(banned(2, &after(&[1, 1])), [1]);
        assert_eq!(banned(3, &after(&[1, 1])), [0; 0]);
        assert_eq!(banned(3, &after(&[1, 2, 3, 1, 2])), [3]);
        assert_eq!(banned(2, &after(&[1, 2, 1, 3, 1])), [2, 3]);
        assert_eq!(
            banned(1, &after(&[4, 0])),
            [0, 4],
            "n = 1 bans all that was there"
        );
        assert_eq!(banned(3, &after(&[1])), [0; 0]);
    }

    #[test]
    fn the_prompt_counts_where_it_is_told_to() {
        let history = History {
            prompt: &[1, 2, 3],
            generated: &[1, 2],
            ..History::default()
        };
        assert_eq!(banned(3, &history), [0; 0]);
        let settings = SamplerSettings {
            penalize_prompt: true,
            ..ban(3)
        };
        let mut logits = [1.0, 1.0, 1.0, 9.0];
        let mut sampler = Sampler::new(settings).unwrap();
        assert_eq!(sampler.choose_after(&mut logits, &history).unwrap(), 0);
    }

    #[test]
    fn exempt_spans_neither_ban_nor_are_banned() {
        let generated = [1, 2, 3, 0, 1, 2];
        let marked = |exempt: &[usize], now| {
            let marks: Vec<TokenMark> = (0..6)
                .map(|place| TokenMark {
                    exempt: exempt.contains(&place),
                    ..TokenMark::default()
                })
                .collect();
            banned(
                3,
                &History {
                    generated: &generated,
                    marks: &marks,
                    exempt: now,
                    ..History::default()
                },
            )
        };
        assert_eq!(marked(&[], false), [3]);
        assert_eq!(marked(&[2], false), [0; 0], "the first 3 is in a quotation");
        assert_eq!(marked(&[0], false), [0; 0]);
        assert_eq!(marked(&[5], false), [0; 0], "so is the last 2");
        assert_eq!(marked(&[], true), [0; 0], "and so is what comes now");
        assert_eq!(marked(&[3], false), [3], "no part of either n-gram");
    }

    #[test]
    fn a_ban_of_everything_is_lifted() {
        let mut sampler = Sampler::new(ban(1)).unwrap();
        assert_eq!(sampler.choose(&mut [1.0, 2.0], &[], &[0, 1, 0]).unwrap(), 1);
    }
}
