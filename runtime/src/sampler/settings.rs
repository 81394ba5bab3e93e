use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::sampler::LogitBias;

/// How tokens are chosen from scores. Every step is switched off by a value that changes nothing; the order of the steps
/// is [`Sampler`](crate::Sampler)'s.
///
/// Penalties, DRY and the ban of n-grams look at what was generated, and at the prompt only where
/// [`penalize_prompt`](Self::penalize_prompt) is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplerSettings {
    /// Take the token with the highest score, among equals the one with the lowest id. A temperature of 0 is the same.
    pub greedy: bool,
    /// Scores are divided by this.
    pub temperature: f32,
    /// Keep the k highest scores, and those equal to the k-th. 0 keeps all.
    pub top_k: usize,
    /// Keep the fewest tokens whose probabilities add up to this; the token that crosses it stays. 1 keeps all.
    pub top_p: f32,
    /// Keep tokens that have at least this part of the best token's probability. 0 keeps all.
    pub min_p: f32,
    /// Keep those tokens whose information is nearest to the entropy until their probabilities add up to this. 1 keeps all.
    pub typical_p: f32,
    /// How often the most probable tokens are left out in favour of the last one above `xtc_threshold`. 0 is never.
    pub xtc_probability: f32,
    /// Probability that tokens must have to be left out. Above 0.5 there are never two of them.
    pub xtc_threshold: f32,
    /// Positive scores of tokens that were there already are divided by this, negative ones multiplied. 1 changes nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the scores of tokens that were there already. 0 changes nothing.
    pub presence_penalty: f32,
    /// Subtracted from a token's score as many times as it was there already. 0 changes nothing.
    pub frequency_penalty: f32,
    /// How many of the last tokens the three penalties look at. A loop whose unit is longer escapes them.
    pub penalty_window: usize,
    /// Whether penalties, DRY and the ban of n-grams look at the prompt too, as transformers does. Over a prompt in another
    /// language it makes the text drift, so they do not by default.
    pub penalize_prompt: bool,
    /// Penalty of a token that would go on with a repetition of `dry_allowed_length` tokens. 0 switches DRY off.
    pub dry_multiplier: f32,
    /// The penalty grows by this factor with every token that the repetition is longer.
    pub dry_base: f32,
    /// Longest repetition that may be gone on with unpunished, less one token.
    pub dry_allowed_length: usize,
    /// How many of the last tokens DRY looks at. 0 is all.
    pub dry_range: usize,
    /// Texts that a repetition does not reach across.
    pub dry_sequence_breakers: Vec<String>,
    /// Never write so many tokens in the same order twice, but in code, tables and quotations. 0 allows it.
    pub no_repeat_ngram_size: usize,
    /// Added to the scores of single tokens.
    pub logit_bias: LogitBias,
    /// Seed of the draws. The same seed on the same device gives the same text.
    pub seed: u64,
}

impl Default for SamplerSettings {
    fn default() -> Self {
        Self {
            greedy: false,
            temperature: 0.6,
            top_k: 0,
            top_p: 0.95,
            min_p: 0.0,
            typical_p: 1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_window: 1024,
            penalize_prompt: false,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 3,
            dry_range: 0,
            dry_sequence_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            no_repeat_ngram_size: 0,
            logit_bias: LogitBias::default(),
            seed: 0,
        }
    }
}

impl SamplerSettings {
    /// The greedy choice.
    pub fn greedy() -> Self {
        Self {
            greedy: true,
            ..Self::default()
        }
    }

    /// Whether the best token is taken instead of drawn.
    pub(crate) fn is_greedy(&self) -> bool {
        self.greedy || self.temperature == 0.0
    }

