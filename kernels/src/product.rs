//! Products of activations with weights of 4 and 8 bits in blocks, on processors.
//!
//! A weight's codes lie as ONNX Runtime's `MatMulNBits` has them: output by output. They are read where they lie, mapped from a
//! file if need be, so that nothing is repacked when a model is loaded and no second copy is held. Activations are rounded to 8 bits
//! block by block, as ONNX Runtime rounds them at its accuracy level 4, so that sums of a block are exact integers.
//!
//! A few rows are multiplied with outputs as they lie, at about four fifths of what memory gives. For many, sixteen outputs at a time
//! are turned over into a panel that stays in the second cache.
//!
//! Only processors with AVX-512 and its dot products of bytes (VNNI) are served ([`Multiplier::new`]).

#[cfg(target_arch = "x86_64")]
mod few_rows;
#[cfg(target_arch = "x86_64")]
mod multiplier;
#[cfg(not(target_arch = "x86_64"))]
#[path = "product/no_multiplier.rs"]
mod multiplier;
#[cfg(target_arch = "x86_64")]
mod panel;
#[cfg(target_arch = "x86_64")]
mod rounded_rows;
#[cfg(target_arch = "x86_64")]
mod steps;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "nothing multiplies there")
)]
mod weight;

pub use multiplier::{Multiplier, Scratch};
pub use weight::{Bits, BlockWeight};

/// Most rows that are multiplied with outputs as they lie: turning outputs over does not pay for so few. Each gives what it gives
/// alone, to the bit.
pub const FEW_ROWS: usize = 17;
