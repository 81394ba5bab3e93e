//! Checkpoint to ONNX bundle, with a parity report.
//!
//! [`export`] reads a checkpoint and writes a bundle: `graphs` builds each graph by running the one definition of the
//! network with an interpreter that appends nodes, `weights` moves the weights in bounded
//! memory, `side_files` writes what runtimes want beside the graphs. With feature `verify`, `verify` compares the
//! bundle with the checkpoint.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod activations;
mod adapter_conversion;
mod adapter_inputs;
#[cfg(feature = "verify")]
mod budget;
mod bundle;
mod calibrated;
#[cfg(feature = "verify")]
mod calibration;
#[cfg(feature = "verify")]
mod divergence;
mod emitter;
mod engines;
mod error;
mod float_weights;
mod formats;
mod genai;
mod graphs;
#[cfg(feature = "verify")]
mod loss_chart;
mod lower;
mod ops;
mod profiles;
#[cfg(feature = "verify")]
mod prompts;
mod recipe;
#[cfg(feature = "verify")]
mod sensitivity;
mod side_files;
mod sizes;
mod source;
mod staging;
mod value;
#[cfg(feature = "verify")]
pub mod verify;
mod weights;

pub use activations::ActivationRange;
pub use adapter_conversion::{ConvertedAdapter, convert_adapter};
pub use bundle::{Check, Progress, Summary, export};
pub use engines::EngineRequest;
pub use error::Error;
pub use formats::{Calibration, Quantization, Rounding};
#[cfg(feature = "verify")]
pub use loss_chart::plot_losses;
pub use recipe::Recipe;
#[cfg(feature = "verify")]
pub use sensitivity::{PartLoss, sensitivity};
pub use sizes::{PlannedBytes, planned_bytes};
