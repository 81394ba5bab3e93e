//! The models, written once and without a tensor library.
//!
//! - [`ModelConfig`] reads a checkpoint's `config.json`, in both spellings that exist.
//! - [`WeightNames`] knows every weight's name in every layout that exists; shapes stand where a weight is asked for.
//! - [`decoder`], [`vision_tower`] and [`tile_tower`] are the networks, as plain functions over [`Ops`] and [`TileOps`].
//! - [`contract`] names the inputs, outputs and dimensions of the exported graphs, [`Manifest`] the bundle's files.
//!
//! - [`read_adapter_file`] and [`write_adapter_file`] know the form of adapters that a bundle takes when it runs.
//! - With feature `checkpoint`, [`Checkpoint`] and [`Adapter`] read weights, whole or in bounded memory.
//!
//! Two interpreters implement [`Ops`]: one computes with candle, one appends ONNX nodes.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

#[cfg(feature = "checkpoint")]
mod adapter;
mod adapter_file;
mod attention;
#[cfg(feature = "checkpoint")]
mod checkpoint;
mod config;
pub mod contract;
mod decoder;
mod error;
mod manifest;
mod names;
mod ops;
mod rope;
mod tensorrt_version;
mod text;
mod tile_ops;
mod tile_vision;
mod vision;
mod vision_kind;

#[cfg(feature = "checkpoint")]
pub use adapter::{Adapter, LowRank};
pub use adapter_file::{AdapterFileError, AdapterParameter, read_adapter_file, write_adapter_file};
pub use attention::{Linear, SelfAttention};
#[cfg(feature = "checkpoint")]
pub use checkpoint::{Checkpoint, CheckpointError, StoredType, TensorInfo, TensorPlace};
pub use config::{Family, ModelConfig};
pub use decoder::{
    DecoderInputs, Logits, decoder, decoder_attention, decoder_feed_forward, decoder_head, decoder_layer,
    decoder_norm, decoder_rotary, token_embeddings,
};
pub use error::ConfigError;
pub use manifest::{
    AdaptedLinear, AdaptedProduct, CalibrationEntry, Dimension, ElementType, EngineEntry, FORMAT_VERSION,
    FileEntry, GraphContract, GraphEntry, ImageLimits, Manifest, ParitySummary, Precision, Profile,
    QuantizationEntry, Target, TensorContract,
};
pub use names::{WeightNames, expected_weights};
pub use ops::{Ops, Rotary, Segments};
pub use rope::{Rope, RopeScaling};
pub use tensorrt_version::TensorRtVersion;
pub use text::TextConfig;
pub use tile_ops::TileOps;
pub use tile_vision::{POSITION_TABLE, TileVisionConfig, tile_tower};
pub use vision::{
    VisionConfig, VisionInputs, vision_block, vision_embedding, vision_merger, vision_rotary, vision_tower,
};
pub use vision_kind::Vision;