    /// These settings, strengthened to leave a loop, the more the higher `strength` is.
    ///
    /// DRY acts and reaches across breakers, and draws become freer while improbable tokens are left out. A greedy choice
    /// stays one at the first strength; if that does not help it becomes a draw with the settings' seed, so that the same
    /// request still gives the same text.
    pub(crate) fn against_loops(&self, strength: u8) -> Self {
        let settings = Self {
            dry_multiplier: self.dry_multiplier.max(0.8),
            dry_base: self.dry_base.max(1.75),
            dry_allowed_length: self.dry_allowed_length.min(3),
            dry_range: 0,
            dry_sequence_breakers: Vec::new(),
            ..self.clone()
        };
        if self.is_greedy() && strength == 1 {
            return settings;
        }
        Self {
            greedy: false,
            temperature: self.temperature.max(0.5 + 0.15 * f32::from(strength)),
            min_p: self.min_p.max(0.05),
            ..settings
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let finite = |value: f32| value.is_finite();
        let positive = |value: f32| value > 0.0 && value.is_finite();
        let share = |value: f32| value > 0.0 && value <= 1.0;
        let part = |value: f32| (0.0..=1.0).contains(&value);
        require(
            "temperature",
            self.temperature,
            |value| value >= 0.0 && value.is_finite(),
            "use a number of 0 or more; 0.6 is usual",
        )?;
        for (setting, value) in [("top_p", self.top_p), ("typical_p", self.typical_p)] {
            require(
                setting,
                value,
                share,
                "use a number above 0 and up to 1; 1 switches it off",
            )?;
        }
        for (setting, value) in [("min_p", self.min_p), ("xtc_probability", self.xtc_probability)] {
            require(
                setting,
                value,
                part,
                "use a number from 0 to 1; 0 switches it off",
            )?;
        }
        require(
            "xtc_threshold",
            self.xtc_threshold,
            share,
            "use a number above 0 and up to 1; 0.1 is usual",
        )?;
        require(
            "repetition_penalty",
            self.repetition_penalty,
            positive,
            "use a number above 0; 1 switches it off",
        )?;
        for (setting, value) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            require(setting, value, finite, "use a number; 0 switches it off")?;
        }
        require(
            "dry_multiplier",
            self.dry_multiplier,
            |value| value >= 0.0 && value.is_finite(),
            "use a number of 0 or more; 0.8 is usual and 0 switches DRY off",
        )?;
        require(
            "dry_base",
            self.dry_base,
            |value| value >= 1.0 && value.is_finite(),
            "use a number of 1 or more; 1.75 is usual",
        )?;
        if self.dry_allowed_length == 0 {
            return Err(Error::setting(
                "dry_allowed_length",
                0,
                "use 1 or more; 3 is usual",
            ));
        }
        self.logit_bias.check()
    }
}

fn require(
    setting: &'static str,
    value: f32,
    holds: impl Fn(f32) -> bool,
    reason: &'static str,
) -> Result<()> {
    if holds(value) {
        Ok(())
    } else {
        Err(Error::setting(setting, value, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sampler;

    #[test]
    fn settings_out_of_range_are_named() {
        let with = |change: fn(&mut SamplerSettings)| {
            let mut settings = SamplerSettings::default();
            change(&mut settings);
            Sampler::new(settings).unwrap_err().to_string()
        };
        for (message, setting) in [
            (with(|s| s.temperature = f32::NAN), "temperature"),
            (with(|s| s.top_p = 0.0), "top_p"),
            (with(|s| s.min_p = 1.5), "min_p"),
            (with(|s| s.typical_p = 0.0), "typical_p"),
            (with(|s| s.xtc_probability = -0.1), "xtc_probability"),
            (with(|s| s.xtc_threshold = 0.0), "xtc_threshold"),
            (with(|s| s.repetition_penalty = 0.0), "repetition_penalty"),
            (with(|s| s.presence_penalty = f32::INFINITY), "presence_penalty"),
            (with(|s| s.frequency_penalty = f32::NAN), "frequency_penalty"),
            (with(|s| s.dry_multiplier = -1.0), "dry_multiplier"),
            (with(|s| s.dry_base = 0.5), "dry_base"),
            (with(|s| s.dry_allowed_length = 0), "dry_allowed_length"),
            (
                with(|s| s.logit_bias = LogitBias::from_iter([(7, f32::NAN)])),
                "logit_bias",
            ),
        ] {
            assert!(message.starts_with(&format!("`{setting}` is `")), "{message}");
        }
        assert!(with(|s| s.top_p = 0.0).starts_with("`top_p` is `0`: use"));
    }

    #[test]
    fn settings_survive_being_stored() {
        let settings = SamplerSettings {
            typical_p: 0.9,
            dry_multiplier: 0.8,
            logit_bias: LogitBias::from_iter([(3, f32::NEG_INFINITY), (5, 1.5)]),
            ..SamplerSettings::default()
        };
        let stored = serde_json::to_string(&settings).unwrap();
        assert!(
            stored.contains(r#""logit_bias":{"3":"-inf","5":1.5}"#),
            "{stored}"
        );
        assert_eq!(
            serde_json::from_str::<SamplerSettings>(&stored).unwrap(),
            settings
        );
        let old = r#"{"greedy": true, "seed": 3}"#;
        assert_eq!(
            serde_json::from_str::<SamplerSettings>(old).unwrap(),
            SamplerSettings {
                seed: 3,
                ..SamplerSettings::greedy()
            }
        );
    }

    #[test]
    fn a_greedy_choice_becomes_a_draw_only_when_penalties_fail() {
        let greedy = SamplerSettings::greedy();
        assert!(greedy.against_loops(1).is_greedy());
        assert!(!greedy.against_loops(2).is_greedy());
        let drawn = SamplerSettings::default().against_loops(1);
        assert!(drawn.temperature > 0.6 && drawn.dry_multiplier > 0.0);
    }
}
