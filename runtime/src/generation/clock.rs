use std::time::{Duration, Instant};

use crate::generation::Generation;
use crate::stats::{Stats, peak_rss_bytes, rate};

/// What a generation has cost so far.
pub(super) struct Clock {
    pub(super) begin: Instant,
    pub(super) to_prefill: usize,
    pub(super) prefilled: usize,
    pub(super) prefill: Duration,
    pub(super) images: Duration,
    pub(super) steps: usize,
    pub(super) guessed: usize,
    pub(super) accepted: usize,
    pub(super) decode: Duration,
    pub(super) first_token: Option<Duration>,
}

impl Clock {
    pub(super) fn new(to_prefill: usize) -> Self {
        Self {
            begin: Instant::now(),
            to_prefill,
            prefilled: 0,
            prefill: Duration::ZERO,
            images: Duration::ZERO,
            steps: 0,
            guessed: 0,
            accepted: 0,
            decode: Duration::ZERO,
            first_token: None,
        }
    }
}

impl Generation<'_> {
    /// What it cost so far.
    pub fn stats(&self) -> Stats {
        let clock = &self.clock;
        Stats {
            prompt_tokens: self.start,
            prefilled_tokens: clock.prefilled,
            generated_tokens: self.generated().len(),
            guessed_tokens: clock.guessed,
            accepted_tokens: clock.accepted,
            loop_interventions: self.interventions,
            prefill_tokens_per_second: rate(clock.prefilled, clock.prefill),
            decode_tokens_per_second: rate(clock.steps, clock.decode),
            image_seconds: clock.images.as_secs_f64(),
            time_to_first_token: clock.first_token.unwrap_or_default().as_secs_f64(),
            kv_bytes: self.session.kv_bytes(),
            peak_rss_bytes: peak_rss_bytes(),
            provider: self.session.context().provider.clone(),
        }
    }
}
