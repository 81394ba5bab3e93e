//! The Candle side of the models: [`CandleOps`] computes what `lwv_model` defines, [`Network`] runs a checkpoint,
//! [`gguf`] makes a checkpoint out of a GGUF file, [`open_device`] finds the card.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod adamw;
mod attention;
mod batch;
mod checkpoint_writer;
mod device;
mod error;
pub mod gguf;
mod kernels;
mod model;
mod moments;
mod network;
mod ops;
mod parameter;
pub mod recipe;
mod schedule;
mod selection;
mod staging;
mod tape;
mod training_ops;
mod vision_tensors;

pub use adamw::{AdamW, AdamWSettings, LearningRates};
pub use batch::{Batch, IGNORED, Sequence};
pub use candle_core::Tensor;
pub use checkpoint_writer::{CheckpointWriter, WeightSource};
pub use device::open_device;
pub use error::{Error, Result};
pub use kernels::gradient::Gradient;
pub use model::Model;
pub use network::Network;
pub use ops::CandleOps;
pub use parameter::{LowRankPair, Parameter, Part};
pub use schedule::{Schedule, SchedulerType};
pub use selection::{Lora, Selection, factor_names, trained};
pub use staging::Staging;
pub use tape::Traced;
pub use training_ops::{Parameters, TrainingOps};
