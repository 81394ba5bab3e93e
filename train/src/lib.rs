//! The Candle side of the models: [`CandleOps`] computes what `lwv_model` defines, [`Network`] runs a checkpoint,
//! [`gguf`] makes a checkpoint out of a GGUF file, [`open_device`] finds the card.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod attention;
mod device;
mod error;
pub mod gguf;
mod network;
mod ops;

pub use candle_core::Tensor;
pub use device::open_device;
pub use error::Error;
pub use network::Network;
pub use ops::CandleOps;
