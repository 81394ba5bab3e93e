use std::ffi::{CString, c_char};

use lwv_runtime::Stats;

use crate::border::c_string;

/// What a generation cost.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_stats {
    /// Bytes of this structure.
    pub size: usize,
    /// Tokens before the first generated one, cached ones included.
    pub prompt_tokens: usize,
    /// Of these, the tokens that were computed now.
    pub prefilled_tokens: usize,
    /// Tokens that were chosen.
    pub generated_tokens: usize,
    /// Times that the loop guard took text back.
    pub loop_interventions: usize,
    /// Computed prompt tokens per second of prefill; 0 where there were none.
    pub prefill_tokens_per_second: f64,
    /// Tokens per second after the first; 0 where there were none.
    pub decode_tokens_per_second: f64,
    /// Seconds spent on encoding images.
    pub image_seconds: f64,
    /// Seconds from the start to the first token; 0 where there was none.
    pub time_to_first_token: f64,
    /// Bytes of the cache.
    pub kv_bytes: u64,
    /// Most memory that the process ever had, in bytes; 0 where the system does not say.
    pub peak_rss_bytes: u64,
    /// The execution provider, as ONNX Runtime names it.
    pub provider: *const c_char,
    /// Tokens that were computed because the text might have gone on with them.
    pub guessed_tokens: usize,
    /// Of these, the tokens that it went on with.
    pub accepted_tokens: usize,
}

/// Statistics beside the memory that they point to.
pub(crate) struct HeldStats {
    pub(crate) stats: lwv_stats,
    _provider: CString,
}

impl HeldStats {
    pub(crate) fn new(stats: &Stats) -> Self {
        let provider = c_string(&stats.provider);
        Self {
            stats: lwv_stats {
                size: size_of::<lwv_stats>(),
                prompt_tokens: stats.prompt_tokens,
                prefilled_tokens: stats.prefilled_tokens,
                generated_tokens: stats.generated_tokens,
                loop_interventions: stats.loop_interventions,
                prefill_tokens_per_second: stats.prefill_tokens_per_second,
                decode_tokens_per_second: stats.decode_tokens_per_second,
                image_seconds: stats.image_seconds,
                time_to_first_token: stats.time_to_first_token,
                kv_bytes: stats.kv_bytes,
                peak_rss_bytes: stats.peak_rss_bytes,
                provider: provider.as_ptr(),
                guessed_tokens: stats.guessed_tokens,
                accepted_tokens: stats.accepted_tokens,
            },
            _provider: provider,
        }
    }
}
