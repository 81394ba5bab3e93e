use lwv_model::{ElementType, FileEntry, ModelConfig, Precision, contract};

use crate::bundle::Bundle;
use crate::card::Card;
use crate::error::{Inner, Result};
use crate::provider::Device;
use crate::stats::available_bytes;

/// What a text will take, before it is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryEstimate {
    /// Bytes of the graphs and their weights.
    pub weights: u64,
    /// Bytes of the cache.
    pub kv: u64,
    /// Bytes of inputs and outputs; what the operators need inside a run comes on top.
    pub buffers: u64,
    /// Bytes that are read to write one more token.
    pub read_for_a_token: u64,
}

impl MemoryEstimate {
    /// Of a text of `tokens` tokens, prompt included, with so many tokens in one run of prefill.
    pub fn of(bundle: &Bundle, tokens: usize, prefill_chunk: usize) -> Self {
        let text = &bundle.config().text;
        let bytes = |belongs: &dyn Fn(&str) -> bool| -> u64 {
            let onnx = bundle.manifest().files.iter();
            let onnx = onnx.filter(|(name, _)| name.starts_with("onnx/") && belongs(name));
            onnx.map(|(_, file): (&String, &FileEntry)| file.bytes).sum()
        };
        // A table that is the head too is read whole, another only where a token stands.
        let is_read = |name: &str| {
            !name.contains(contract::VISION_ENCODER)
                && (text.tie_word_embeddings || !name.contains(contract::EMBED_TOKENS))
        };
        let tokens = tokens.min(bundle.manifest().context_length);
        let weights = [bytes(&|_| true), bytes(&is_read)];
        Self::planned(
            bundle.config(),
            weights,
            bundle.cache_type(),
            tokens,
            prefill_chunk,
        )
    }

    /// Of a bundle that is not there yet: `weights` are the bytes of all and of those that every token reads.
    pub fn planned(
        config: &ModelConfig,
        weights: [u64; 2],
        cache: ElementType,
        tokens: usize,
        prefill_chunk: usize,
    ) -> Self {
        let text = &config.text;
        let token = [
            text.num_hidden_layers,
            text.num_key_value_heads,
            text.head_dim,
            cache.size(),
        ];
        let kv = product(&[&[2, tokens], &token[..]].concat());
        let embeddings = product(&[2 * 4, prefill_chunk, text.hidden_size]);
        let [weights, read] = weights;
        Self {
            weights,
            kv,
            buffers: embeddings
                .saturating_add(product(&[4, text.vocab_size]))
                .saturating_add(product(&[8, text.max_position_embeddings])),
            read_for_a_token: read.saturating_add(kv),
        }
    }

    /// The same with an adapter of so many bytes.
    pub(crate) fn with_adapter(mut self, bytes: u64) -> Self {
        self.weights = self.weights.saturating_add(bytes);
        self.read_for_a_token = self.read_for_a_token.saturating_add(bytes);
        self
    }

    /// The sum in bytes.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.buffers)
    }

    /// Tokens that are written in a second at most, with a memory of so many bytes a second: every one reads all weights and the
    /// cache.
    pub fn tokens_per_second(&self, bandwidth: f64) -> f64 {
        bandwidth / self.read_for_a_token.max(1) as f64
    }
}

/// Sizes of files that somebody wrote may be any; what does not fit into a number is more than there is in any case.
fn product(factors: &[usize]) -> u64 {
    factors
        .iter()
        .fold(1, |product: u64, factor| product.saturating_mul(*factor as u64))
}

/// Refuses a bundle that the device has no memory for, before minutes are spent on loading it. Where nothing is known of the
/// device, nothing is refused.
///
/// # Errors
/// There is less than is needed; the text says how much and what helps.
pub(crate) fn check_memory(bundle: &Bundle, device: Device, estimate: &MemoryEstimate) -> Result<()> {
    let has = match device {
        Device::Cuda(index) => Card::find(index).ok().map(|card| card.memory),
        Device::TensorRt | Device::TensorRtRtx => Card::find(0).ok().map(|card| card.memory),
        Device::Auto | Device::Cpu => available_bytes(),
    };
    let decoder = bundle.manifest().graphs.get(contract::DECODER);
    let precision = decoder.map_or(Precision::Fp16, |graph| graph.precision);
    match has {
        Some(has) if has < estimate.total() => Err(Inner::TooLarge {
            needs: estimate.total(),
            has,
            advice: advice(precision, estimate.kv > estimate.weights / 4),
        }
        .into()),
        _ => Ok(()),
    }
}

fn advice(precision: Precision, is_cache_large: bool) -> &'static str {
    match (precision, is_cache_large) {
        (Precision::Int4, true) => "export the checkpoint with `--int8-cache`, or lower `--kv-budget-mib`",
        (Precision::Int4, false) => "use a smaller model",
        (Precision::Int8, _) => "export the checkpoint with `--int4`",
        _ => "export the checkpoint with `--int8` or `--int4`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_reads_what_is_said() {
        let estimate = MemoryEstimate {
            weights: 4_000,
            kv: 1_000,
            buffers: 10,
            read_for_a_token: 5_000,
        };
        assert_eq!(estimate.total(), 5_010);
        assert!((estimate.tokens_per_second(50_000.0) - 10.0).abs() < 1e-9);
    }

    /// Found by fuzzing: a configuration of absurd sizes.
    #[test]
    fn sizes_that_fit_into_no_number_are_the_largest() {
        assert_eq!(product(&[usize::MAX, 2]), u64::MAX);
        let estimate = MemoryEstimate {
            weights: 1,
            kv: u64::MAX,
            buffers: u64::MAX,
            read_for_a_token: u64::MAX,
        };
        assert_eq!(estimate.total(), u64::MAX);
    }

    #[test]
    fn advice_fits_the_precision() {
        assert!(advice(Precision::Fp16, false).contains("--int4"));
        assert!(advice(Precision::Int4, true).contains("--int8-cache"));
        assert!(!advice(Precision::Int4, false).contains("--int"));
    }
}
