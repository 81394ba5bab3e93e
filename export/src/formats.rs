use std::collections::BTreeMap;
use std::path::PathBuf;

use lwv_model::{ElementType, POSITION_TABLE, Precision, Target, TensorRtVersion};
use lwv_quantize::{Bits, BlockScheme};
use serde::Serialize;

use crate::lower::tensorrt_has;
use crate::{ActivationRange, Recipe};

/// How integer weights are made of floats. What is not said here follows from the precision.
#[derive(Debug, Clone, Serialize)]
pub struct Quantization {
    /// Inputs that share a scale.
    pub block_size: usize,
    /// How levels are chosen.
    pub rounding: Rounding,
    /// Bits of the embedding table and the head, where they differ from the rest.
    pub head_bits: Option<Bits>,
    /// Bits of single matrices that differ from the rest, by canonical name.
    pub overrides: BTreeMap<String, Bits>,
    /// Bits that matrices may take on average, scales included; with it, parts of the decoder that lose most get 8 bits.
    pub bits_per_weight: Option<f64>,
    /// Whether keys and values are cached in 8 bits, with a fixed scale for each channel.
    pub int8_cache: bool,
    /// How far values may go that are rounded to 8 bits between layers, where the target has such.
    pub activation_range: ActivationRange,
    /// What calibration looks at.
    pub calibration: Calibration,
}

/// What calibration looks at.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Calibration {
    /// Datasets in any form that training reads; prose and photographs that come with the exporter where there are none.
    pub datasets: Vec<PathBuf>,
    /// Folder that pictures of the datasets are relative to.
    pub media_dir: Option<PathBuf>,
    /// Most tokens that are read; where nothing is said, as many as memory is taken for.
    pub tokens: Option<usize>,
}

impl Default for Quantization {
    fn default() -> Self {
        Self {
            block_size: 32,
            rounding: Rounding::Nearest,
            head_bits: None,
            overrides: BTreeMap::new(),
            bits_per_weight: None,
            int8_cache: false,
            activation_range: ActivationRange::LeastError,
            calibration: Calibration::default(),
        }
    }
}

/// How levels are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// Each weight by itself.
    Nearest,
    /// By calibration samples, later weights making up for earlier ones (GPTQ).
    Compensated,
}

/// How a weight stands in a bundle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum WeightFormat {
    /// As floats.
    Float(ElementType),
    /// As small integers with a scale for each block.
    Blocks(BlockScheme),
    /// As integers of 8 bits with a scale for each output, between rounded inputs and float outputs.
    Channels,
}

/// The format of every weight.
pub(crate) struct Formats<'a> {
    target: Target,
    tensorrt_version: TensorRtVersion,
    precision: Precision,
    quantization: &'a Quantization,
    /// Matrices in 32 bits where the others have 16.
    islands: &'a BTreeMap<String, String>,
}

impl<'a> Formats<'a> {
    /// Those of a bundle that nothing else is known of.
    pub(crate) fn new(
        target: Target,
        precision: Precision,
        quantization: &'a Quantization,
        islands: &'a BTreeMap<String, String>,
    ) -> Self {
        Self {
            target,
            precision,
            quantization,
            islands,
            tensorrt_version: TensorRtVersion::default(),
        }
    }

    /// Those of a recipe.
    pub(crate) fn of(recipe: &'a Recipe) -> Self {
        Self {
            target: recipe.target,
            tensorrt_version: recipe.tensorrt_version.unwrap_or_default(),
            precision: recipe.precision,
            quantization: &recipe.quantization,
            islands: &recipe.islands,
        }
    }

    /// What the graphs are lowered for.
    pub(crate) fn target(&self) -> Target {
        self.target
    }

    /// The oldest TensorRT that must take the graphs, where they are lowered for it.
    pub(crate) fn tensorrt_version(&self) -> TensorRtVersion {
        self.tensorrt_version
    }

    /// Type of cached keys and values.
    pub(crate) fn cache_type(&self) -> ElementType {
        if self.quantization.int8_cache {
            ElementType::Int8
        } else {
            self.compute_type()
        }
    }

    /// Type of matrix products and attention.
    pub(crate) fn compute_type(&self) -> ElementType {
        match (self.target, self.precision) {
            // Cards have no use for 32 bits around integers.
            (Target::TensorRt, Precision::Int8 | Precision::Int4) => ElementType::Float16,
            _ => self.precision.element_type(),
        }
    }

    /// Opset of the default domain, and version of the file format, that the formats need.
    pub(crate) fn versions(&self) -> [i64; 2] {
        match (self.target, self.precision) {
            // Attention, norms and rotation as operators.
            (Target::TensorRt, _) if tensorrt_has(self.tensorrt_version, "Attention") => [23, 11],
            // Integers of 4 bits in blocks.
            (Target::TensorRt, Precision::Int4) => [21, 10],
            // Scales of 16 bits.
            (Target::TensorRt, Precision::Int8) => [19, 9],
            _ => [18, 8],
        }
    }

