use lwv_runtime::SamplerSettings;

use crate::argument::check_flags;
use crate::border::call;
use crate::failure::Result;
use crate::status::lwv_status;
use crate::structure::{Structure, init, read};

/// Take the token with the highest score.
pub const LWV_GREEDY: u64 = 1;

/// Let the repetition penalty look at the prompt too.
pub const LWV_PENALIZE_PROMPT: u64 = 2;

/// How tokens are chosen. Set it by `lwv_sampler_settings_init` first.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_sampler_settings {
    /// Bytes of this structure.
    pub size: usize,
    /// Scores are divided by this; 0 is the greedy choice.
    pub temperature: f32,
    /// Keep the fewest tokens whose probabilities add up to this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens that have at least this part of the best token's probability; 0 keeps all.
    pub min_p: f32,
    /// Positive scores of tokens that were there already are divided by this, negative ones multiplied; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Keep so many of the highest scores; 0 keeps all.
    pub top_k: usize,
    /// How many of the last tokens the penalty looks at.
    pub penalty_window: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Any of `LWV_GREEDY` and `LWV_PENALIZE_PROMPT`.
    pub flags: u64,
}

// SAFETY: `repr(C)`, `size` first, numbers of at most 8 bytes.
unsafe impl Structure for lwv_sampler_settings {
    fn usual() -> Self {
        let usual = SamplerSettings::default();
        let flag = |set, flag| if set { flag } else { 0 };
        Self {
            size: size_of::<Self>(),
            temperature: usual.temperature,
            top_p: usual.top_p,
            min_p: usual.min_p,
            repetition_penalty: usual.repetition_penalty,
            top_k: usual.top_k,
            penalty_window: usual.penalty_window,
            seed: usual.seed,
            flags: flag(usual.greedy, LWV_GREEDY) | flag(usual.penalize_prompt, LWV_PENALIZE_PROMPT),
        }
    }
}

/// The settings behind a field; NULL is as usual.
pub(crate) unsafe fn sampler_of(given: *const lwv_sampler_settings) -> Result<SamplerSettings> {
    let given = read(given, "sampler")?;
    check_flags(given.flags, LWV_GREEDY | LWV_PENALIZE_PROMPT, "sampler")?;
    Ok(SamplerSettings {
        greedy: given.flags & LWV_GREEDY != 0,
        temperature: given.temperature,
        top_k: given.top_k,
        top_p: given.top_p,
        min_p: given.min_p,
        repetition_penalty: given.repetition_penalty,
        penalty_window: given.penalty_window,
        penalize_prompt: given.flags & LWV_PENALIZE_PROMPT != 0,
        seed: given.seed,
        ..SamplerSettings::default()
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
}
