//! What differs between targets: how norms, rotation and attention are written, and what a graph needs around them.

mod geometry;
mod ort;

use lwv_model::Segments;

pub(crate) use geometry::VisionGeometry;
pub(crate) use ort::OrtLowering;

use crate::emitter::Emitter;
use crate::value::Activation;

/// One target's way of writing the operations that are not the same everywhere. Types and layouts of inputs are those
/// of [`lwv_model::Ops`]; names are those of values in the graph.
pub(crate) trait Lowering {
    /// The leading dimensions apart, `[batch, sequence, width]`.
    fn as_batched(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation;
    fn rms_norm(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation, weight: &str, eps: f32)
    -> Activation;
    fn silu(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation;
    fn gelu(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation;
    fn rotate(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        x: &Activation,
        heads: usize,
        cos: &str,
        sin: &str,
    ) -> Activation;
    fn causal_attention(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        layer: usize,
        qkv: &[Activation; 3],
        heads: usize,
        key_value_heads: usize,
    ) -> Activation;
    fn segment_attention(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        qkv: &[Activation; 3],
        heads: usize,
        segments: &Segments<String>,
    ) -> Activation;
}
