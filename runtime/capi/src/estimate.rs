use std::ffi::c_char;

use lwv_runtime::{Bundle, DEFAULT_PREFILL_CHUNK, MemoryEstimate};

use crate::argument::{path, required};
use crate::border::call;
use crate::engine::lwv_engine;
use crate::status::lwv_status;
use crate::structure::{Structure, write};

/// What a text will take, in bytes. Set `size` before it is asked for.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lwv_memory_estimate {
    /// Bytes of this structure.
    pub size: usize,
    /// The graphs and their weights.
    pub weights: u64,
    /// The cache.
    pub kv: u64,
    /// Inputs and outputs; what the operators need inside a run comes on top.
    pub buffers: u64,
    /// The sum.
    pub total: u64,
    /// What is read to write one more token.
    pub read_for_a_token: u64,
}

// SAFETY: `repr(C)`, `size` first, numbers of at most 8 bytes.
unsafe impl Structure for lwv_memory_estimate {
    fn usual() -> Self {
        Self {
            size: size_of::<Self>(),
            weights: 0,
            kv: 0,
            buffers: 0,
            total: 0,
            read_for_a_token: 0,
        }
    }
}

impl From<MemoryEstimate> for lwv_memory_estimate {
    fn from(estimate: MemoryEstimate) -> Self {
        Self {
            size: size_of::<Self>(),
            weights: estimate.weights,
            kv: estimate.kv,
            buffers: estimate.buffers,
            total: estimate.total(),
            read_for_a_token: estimate.read_for_a_token,
        }
    }
}

/// What a text of `tokens` tokens, prompt included, will take with the bundle in the folder `bundle`. Needs no ONNX Runtime
/// and loads no weights.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_bundle_estimate(
    bundle: *const c_char,
    tokens: usize,
    estimate: *mut lwv_memory_estimate,
) -> lwv_status {
    call(|| {
        let bundle = Bundle::open(path(bundle, "bundle")?)?;
        let taken = MemoryEstimate::of(&bundle, tokens, DEFAULT_PREFILL_CHUNK);
        write(taken.into(), estimate, "estimate")
    })
}

/// What a text of `tokens` tokens, prompt included, will take on this engine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lwv_engine_estimate(
    engine: *const lwv_engine,
    tokens: usize,
    estimate: *mut lwv_memory_estimate,
) -> lwv_status {
    call(|| {
        let taken = required(engine, "engine")?.engine.estimate(tokens);
        write(taken.into(), estimate, "estimate")
    })
}