    /// Format of a matrix that a linear layer reads. The vision tower is small beside the decoder and its features are all
    /// that the decoder sees of a picture, so it never gets four bits unasked.
    pub(crate) fn matrix(&self, name: &str) -> WeightFormat {
        if self.islands.contains_key(name) || name == POSITION_TABLE {
            return WeightFormat::Float(ElementType::Float32);
        }
        let bits = match self.precision {
            Precision::Int8 if self.target == Target::TensorRt => return WeightFormat::Channels,
            // Weights of 8 bits alone save a tower of this size nothing on cards.
            Precision::Int4 if self.target == Target::TensorRt && name.starts_with("visual.") => {
                return WeightFormat::Float(self.compute_type());
            }
            Precision::Int4 if name.starts_with("visual.") => Bits::Eight,
            Precision::Int4 => Bits::Four,
            Precision::Int8 => Bits::Eight,
            _ => return WeightFormat::Float(self.compute_type()),
        };
        let is_head = matches!(name, "lm_head.weight" | "model.embed_tokens.weight");
        let bits = self.quantization.head_bits.filter(|_| is_head).unwrap_or(bits);
        let bits = self.quantization.overrides.get(name).copied().unwrap_or(bits);
        WeightFormat::Blocks(BlockScheme {
            bits,
            block_size: self.quantization.block_size,
            positive: self.target == Target::TensorRt,
            half_scales: self.target == Target::Ort,
        })
    }

    /// The scheme that all these matrices have, where they are small integers in one way.
    pub(crate) fn shared_scheme(&self, names: &[&str]) -> Option<BlockScheme> {
        let first = self.matrix(names.first()?);
        match first {
            WeightFormat::Blocks(scheme) if names.iter().all(|name| self.matrix(name) == first) => {
                Some(scheme)
            }
            _ => None,
        }
    }

    /// Scheme of the embedding table, of rows of `width`: that of any matrix, so that a tied head shares it; but the operator
    /// that reads rows takes whole blocks only. `None` where it stays float, in the type of products.
    pub(crate) fn table(&self, name: &str, width: usize) -> Option<BlockScheme> {
        match self.matrix(name) {
            WeightFormat::Blocks(scheme) => {
                (self.target == Target::Ort && width.is_multiple_of(scheme.block_size)).then_some(scheme)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formats<'a>(
        precision: Precision,
        quantization: &'a Quantization,
        islands: &'a BTreeMap<String, String>,
    ) -> Formats<'a> {
        Formats {
            target: Target::Ort,
            tensorrt_version: TensorRtVersion::default(),
            precision,
            quantization,
            islands,
        }
    }

    fn bits(format: WeightFormat) -> Option<Bits> {
        match format {
            WeightFormat::Blocks(scheme) => Some(scheme.bits),
            _ => None,
        }
    }

    #[test]
    fn the_vision_tower_keeps_eight_bits_unless_told() {
        let mut quantization = Quantization::default();
        let format = |quantization: &Quantization, name| {
            bits(formats(Precision::Int4, quantization, &BTreeMap::new()).matrix(name))
        };
        assert_eq!(
            format(&quantization, "visual.blocks.0.attn.qkv.weight"),
            Some(Bits::Eight)
        );
        assert_eq!(
            format(&quantization, "model.layers.0.mlp.up_proj.weight"),
            Some(Bits::Four)
        );
        quantization
            .overrides
            .insert("model.layers.0.mlp.up_proj.weight".into(), Bits::Eight);
        assert_eq!(
            format(&quantization, "model.layers.0.mlp.up_proj.weight"),
            Some(Bits::Eight)
        );
    }

    #[test]
    fn table_and_head_may_have_bits_of_their_own() {
        let (mut quantization, islands) = (Quantization::default(), BTreeMap::new());
        quantization.head_bits = Some(Bits::Eight);
        let formats = formats(Precision::Int4, &quantization, &islands);
        for (name, expected) in [
            ("lm_head.weight", Bits::Eight),
            ("model.embed_tokens.weight", Bits::Eight),
            ("model.layers.0.mlp.up_proj.weight", Bits::Four),
        ] {
            assert_eq!(bits(formats.matrix(name)), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_table_that_blocks_do_not_divide_stays_float() {
        let (quantization, islands) = (Quantization::default(), BTreeMap::new());
        let formats = formats(Precision::Int4, &quantization, &islands);
        assert_eq!(
            formats
                .table("model.embed_tokens.weight", 64)
                .map(|scheme| scheme.bits),
            Some(Bits::Four)
        );
        assert_eq!(formats.table("model.embed_tokens.weight", 72), None);
    }

    #[test]
    fn floats_are_not_quantized_and_islands_stay_wide() {
        let quantization = Quantization::default();
        let islands = [("loud.weight".to_owned(), "too large".to_owned())].into();
        let formats = formats(Precision::Fp16, &quantization, &islands);
        assert_eq!(
            formats.matrix("x.weight"),
            WeightFormat::Float(ElementType::Float16)
        );
        assert_eq!(
            formats.matrix("loud.weight"),
            WeightFormat::Float(ElementType::Float32)
        );
    }
}
