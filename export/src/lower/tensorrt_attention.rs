//! Target `tensorrt`: masks, and attention written out.

use lwv_model::{ElementType, Segments, contract};
use lwv_onnx::{Attribute, DataType};

use super::tensorrt_newer as newer;
use crate::emitter::Emitter;

/// What is added to scores that do not count: out of reach of any other in 16 bits, and far from overflow.
const HIDDEN: f32 = -30_000.0;

/// Which tokens each new token sees.
pub(super) struct CausalMask {
    /// `[batch, 1, sequence, total]` in the type of products: 0, or [`HIDDEN`].
    pub(super) mask: String,
    /// i64 `[1]`, as the others: batch.
    pub(super) batch: String,
    /// New tokens.
    pub(super) new: String,
    /// Cached and new tokens.
    total: String,
}

impl CausalMask {
    /// For batch and sequence of `inputs_embeds`, and the tokens that `attention_mask` shows.
    pub(super) fn append(graph: &mut Emitter<'_, '_>) -> Self {
        graph.enter("mask");
        let batch = graph.dimension(contract::INPUTS_EMBEDS, 0);
        let new = graph.dimension(contract::INPUTS_EMBEDS, 1);
        let total = graph.dimension(contract::ATTENTION_MASK, 1);
        let (zero, one) = (graph.scalar(0), graph.scalar(1));
        let [new_count, count] = [&new, &total].map(|size| graph.op("Squeeze", &[size], []));
        let first = graph.op("Sub", &[&count, &new_count], []);
        let keys = graph.op("Range", &[&zero, &count, &one], []);
        let queries = graph.op("Range", &[&first, &count, &one], []);
        let axis = graph.vector(&[1]);
        let queries = graph.op("Unsqueeze", &[&queries, &axis], []);
        let earlier = graph.op("LessOrEqual", &[&keys, &queries], []);
        let shown = graph.cast(contract::ATTENTION_MASK, DataType::Bool);
        let axes = graph.vector(&[1, 2]);
        let shown = graph.op("Unsqueeze", &[&shown, &axes], []);
        let seen = graph.op("And", &[&earlier, &shown], []);
        let mask = additive(graph, &seen);
        Self {
            mask,
            batch,
            new,
            total,
        }
    }

    /// Attention of `[batch, heads, rows, head_dim]`, where `k` and `v` may have fewer heads. `sizes` are i64 `[1]`: heads, those of
    /// keys, and their width.
    pub(super) fn attend(
        &self,
        graph: &mut Emitter<'_, '_>,
        [q, k, v]: [&str; 3],
        [heads, shared, width]: [&str; 3],
        head_dim: usize,
    ) -> String {
        let Self {
            mask,
            batch,
            new,
            total,
        } = self;
        let any = graph.vector(&[-1]);
        // The queries of all heads that share keys stand in one head, so nothing is repeated.
        let together = joined(graph, [batch, shared, &any, width]);
        let q = graph.op("Reshape", &[q, &together], []);
        let scores = [
            joined(graph, [batch, heads, new, total]),
            joined(graph, [batch, shared, &any, total]),
        ];
        let scores = Some([&*scores[0], &*scores[1]]);
        let attended = Attention {
            mask: Some(mask),
            scores,
        }
        .append(graph, [&q, k, v], head_dim);
        let shape = joined(graph, [batch, heads, new, width]);
        graph.op("Reshape", &[&attended, &shape], [])
    }
}

/// The mask that hides the padding of segments, `[segments, 1, 1, length]`; for attention in one operator, where `fused`, with a
/// row for each query.
pub(super) fn padding_mask(graph: &mut Emitter<'_, '_>, segments: &Segments<String>, fused: bool) -> String {
    let length = graph.dimension(&segments.gather, 1);
    let count = graph.op("Squeeze", &[&length], []);
    let (zero, one) = (graph.scalar(0), graph.scalar(1));
    let places = graph.op("Range", &[&zero, &count, &one], []);
    let lengths = graph.cast(&segments.lengths, DataType::Int64);
    let axes = graph.vector(&[1, 2, 3]);
    let lengths = graph.op("Unsqueeze", &[&lengths, &axes], []);
    let seen = graph.op("Less", &[&places, &lengths], []);
    let mask = additive(graph, &seen);
    if fused {
        return newer::for_every_query(graph, &mask, &length);
    }
    mask
}

/// 0 where `seen`, else [`HIDDEN`], in the type of products.
fn additive(graph: &mut Emitter<'_, '_>, seen: &str) -> String {
    let [shown, hidden] = [0.0, HIDDEN].map(|value| graph.floats(&[value], &[]));
    let mask = graph.op("Where", &[seen, &shown, &hidden], []);
    match graph.compute_type() {
        ElementType::Float16 => graph.cast(&mask, DataType::Float16),
        _ => mask,
    }
}

/// `x · factor` in the type of products.
fn scaled(graph: &mut Emitter<'_, '_>, x: &str, factor: f32) -> String {
    let factor = graph.floats(&[factor], &[]);
    let factor = match graph.compute_type() {
        ElementType::Float16 => graph.cast(&factor, DataType::Float16),
        _ => factor,
    };
    graph.op("Mul", &[x, &factor], [])
}

/// The axes of `x` in another order.
pub(super) fn swap(graph: &mut Emitter<'_, '_>, x: &str, axes: [i64; 4]) -> String {
    graph.op("Transpose", &[x], [Attribute::ints("perm", axes)])
}

/// A shape of sizes, i64 `[1]` each.
pub(super) fn joined(graph: &mut Emitter<'_, '_>, sizes: [&str; 4]) -> String {
    graph.op("Concat", &sizes, [Attribute::int("axis", 0)])
}

/// `softmax(q · kᵀ / √head_dim + mask) · v`, heads apart, or without a mask; scores are seen as `scores` while the mask is added.
pub(super) struct Attention<'a> {
    pub(super) mask: Option<&'a str>,
    /// Shapes around the mask where queries of several heads stand in one: to `[batch, heads, queries, keys]`, and back.
    pub(super) scores: Option<[&'a str; 2]>,
}

impl Attention<'_> {
    /// Appends it for `[batch, heads, rows, head_dim]`.
    pub(super) fn append(
        &self,
        graph: &mut Emitter<'_, '_>,
        [q, k, v]: [&str; 3],
        head_dim: usize,
    ) -> String {
        let q = scaled(graph, q, 1.0 / (head_dim as f32).sqrt());
        let k = swap(graph, k, [0, 1, 3, 2]);
        let mut scores = graph.op("MatMul", &[&q, &k], []);
        if let Some([apart, _]) = self.scores {
            scores = graph.op("Reshape", &[&scores, apart], []);
        }
        if let Some(mask) = self.mask {
            scores = graph.op("Add", &[&scores, mask], []);
        }
        let mut shares = graph.op("Softmax", &[&scores], [Attribute::int("axis", -1)]);
        if let Some([_, together]) = self.scores {
            shares = graph.op("Reshape", &[&shares, together], []);
        }
        graph.op("MatMul", &[&shares, v], [])
    }
}
