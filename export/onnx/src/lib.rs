//! The ONNX file format: graphs, external data, atomic files.
//!
//! This crate knows how an ONNX file is laid out and nothing about what any model computes:
//!
//! - [`GraphBuilder`] appends nodes in the order they run, names them, and refuses what would be no graph;
//! - [`Model`] is a checked or a read ONNX file: what it declares, and the way to disk and back;
//! - [`ExternalWriter`] writes the weights that a model points to in a file beside it, with bounded memory.
//!
//! Every file is written under a `.partial` name and renamed when complete, so a file that has its final
//! name is whole.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod attribute;
mod check;
mod digest;
mod dtype;
mod error;
mod external;
mod graph;
mod initializer;
mod model;
mod names;
mod node;
mod partial;
mod pipeline;
mod tensor;
mod value;

pub use attribute::Attribute;
pub use digest::{FileDigest, file_digest};
pub use dtype::DataType;
pub use error::Error;
pub use external::{ExternalFile, ExternalWriter, aligned_offset};
pub use graph::{GraphBuilder, PRODUCER};
pub use initializer::{ExternalLocation, Initializer, Storage};
pub use model::{Model, NodeInfo};
pub use node::{Node, Output};
pub use partial::write_atomically;
pub use tensor::Tensor;
pub use value::{Dimension, ValueInfo};
