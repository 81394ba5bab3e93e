//! What the networks compute, forward and backward.
//!
//! Every operation has an analytic backward pass. On the host, f32 and f64 run in loops of our own over rayon's
//! threads; other types and devices run the same formulas composed of candle's operations, reductions in f32.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod cross_entropy;
pub(crate) mod embedding;
mod float;
pub(crate) mod gemm;
pub(crate) mod gradient;
pub(crate) mod host;
pub(crate) mod linear;
pub(crate) mod rms_norm;
pub(crate) mod rotation;
pub(crate) mod segments;

pub(crate) use float::Float;

/// Calls `$host::<f32 or f64>` for tensors like `$like` in the host's memory, and `$composed` for all others.
macro_rules! on_host {
    ($like:expr, $host:ident($($argument:expr),* $(,)?), $composed:expr) => {
        match ($like.device().is_cpu(), $like.dtype()) {
            (true, candle_core::DType::F32) => $host::<f32>($($argument),*),
            (true, candle_core::DType::F64) => $host::<f64>($($argument),*),
            _ => $composed,
        }
    };
}
pub(crate) use on_host;

/// Tests of backward passes against finite differences, in f64.
#[cfg(test)]
mod finite_differences;
