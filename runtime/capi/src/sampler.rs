use std::ffi::c_char;

use lwv_runtime::SamplerSettings;

use crate::argument::{check_flags, flag, list, texts};
use crate::border::call;
use crate::failure::Result;
use crate::status::lwv_status;
use crate::structure::{Structure, init, read};

/// Take the token with the highest score.
pub const LWV_GREEDY: u64 = 1;

/// Let the repetition penalty look at the prompt too.
pub const LWV_PENALIZE_PROMPT: u64 = 2;

/// How tokens are chosen. Every step is switched off by a value that changes nothing. Set it by
/// `lwv_sampler_settings_init` first.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_sampler_settings {
    /// Bytes of this structure.
    pub size: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Any of `LWV_GREEDY` and `LWV_PENALIZE_PROMPT`.
    pub flags: u64,
    /// Scores are divided by this; 0 is the greedy choice.
    pub temperature: f32,
    /// Keep the fewest tokens whose probabilities add up to this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens that have at least this part of the best token's probability; 0 keeps all.
    pub min_p: f32,
    /// Keep those tokens whose information is nearest to the entropy until their probabilities add up to this; 1 keeps all.
    pub typical_p: f32,
    /// How often the most probable tokens are left out in favour of the last one above `xtc_threshold`; 0 is never.
    pub xtc_probability: f32,
    /// Probability that tokens must have to be left out.
    pub xtc_threshold: f32,
    /// Positive scores of tokens that were there already are divided by this, negative ones multiplied; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Subtracted from the scores of tokens that were there already; 0 changes nothing.
    pub presence_penalty: f32,
    /// Subtracted from a token's score as many times as it was there already; 0 changes nothing.
    pub frequency_penalty: f32,
    /// Penalty of a token that would go on with a repetition of `dry_allowed_length` tokens; 0 switches DRY off.
    pub dry_multiplier: f32,
    /// The penalty grows by this factor with every token that the repetition is longer.
    pub dry_base: f32,
    /// Nothing; 0.
    pub reserved: u32,
    /// Keep so many of the highest scores; 0 keeps all.
    pub top_k: usize,
    /// How many of the last tokens the three penalties look at.
    pub penalty_window: usize,
    /// Longest repetition that may be gone on with unpunished, less one token.
    pub dry_allowed_length: usize,
    /// How many of the last tokens DRY looks at; 0 is all.
    pub dry_range: usize,
    /// Texts that a repetition does not reach across; NULL is as usual.
    pub dry_sequence_breakers: *const *const c_char,
    /// How many they are.
    pub dry_breaker_count: usize,
    /// Never write so many tokens in the same order twice, but in code, tables and quotations; 0 allows it.
    pub no_repeat_ngram_size: usize,
    /// Tokens to whose scores something is added.
    pub biased_tokens: *const u32,
    /// What is added to each of them; minus infinity bans the token.
    pub biases: *const f32,
    /// How many they are.
    pub bias_count: usize,
}

// SAFETY: `repr(C)`, `size` first, numbers of at most 8 bytes and pointers.
unsafe impl Structure for lwv_sampler_settings {
    fn usual() -> Self {
        let usual = SamplerSettings::default();
        Self {
            size: size_of::<Self>(),
            seed: usual.seed,
            flags: flag(usual.greedy, LWV_GREEDY) | flag(usual.penalize_prompt, LWV_PENALIZE_PROMPT),
            temperature: usual.temperature,
            top_p: usual.top_p,
            min_p: usual.min_p,
            typical_p: usual.typical_p,
            xtc_probability: usual.xtc_probability,
            xtc_threshold: usual.xtc_threshold,
            repetition_penalty: usual.repetition_penalty,
            presence_penalty: usual.presence_penalty,
            frequency_penalty: usual.frequency_penalty,
            dry_multiplier: usual.dry_multiplier,
            dry_base: usual.dry_base,
            reserved: 0,
            top_k: usual.top_k,
            penalty_window: usual.penalty_window,
            dry_allowed_length: usual.dry_allowed_length,
            dry_range: usual.dry_range,
            dry_sequence_breakers: std::ptr::null(),
            dry_breaker_count: 0,
            no_repeat_ngram_size: usual.no_repeat_ngram_size,
            biased_tokens: std::ptr::null(),
            biases: std::ptr::null(),
            bias_count: 0,
        }
    }
}

