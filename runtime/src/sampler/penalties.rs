use crate::sampler::SamplerSettings;

/// Repetition, presence and frequency penalty over the last tokens. A token costs the sorting of one window.
///
/// Repetition: Keskar et al. 2019, "CTRL", and transformers' `RepetitionPenaltyLogitsProcessor`. Presence and frequency:
/// `score -= frequency · count + presence`, as the API of OpenAI defines them and llama.cpp computes them.
#[derive(Debug, Clone, Default)]
pub(super) struct Penalties {
    /// Kept between calls so that a token costs no allocation.
    window: Vec<u32>,
}

impl Penalties {
    pub(super) fn apply(&mut self, settings: &SamplerSettings, tokens: &[u32], logits: &mut [f32]) {
        let SamplerSettings {
            repetition_penalty: repetition,
            presence_penalty: presence,
            frequency_penalty: frequency,
            ..
        } = *settings;
        if (repetition, presence, frequency) == (1.0, 0.0, 0.0) {
            return;
        }
        self.window.clear();
        let start = tokens.len().saturating_sub(settings.penalty_window);
        self.window.extend(&tokens[start..]);
        self.window.sort_unstable();
        for same in self.window.chunk_by(|a, b| a == b) {
            let Some(score) = logits.get_mut(same[0] as usize) else {
                continue;
            };
            // However often the token was there, this penalty comes once.
            *score = if *score > 0.0 {
                *score / repetition
            } else {
                *score * repetition
            };
            *score -= frequency * same.len() as f32 + presence;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sampler;

    /// Scores after the penalties.
    fn after(settings: SamplerSettings, prompt: &[u32], generated: &[u32]) -> [f32; 4] {
        let mut logits = [4.0, -1.0, 3.0, 1.0];
        Sampler::new(settings)
            .unwrap()
            .choose(&mut logits, prompt, generated)
            .unwrap();
        logits
    }

    #[test]
    fn repetition_divides_positive_and_multiplies_negative_scores_once() {
        let penalty = |penalize_prompt, penalty_window| SamplerSettings {
            repetition_penalty: 2.0,
            penalize_prompt,
            penalty_window,
            ..SamplerSettings::greedy()
        };
        assert_eq!(after(penalty(false, 10), &[2], &[0, 1, 0]), [2.0, -2.0, 3.0, 1.0]);
        assert_eq!(after(penalty(true, 10), &[2], &[0, 1, 0]), [2.0, -2.0, 1.5, 1.0]);
        assert_eq!(
            after(penalty(true, 3), &[2], &[0, 1, 0]),
            [2.0, -2.0, 3.0, 1.0],
            "the window ends in the prompt"
        );
        assert_eq!(after(penalty(false, 1), &[], &[0, 3]), [4.0, -1.0, 3.0, 0.5]);
    }

    #[test]
    fn presence_comes_once_and_frequency_with_every_token() {
        let settings = SamplerSettings {
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..SamplerSettings::greedy()
        };
        assert_eq!(
            after(settings.clone(), &[2], &[0, 1, 0]),
            [3.0, -1.75, 3.0, 1.0],
            "the prompt does not count"
        );
        let all = SamplerSettings {
            repetition_penalty: 2.0,
            penalty_window: 2,
            ..settings
        };
        assert_eq!(
            after(all, &[], &[3, 0, 0]),
            [4.0 / 2.0 - 2.0 * 0.25 - 0.5, -1.0, 3.0, 1.0]
        );
    }
}
