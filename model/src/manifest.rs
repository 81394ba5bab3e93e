use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{ConfigError, TensorRtVersion};

/// Format of `lwv.json` that this version writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// A bundle's `lwv.json`: what the folder holds and what its graphs promise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT_VERSION`] of the writer.
    pub format_version: u32,
    /// Name and version of the writer.
    pub producer: String,
    /// The model family, as `model_type` names it.
    pub family: String,
    /// What the graphs are lowered for.
    pub target: Target,
    /// The oldest TensorRT that takes the graphs, where they are lowered for it and the writer said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensorrt_version: Option<TensorRtVersion>,
    /// Hash that tells the source checkpoint (and adapter) from others: over its configuration, its tensors' names,
    /// types and shapes, and its files' sizes and times.
    pub source: String,
    /// The graphs by name.
    pub graphs: BTreeMap<String, GraphEntry>,
    /// Every file of the bundle but this one, by path relative to the bundle with `/` between parts.
    pub files: BTreeMap<String, FileEntry>,
    /// Limits of images, where the model takes images.
    pub images: Option<ImageLimits>,
    /// Longest context in tokens.
    pub context_length: usize,
    /// Graph file → input → the sizes that engines are built for, where the target has engines.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub profiles: BTreeMap<String, BTreeMap<String, Profile>>,
    /// Matrices in 32 bits where the others have 16, by canonical name, each with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub islands: BTreeMap<String, String>,
    /// How integer weights were made, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationEntry>,
    /// Products of the decoder that adapters may change when the bundle runs, where it was exported for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapted: Vec<AdaptedProduct>,
    /// Engines that were built ahead of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engines: Vec<EngineEntry>,
    /// What the parity report found, where one was made.
    pub parity: Option<ParitySummary>,
}

/// A product of the decoder to which the graph adds `x · A · B` of an adapter; see
/// [`contract::adapter_inputs`](crate::contract::adapter_inputs).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdaptedProduct {
    /// What the names of A and B begin with: the linear layer's name, or one for all of them where the product is of several.
    pub name: String,
    /// Type of A and B.
    pub element_type: ElementType,
    /// Width of what it reads.
    pub inputs: usize,
    /// The linear layers in the order of their outputs.
    pub linears: Vec<AdaptedLinear>,
}

impl AdaptedProduct {
    /// Width of what it makes. A manifest that somebody wrote may hold any numbers; those that fit into none are the largest.
    pub fn outputs(&self) -> usize {
        let widths = self.linears.iter().map(|linear| linear.outputs);
        widths.fold(0, usize::saturating_add)
    }
}

/// A linear layer of an [`AdaptedProduct`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdaptedLinear {
    /// Its canonical name, such as `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Width of what it makes.
    pub outputs: usize,
}

/// An engine that was built ahead of time and came with the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineEntry {
    /// Name of the graph that it computes.
    pub graph: String,
    /// SHA-256 of that graph's file, as it was then.
    pub graph_sha256: String,
    /// What runs it: `tensorrt-rtx`.
    pub provider: String,
    /// Version of that library that built it, such as `1.7.1.116`.
    pub version: String,
    /// Compute capability of the cards that it is for, such as `sm89`.
    pub card: String,
    /// Graph that has the same inputs and outputs, and the engine as its only node.
    pub file: String,
}

/// Shapes of an input that an engine is built for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Smallest.
    pub min: Vec<usize>,
    /// What the engine is tuned for.
    pub opt: Vec<usize>,
    /// Largest.
    pub max: Vec<usize>,
}

/// What a bundle's graphs are lowered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Target {
    /// ONNX Runtime on CPU or CUDA.
    Ort,
    /// Portable ONNX for the TensorRT providers.
    TensorRt,
}

/// Precision of a graph's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats; the residual stream and the norms stay in 32 bit.
    Fp16,
    /// Matrices of 8-bit integers with a scale for each block; all else is 32 bit.
    Int8,
    /// Matrices of 4-bit integers, those of the vision tower of 8 bits; all else is 32 bit.
    Int4,
}

impl Precision {
    /// Type of matrices, and of the cache.
    pub fn element_type(self) -> ElementType {
        match self {
            Self::Fp16 => ElementType::Float16,
            Self::Fp32 | Self::Int8 | Self::Int4 => ElementType::Float32,
        }
    }
}

/// One graph of a bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphEntry {
    /// Its file, relative to the bundle.
    pub file: String,
    /// Precision of its weights.
    pub precision: Precision,
    /// Opset of the default domain.
    pub opset: i64,
    /// Number of nodes.
    pub nodes: usize,
    /// Its inputs and outputs.
    #[serde(flatten)]
    pub contract: GraphContract,
}

