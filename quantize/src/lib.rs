//! Weights in four and eight bits.
//!
//! A matrix is cut into blocks along its inputs; each block has one scale and each weight one small integer:
//!
//! - [`BlockScheme`] says how many bits and how long blocks are, [`BlockMatrix`] holds what comes out, in the layout of ONNX
//!   Runtime's `MatMulNBits`;
//! - [`round_to_nearest`] looks at weights alone;
//! - [`Compensator`] also looks at what the layer reads, a [`Hessian`] gathered from calibration samples, and lets later
//!   weights of a row make up for the rounding of earlier ones (GPTQ, arXiv 2210.17323).
//!
//! [`ChannelMatrix`] has 8 bits and one scale for each output, which is what products of integers with rounded inputs take.
//!
//! Nothing here knows a model, a file or a tensor library.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod block_matrix;
mod channel_matrix;
mod compensation;
mod error;
mod hessian;
mod scale;
mod scheme;

pub use block_matrix::{BlockMatrix, round_to_nearest};
pub use channel_matrix::{ChannelMatrix, column_maxima, round_scaled};
pub use compensation::Compensator;
pub use error::Error;
pub use hessian::Hessian;
pub use scheme::{Bits, BlockScheme};