/// The settings behind a field; NULL is as usual.
pub(crate) unsafe fn sampler_of(given: *const lwv_sampler_settings) -> Result<SamplerSettings> {
    let given = read(given, "sampler")?;
    check_flags(given.flags, LWV_GREEDY | LWV_PENALIZE_PROMPT, "sampler")?;
    check_flags(given.reserved.into(), 0, "sampler")?;
    let dry_sequence_breakers = match given.dry_sequence_breakers.is_null() {
        true if given.dry_breaker_count == 0 => SamplerSettings::default().dry_sequence_breakers,
        _ => texts(
            given.dry_sequence_breakers,
            given.dry_breaker_count,
            "dry_sequence_breakers",
        )?,
    };
    let biased = list(given.biased_tokens, given.bias_count, "biased_tokens")?;
    let biases = list(given.biases, given.bias_count, "biases")?;
    Ok(SamplerSettings {
        greedy: given.flags & LWV_GREEDY != 0,
        temperature: given.temperature,
        top_k: given.top_k,
        top_p: given.top_p,
        min_p: given.min_p,
        typical_p: given.typical_p,
        xtc_probability: given.xtc_probability,
        xtc_threshold: given.xtc_threshold,
        repetition_penalty: given.repetition_penalty,
        presence_penalty: given.presence_penalty,
        frequency_penalty: given.frequency_penalty,
        penalty_window: given.penalty_window,
        penalize_prompt: given.flags & LWV_PENALIZE_PROMPT != 0,
        dry_multiplier: given.dry_multiplier,
        dry_base: given.dry_base,
        dry_allowed_length: given.dry_allowed_length,
        dry_range: given.dry_range,
        dry_sequence_breakers,
        no_repeat_ngram_size: given.no_repeat_ngram_size,
        logit_bias: biased.iter().copied().zip(biases.iter().copied()).collect(),
        seed: given.seed,
    })
}

/// Sets a structure of `size` bytes, which is its `sizeof`, to what is usual.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_sampler_settings_init(
    settings: *mut lwv_sampler_settings,
    size: usize,
) -> lwv_status {
    call(|| init(settings, size, "settings"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_is_what_the_runtime_has() {
        let usual = lwv_sampler_settings::usual();
        unsafe {
            assert_eq!(sampler_of(&raw const usual).unwrap(), SamplerSettings::default());
            assert_eq!(sampler_of(std::ptr::null()).unwrap(), SamplerSettings::default());
        }
    }

    #[test]
    fn lists_are_copied_and_refused_where_they_are_not_whole() {
        let mut given = lwv_sampler_settings::usual();
        let breakers = [c"\n".as_ptr()];
        (given.dry_sequence_breakers, given.dry_breaker_count) = (breakers.as_ptr(), 1);
        let (tokens, biases) = ([3, 5], [1.0, f32::NEG_INFINITY]);
        (given.biased_tokens, given.biases, given.bias_count) = (tokens.as_ptr(), biases.as_ptr(), 2);
        unsafe {
            let read = sampler_of(&raw const given).unwrap();
            assert_eq!(read.dry_sequence_breakers, ["\n"]);
            assert_eq!(
                read.logit_bias,
                [(3, 1.0), (5, f32::NEG_INFINITY)].into_iter().collect()
            );
            given.dry_breaker_count = 0;
            assert!(
                sampler_of(&raw const given)
                    .unwrap()
                    .dry_sequence_breakers
                    .is_empty()
            );
            given.biases = std::ptr::null();
            let failure = sampler_of(&raw const given).unwrap_err();
            assert!(failure.text.contains("`biases` is NULL"), "{}", failure.text);
        }
    }
}
