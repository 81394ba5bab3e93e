//! Attention of a decoder over its cache, on processors.
//!
//! Heads that share keys are computed together, so that every row of the cache is read once for all of them; caches of 8 bits
//! are multiplied as bytes in an [`Order`] made for that, or widened tile by tile in the first cache. A long text's attention is
//! bound by reading the cache then, not by instructions.
//!
//! - [`Cache`] appends keys and values ([`Cache::append`]); [`Rotation`] turns queries and keys by their positions.
//! - [`Attention::attend`] computes softmax(q kᵀ) v for new tokens, each of which sees what is before it, in tiles with a running
//!   maximum (arXiv 2205.14135), divided into tasks that whoever calls spreads over threads.

mod attend;
mod cache;
mod exponential;
#[cfg(target_arch = "x86_64")]
mod integer_tile;
mod order;
mod rotation;
mod small_product;
mod softmax;
mod tile;

use fearless_simd::Level;

pub use attend::{Attention, Scratch};
pub use cache::{Cache, Element, Scales};
pub use exponential::fast_exp;
pub use order::Order;
pub use rotation::Rotation;

/// How many heads there are, and how wide they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Heads of queries: a multiple of those of keys and values.
    pub query: usize,
    /// Heads of keys and values.
    pub key_value: usize,
    /// Width of a head: a multiple of 16.
    pub dim: usize,
}

impl Heads {
    /// Whether these can be computed here.
    pub fn are_supported(&self) -> bool {
        self.dim > 0
            && self.dim.is_multiple_of(16)
            && self.key_value > 0
            && self.query.is_multiple_of(self.key_value)
    }

    /// Heads of queries that share one of keys and values.
    pub fn group(&self) -> usize {
        self.query / self.key_value
    }
}

/// Whether this processor has the vector instructions that make this fast. Without them everything is right, and slow.
pub fn is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Level::new().as_avx2().is_some();
    #[cfg(not(target_arch = "x86_64"))]
    return !Level::new().is_fallback();
}
