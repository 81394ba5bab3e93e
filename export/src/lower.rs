//! What differs between targets: how norms, rotation and attention are written, and what a graph needs around them.

mod geometry;
mod leading;
mod ort;
mod tensorrt;
mod tensorrt_attention;
mod tensorrt_check;
mod tensorrt_newer;

use lwv_model::Segments;
use lwv_onnx::Attribute;

pub(crate) use geometry::VisionGeometry;
pub(crate) use ort::OrtLowering;
pub(crate) use tensorrt::TensorRtLowering;
pub(crate) use tensorrt_check::check as check_for_tensorrt;
pub(crate) use tensorrt_newer::has as tensorrt_has;

use crate::emitter::Emitter;
use crate::value::{Activation, Layout};

/// One target's way of writing the operations that are not the same everywhere. Types and layouts of inputs are those
/// of [`lwv_model::Ops`]; names are those of values in the graph.
pub(crate) trait Lowering {
    /// The leading dimensions apart, `[batch, sequence, width]`.
    fn as_batched(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation;
    fn rms_norm(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation, weight: &str, eps: f32)
    -> Activation;
    /// Of every sequence the positions that are scored: the last one, as rows.
    fn scored_positions(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation {
        let x = self.as_batched(graph, x);
        let last = graph.scalar(-1);
        Activation {
            layout: Layout::Flat,
            ..x.renamed(graph.op("Gather", &[&x.name, &last], [Attribute::int("axis", 1)]))
        }
    }
    /// `parts` are weight and bias.
    fn layer_norm(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        x: &Activation,
        parts: [&str; 2],
        eps: f32,
    ) -> Activation;
    /// Rows of the tables of cosines and sines, one a position, where tables are part of the graph.
    fn rotary_table_rows(&self) -> Option<usize> {
        None
    }
    /// The way to attend to queries, keys and values that one product has made, where the target has one.
    fn packed_attention(&mut self) -> Option<&mut dyn PackedAttention> {
        None
    }
    fn silu(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation;
    fn gelu(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation;
    fn gelu_tanh(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation;
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
    /// `rows` are those of a tile.
    fn tile_attention(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        qkv: &[Activation; 3],
        heads: usize,
        rows: usize,
    ) -> Activation;
}

/// Rotation and causal attention in one.
pub(crate) trait PackedAttention {
    /// [`lwv_model::SelfAttention`] after its projections: `qkv` is `[batch, sequence, (heads + 2 · key_value_heads) · head_dim]`,
    /// `counts` are the two numbers of heads, `tables` those of cosines and sines.
    fn attend(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        layer: usize,
        qkv: &Activation,
        counts: [usize; 2],
        tables: [&str; 2],
    ) -> Activation;
}

/// Written out: the standard operator needs opset 23, newer than what many installed libraries know.
fn rms_norm(graph: &mut Emitter<'_, '_>, x: &Activation, weight: &str, eps: f32) -> Activation {
    let two = graph.floats(&[2.0], &[]);
    let square = graph.op("Pow", &[&x.name, &two], []);
    let axis = graph.vector(&[-1]);
    let mean = graph.op("ReduceMean", &[&square, &axis], [Attribute::int("keepdims", 1)]);
    let eps = graph.floats(&[eps], &[]);
    let shifted = graph.op("Add", &[&mean, &eps], []);
    let root = graph.op("Sqrt", &[&shifted], []);
    let normed = graph.op("Div", &[&x.name, &root], []);
    x.renamed(graph.op("Mul", &[&normed, weight], []))
}
