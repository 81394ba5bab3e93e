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
    /// Rows of the tables of cosines and sines, one a position, where tables are part of the graph.
    fn rotary_table_rows(&self) -> Option<usize>;
    /// Whether attention takes queries, keys and values side by side and rotates them by tables itself.
    fn rotates_in_attention(&self) -> bool;
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
    /// [`lwv_model::SelfAttention`] after its projections: `qkv` is `[batch, sequence, (heads + 2 · key_value_heads) · head_dim]`,
    /// `counts` are the two numbers of heads.
    fn packed_attention(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        layer: usize,
        qkv: &Activation,
        counts: [usize; 2],
        tables: [&str; 2],
    ) -> Activation;
    fn segment_attention(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        qkv: &[Activation; 3],
        heads: usize,
        segments: &Segments<String>,
    ) -> Activation;
}
