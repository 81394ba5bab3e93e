use ort::ep::{ArenaExtendStrategy, CUDA};
use ort::session::builder::SessionBuilder;

use super::Device;
use crate::error::Result;

/// Registers the CUDA provider for the card `index`.
///
/// # Errors
/// The provider cannot be had; there is no falling back.
pub(crate) fn register(device: Device, builder: SessionBuilder, index: u32) -> Result<SessionBuilder> {
    let index = i32::try_from(index).map_err(|_| device.failed("there is no such card"))?;
    builder
        .with_execution_providers([provider(index).build().error_on_failure()])
        .map_err(|e| device.failed(e.message()))
}

/// Precision is in the graph, so products of 32 bits have all of them; and memory is taken as needed, not doubled.
pub(crate) fn provider(index: i32) -> CUDA {
    CUDA::default()
        .with_device_id(index)
        .with_tf32(false)
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
}
