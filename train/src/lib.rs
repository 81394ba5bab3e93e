//! The Candle side of the models: training and its references.
//!
//! - [`Model`] computes and differentiates what `lwv_model` defines, by the operations of [`TrainingOps`]; [`AdamW`]
//!   changes its weights, and [`Trainer`] does so step by step over a dataset, with everything that must survive.
//! - What a training learns is its [`Objective`]: answers ([`Supervised`]), or which of two is better ([`Preferred`]).
//! - [`Curve`] reads what a training has measured, [`plot_curves`] draws it.
//! - [`CandleOps`] and [`Network`] run a checkpoint without gradients, as the reference for bundles.
//! - [`emit()`] writes the files with which another trainer does the same.
//! - [`gguf`] makes a checkpoint out of a GGUF file, [`merge()`] one out of a checkpoint and an adapter.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod adamw;
mod adapter_writer;
mod attention;
mod batch;
mod checkpoint_writer;
mod curriculum;
mod curve;
mod device;
mod emit;
mod error;
mod feature_cache;
pub mod gguf;
mod input_rounding;
mod kernels;
mod merge;
mod metrics;
mod model;
mod moments;
mod network;
mod objective;
mod ops;
mod parameter;
mod plan;
mod preference;
pub mod recipe;
mod reference;
mod samples;
mod schedule;
mod selection;
mod staging;
mod tape;
mod tensorboard;
mod token_weights;
mod trainer;
mod training_ops;
mod training_state;
mod vision_tensors;

pub use adamw::{AdamW, AdamWSettings, LearningRates};
pub use adapter_writer::{AdapterSettings, AdapterWriter, LoraUpdate};
pub use batch::{Batch, Sequence};
pub use candle_core::{Device, Tensor};
pub use checkpoint_writer::{CheckpointWriter, WeightSource};
pub use curriculum::Curriculum;
pub use curve::{Curve, plot_curves};
pub use device::open_device;
pub use emit::emit;
pub use error::{Error, Result};
pub use input_rounding::InputRounding;
pub use kernels::gradient::Gradient;
pub use merge::merge;
pub(crate) use metrics::EvaluationMetrics;
pub use metrics::{MetricsFile, PreferenceMetrics, StepMetrics};
pub use model::Model;
pub use network::Network;
pub use objective::{Objective, PairSums, Preferred, Preparation, Share, Supervised};
pub use ops::{CandleOps, Observer};
pub use parameter::{LowRankPair, Parameter, Part};
pub use plan::{Load, MemoryPlan};
pub use preference::{Judgement, PreferenceLoss, PreferenceLossType, Scores};
pub use samples::{Measure, Samples, Shortage};
pub use schedule::{Schedule, SchedulerType};
pub use selection::{Lora, Selection, factor_names, trained};
pub use staging::Staging;
pub use tape::Traced;
pub use tensorboard::EventWriter;
pub use trainer::{Event, Outcome, Trainer, Watch};
pub use training_ops::{Parameters, TrainingOps};
pub use training_state::TrainingState;
