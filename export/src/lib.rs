//! Checkpoint to ONNX bundle, with a parity report.
//!
//! [`export`] reads a checkpoint and writes a bundle: `graphs` builds each graph by running the one definition of the
//! network with an interpreter that appends nodes, `weights` moves the weights in bounded
//! memory, `side_files` writes what runtimes want beside the graphs. With feature `verify`, `verify` compares the
//! bundle with the checkpoint.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod bundle;
mod error;
mod genai;
mod graphs;
mod lower;
mod ops;
mod side_files;
mod staging;
mod value;
#[cfg(feature = "verify")]
pub mod verify;
mod weights;

pub use bundle::{Progress, Recipe, Summary, export};
pub use error::Error;
