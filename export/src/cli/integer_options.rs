use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lwv_export::{ActivationRange, Calibration, Error, Quantization, Rounding};
use lwv_model::Precision;
use lwv_quantize::{Bits, BlockScheme};

/// How integer weights are made.
#[derive(Args)]
pub(crate) struct IntegerOptions {
    /// How many weights share a scale [default: 32 for 4 bits, 64 for 8]
    #[arg(long, value_name = "N")]
    block_size: Option<usize>,
    /// How levels are chosen [default: compensated for 4 bits, nearest for 8]
    #[arg(long, value_enum)]
    rounding: Option<RoundingArg>,
    /// Bits of the embedding table and the head, 4 or 8, where they differ from the rest
    #[arg(long, value_name = "BITS", value_parser = bits)]
    head_bits: Option<Bits>,
    /// Give 8 bits instead of 4 to the parts of the decoder that lose most, as far as matrices then take no more bits than
    /// this on average, scales included
    #[arg(long, value_name = "BITS")]
    bits_per_weight: Option<f64>,
    /// Cache keys and values in 8 bits: a quarter of the memory, and faster in long texts on CPUs
    #[arg(long)]
    int8_cache: bool,
    /// With --int8 --target tensorrt: how far values may go that are rounded between layers
    #[arg(long, value_enum, default_value = "least-error")]
    activation_range: RangeArg,
    /// What calibration looks at, a dataset as for training; prose and photographs of our own where none is given
    #[arg(long, value_name = "FILE")]
    calibration: Vec<PathBuf>,
    /// Folder that pictures of --calibration are relative to
    #[arg(long, value_name = "DIR", requires = "calibration")]
    media_dir: Option<PathBuf>,
    /// Most tokens that calibration looks at [default: 32768, fewer for decoders wider than 1024]
    #[arg(long, value_name = "N")]
    calibration_tokens: Option<usize>,
}

fn bits(word: &str) -> Result<Bits, String> {
    Bits::try_from(word.parse::<u8>().map_err(|e| e.to_string())?)
}

/// How levels are chosen.
#[derive(Clone, Copy, ValueEnum)]
enum RoundingArg {
    /// Each weight by itself: fast, and enough for 8 bits
    Nearest,
    /// By samples, later weights making up for earlier ones (GPTQ)
    Compensated,
}

/// How far values may go that are rounded to 8 bits.
#[derive(Clone, Copy, ValueEnum)]
enum RangeArg {
    /// To where what layers make of them changes least
    LeastError,
    /// As far as they went on the samples
    Largest,
    /// As far as 99.99 % of them went
    Percentile,
    /// To where the distribution changes least
    Entropy,
}

impl IntegerOptions {
    /// What they mean for `precision`.
    ///
    /// # Errors
    /// A block size that no kernel takes, options that do not go with the precision.
    pub(crate) fn resolve(&self, precision: Precision) -> Result<Quantization, Error> {
        // Writing is bound by memory, and weights of 8 bits lose little: half as many scales are a sixteenth less to read.
        let usual = if precision == Precision::Int8 { 64 } else { 32 };
        let block_size = self.block_size.unwrap_or(usual);
        BlockScheme::new(Bits::Four, block_size)
            .map_err(|e| Error::Setting("--block-size", e.to_string()))?;
        let is_integer = super::is_integer(precision);
        let refuse = |option, reason: &str| Err(Error::Setting(option, reason.to_owned()));
        if !is_integer && self.rounding.is_some() {
            return refuse("--rounding", "it goes with --int8 and --int4");
        }
        if !is_integer && self.int8_cache {
            return refuse("--int8-cache", "it goes with --int8 and --int4");
        }
        if !is_integer && self.head_bits.is_some() {
            return refuse("--head-bits", "it goes with --int8 and --int4");
        }
        if precision != Precision::Int4 && self.bits_per_weight.is_some() {
            return refuse("--bits-per-weight", "it goes with --int4");
        }
        if self.calibration_tokens == Some(0) {
            return refuse("--calibration-tokens", "use at least 1");
        }
        let rounding = match (self.rounding, precision) {
            (Some(RoundingArg::Compensated), _) | (None, Precision::Int4) => Rounding::Compensated,
            _ => Rounding::Nearest,
        };
        Ok(Quantization {
            block_size,
            rounding,
            head_bits: self.head_bits,
            bits_per_weight: self.bits_per_weight,
            int8_cache: self.int8_cache,
            activation_range: match self.activation_range {
                RangeArg::LeastError => ActivationRange::LeastError,
                RangeArg::Largest => ActivationRange::Largest,
                RangeArg::Percentile => ActivationRange::Percentile,
                RangeArg::Entropy => ActivationRange::Entropy,
            },
            calibration: Calibration {
                datasets: self.calibration.clone(),
                media_dir: self.media_dir.clone(),
                tokens: self.calibration_tokens,
            },
            ..Quantization::default()
        })
    }
}
