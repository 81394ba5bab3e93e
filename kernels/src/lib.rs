//! What a decoder spends its time on, on processors.
//!
//! - [`attention`] over a cache of floats or 8 bits;
//! - [`product`]: activations times weights of 4 and 8 bits in blocks.
//!
//! Nothing here knows a model, a graph or a runtime, and nothing is unsafe: vector instructions come from `fearless_simd`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod attention;
#[cfg(target_arch = "x86_64")]
mod lines;
pub mod product;

/// Runs tasks: `run(count, task)` calls `task` with every number below `count` once, on any threads, and returns when all are
/// done.
pub type Tasks<'a> = dyn FnMut(usize, &(dyn Fn(usize) + Sync)) + 'a;