/// Inputs and outputs of a graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphContract {
    /// Inputs, in order.
    pub inputs: Vec<TensorContract>,
    /// Inputs that have a value in the graph already; a run may give them another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub optional_inputs: Vec<TensorContract>,
    /// Outputs, in order.
    pub outputs: Vec<TensorContract>,
}

/// Name, type and shape of one input or output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorContract {
    /// Name in the graph.
    pub name: String,
    /// Type of the elements.
    pub element_type: ElementType,
    /// Dimensions, outermost first.
    pub dims: Vec<Dimension>,
}

/// A dimension: fixed, or named and free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dimension {
    /// Fixed.
    Size(usize),
    /// Free; equal names are equal sizes.
    Symbol(String),
}

/// Type of a tensor's elements at a graph's border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ElementType {
    /// 32-bit float.
    Float32,
    /// 16-bit float.
    Float16,
    /// 64-bit integer.
    Int64,
    /// 32-bit integer.
    Int32,
    /// 8-bit integer.
    Int8,
}

impl ElementType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::Int8 => 1,
            Self::Float16 => 2,
            Self::Float32 | Self::Int32 => 4,
            Self::Int64 => 8,
        }
    }
}

/// How a bundle's integer weights were made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizationEntry {
    /// Weights that share a scale.
    pub block_size: usize,
    /// `nearest`, or `compensated` where samples were looked at.
    pub rounding: String,
    /// Bits that the matrices of all graphs take on average, scales included.
    pub bits_per_weight: f64,
    /// What calibration looked at.
    pub calibration: Option<CalibrationEntry>,
    /// Where layers round what they read: matrices that read it as it is, by canonical name, each with the part by which rounding
    /// would have changed what it makes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exact_inputs: BTreeMap<String, f64>,
}

/// What calibration looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalibrationEntry {
    /// Number of samples.
    pub samples: usize,
    /// Tokens of all samples, those of pictures included.
    pub tokens: usize,
    /// SHA-256 of token ids and pixels.
    pub sha256: String,
}

/// Size and digest of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

/// How large images may be after resizing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLimits {
    /// Fewest pixels.
    pub min_pixels: u64,
    /// Most pixels.
    pub max_pixels: u64,
}

/// The parity report in short; `parity.json` has the whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParitySummary {
    /// Whether every comparison was within its bound.
    pub passed: bool,
    /// Mean Kullback-Leibler divergence of the bundle's predictions from the checkpoint's over held-out text, in nats.
    #[serde(default)]
    pub mean_divergence: f64,
    /// Part of the held-out tokens after which both think the same token most likely.
    #[serde(default)]
    pub top_1_agreement: f64,
    /// Perplexity of held-out text by the bundle over that by the checkpoint.
    #[serde(default)]
    pub perplexity_ratio: f64,
    /// Largest difference of a logit from the checkpoint's, over the comparisons.
    pub max_abs_logit_difference: f64,
    /// Smallest cosine of a position's logits with the checkpoint's.
    pub min_logit_cosine: f64,
    /// Greedy tokens compared.
    pub greedy_tokens: usize,
    /// Greedy tokens equal to the checkpoint's before the first that differs, in the worst prompt.
    pub greedy_agreement: usize,
}

impl Manifest {
    /// The manifest's name inside a bundle.
    pub const FILE: &'static str = "lwv.json";

    /// Reads the manifest of the bundle `dir`.
    ///
    /// # Errors
    /// A file that cannot be read or is no manifest, a format version that this reader does not know.
    pub fn from_dir(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join(Self::FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })?;
        let json = |e: serde_json::Error| ConfigError::Json {
            path: path.clone(),
            message: e.to_string(),
        };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(json)?;
        // The version is read first: a later format need not parse as this one.
        let version = value
            .get("format_version")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0);
        if version != u64::from(FORMAT_VERSION) {
            let reason = format!("this version reads format {FORMAT_VERSION}; export the checkpoint again");
            return Err(ConfigError::invalid("lwv.json format_version", version, reason));
        }
        serde_json::from_value(value).map_err(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_format_is_refused_before_it_is_parsed() {
        let dir = std::env::temp_dir().join(format!("lwv-manifest-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(Manifest::FILE), r#"{"format_version": 99, "graphs": 3}"#).unwrap();
        let error = Manifest::from_dir(&dir).unwrap_err().to_string();
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(error.contains("99") && error.contains("format 1"), "{error}");
    }

    #[test]
    fn dimensions_are_numbers_or_names() {
        let dims: Vec<Dimension> = serde_json::from_str(r#"["batch_size", 3]"#).unwrap();
        assert_eq!(dims, [Dimension::Symbol("batch_size".into()), Dimension::Size(3)]);
    }
}
