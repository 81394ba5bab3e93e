//! The Candle side of the models: [`CandleOps`] computes what `lwv_model` defines, [`Network`] runs a checkpoint,
//! [`gguf`] makes a checkpoint out of a GGUF file.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod adapter_writer;
mod attention;
mod checkpoint_writer;
mod error;
pub mod gguf;
mod merge;
mod metrics;
mod network;
mod ops;
pub mod recipe;
mod schedule;
mod staging;
mod tensorboard;

pub use adapter_writer::{AdapterSettings, AdapterWriter, LoraUpdate};
pub use candle_core::Tensor;
pub use checkpoint_writer::{CheckpointWriter, WeightSource};
pub use error::Error;
pub use merge::merge;
pub use metrics::{MetricsFile, StepMetrics};
pub use network::Network;
pub use ops::CandleOps;
pub use schedule::{Schedule, SchedulerType};
pub use staging::Staging;
pub use tensorboard::EventWriter;
