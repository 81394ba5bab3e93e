use std::collections::BTreeMap;
use std::path::PathBuf;

use lwv_model::{Precision, Target, TensorRtVersion};
use lwv_quantize::Bits;
use serde::Serialize;

use crate::Error;
use crate::engines::EngineRequest;
use crate::formats::{Quantization, Rounding};

/// What to export and how: the resolved settings, saved in the bundle as `recipe.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Recipe {
    /// The checkpoint's folder.
    pub checkpoint: PathBuf,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// A LoRA to merge.
    pub adapter: Option<PathBuf>,
    /// Whether the decoder reads adapters when it runs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub runtime_adapters: bool,
    /// Precision of all graphs.
    pub precision: Precision,
    /// Text that the parity report measures on; ours where there is none.
    pub held_out: Option<PathBuf>,
    /// Whether the checkpoint is run on samples before it is written in 16 bits, so that what would overflow stays in 32.
    pub guard: bool,
    /// Matrices that stay in 32 bits where the others have 16, by canonical name, each with the reason.
    pub islands: BTreeMap<String, String>,
    /// How integer weights are made, where the precision has any.
    pub quantization: Quantization,
    /// What the graphs are lowered for.
    pub target: Target,
    /// Engines that are built with the bundle, where the target has any.
    pub engines: Option<EngineRequest>,
    /// The oldest TensorRT that must take the graphs, where they are lowered for it; where nothing is said, the oldest of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensorrt_version: Option<TensorRtVersion>,
}

impl Recipe {
    /// Checks that the target has what is wanted of it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        const VERSION: &str = "--tensorrt-version";
        match (self.target, self.tensorrt_version) {
            (Target::TensorRt, Some(version)) if version < TensorRtVersion::OLDEST => {
                let reason = format!("{version} is older than {}", TensorRtVersion::OLDEST);
                return Err(Error::Setting(VERSION, reason));
            }
            (Target::TensorRt, _) => (),
            (_, Some(_)) => {
                return Err(Error::Setting(
                    VERSION,
                    "it goes with --target tensorrt".to_owned(),
                ));
            }
            (_, None) => return Ok(()),
        }
        let quantization = &self.quantization;
        let mut bits = quantization
            .head_bits
            .iter()
            .chain(quantization.overrides.values());
        let refused = [
            ("--runtime-adapters", self.runtime_adapters),
            ("--int8-cache", quantization.int8_cache),
            ("--bits-per-weight", quantization.bits_per_weight.is_some()),
            ("--head-bits", bits.any(|bits| *bits == Bits::Eight)),
        ];
        match refused.into_iter().find(|(_, wanted)| *wanted) {
            Some((option, _)) => Err(Error::Setting(option, "it goes with --target ort".to_owned())),
            None => Ok(()),
        }
    }

    /// Whether the checkpoint must be run on samples to make integers.
    pub(crate) fn is_calibrated(&self) -> bool {
        let rounds_activations = self.target == Target::TensorRt && self.precision == Precision::Int8;
        rounds_activations
            || self.quantization.rounding == Rounding::Compensated
            || self.quantization.int8_cache
    }
}
