use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a generation cost. Local numbers for people and benchmarks; nothing is sent anywhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// Tokens before the first generated one, cached ones included.
    pub prompt_tokens: usize,
    /// Of these, the tokens that were computed now; the others were in the cache.
    pub prefilled_tokens: usize,
    /// Tokens that were chosen.
    pub generated_tokens: usize,
    /// Tokens that were computed because the text might have gone on with them.
    #[serde(default)]
    pub guessed_tokens: usize,
    /// Of these, the tokens that it went on with.
    #[serde(default)]
    pub accepted_tokens: usize,
    /// Times that the loop guard took text back.
    pub loop_interventions: usize,
    /// Computed prompt tokens per second of prefill, image encoding left out; 0 where there were none.
    pub prefill_tokens_per_second: f64,
    /// Steps per second: a step computes one token's scores and chooses the next token. The first token comes out of
    /// the prefill and does not count. 0 where there were no steps.
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
    pub provider: String,
}

/// `count` per second, or 0.
pub(crate) fn rate(count: usize, time: Duration) -> f64 {
    if count == 0 || time.is_zero() {
        0.0
    } else {
        count as f64 / time.as_secs_f64()
    }
}

/// Most memory that this process ever had resident, in bytes, or 0 where the system does not say.
pub fn peak_rss_bytes() -> u64 {
    of_this_process("VmHWM:")
}

/// Memory that this process has resident now, in bytes, or 0 where the system does not say.
pub fn rss_bytes() -> u64 {
    of_this_process("VmRSS:")
}

/// A size that Linux tells in kibibytes, in bytes.
fn of_this_process(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = status.lines().find_map(|line| {
        line.strip_prefix(name)?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    kibibytes.unwrap_or(0) * 1024
}

/// Bytes that can still be had without swapping, where the system tells.
pub fn available_bytes() -> Option<u64> {
    let all = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = all.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_do_not_divide_by_zero() {
        assert_eq!(rate(10, Duration::from_secs(2)), 5.0);
        assert_eq!(
            (rate(0, Duration::from_secs(1)), rate(3, Duration::ZERO)),
            (0.0, 0.0)
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory() {
        assert!(rss_bytes() > 1 << 20 && available_bytes().unwrap() > 1 << 20);
        assert!(peak_rss_bytes() >= rss_bytes() / 2);
    }
}
