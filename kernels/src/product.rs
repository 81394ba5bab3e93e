//! Products of activations with weights of 4 and 8 bits in blocks, on processors.
//!
//! A weight comes as ONNX Runtime's `MatMulNBits` has it, output by output, and is packed once into the order in which it is
//! multiplied ([`Packing`]): a token's products are one walk through memory, and products of many rows find their outputs side by
//! side. Activations are rounded to 8 bits block by block, as ONNX Runtime rounds them at its accuracy level 4, so that sums of a
//! block are exact integers.
//!
//! Only processors with AVX-512 and its dot products of bytes (VNNI) are served ([`Multiplier::new`]).

#[cfg(target_arch = "x86_64")]
mod multiplier;
#[cfg(not(target_arch = "x86_64"))]
#[path = "product/no_multiplier.rs"]
mod multiplier;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "nothing multiplies there")
)]
mod packed_weight;
#[cfg(target_arch = "x86_64")]
mod rounded_rows;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "nothing multiplies there")
)]
mod weight;

pub use multiplier::{Multiplier, Scratch};
pub use packed_weight::{PackedWeight, Packing};
pub use weight::{Bits, BlockWeight};
