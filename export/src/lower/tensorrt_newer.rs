//! Target `tensorrt`: what versions later than 10.3 have as one operator, each a standard operator of opset 23.

use lwv_model::{ElementType, TensorRtVersion};
use lwv_onnx::Attribute;

use crate::emitter::Emitter;
use crate::value::Activation;

/// The operators, each with the version that brought it.
const NEWER: [(&str, TensorRtVersion); 3] = [
    ("Attention", TensorRtVersion::new(10, 14)),
    ("RMSNormalization", TensorRtVersion::new(10, 15)),
    ("RotaryEmbedding", TensorRtVersion::new(10, 15)),
];

/// The version that brought an operator; `None` where it is none of these.
pub(crate) fn since(operator: &str) -> Option<TensorRtVersion> {
    let brought = NEWER.iter().find(|(name, _)| *name == operator);
    brought.map(|(_, since)| *since)
}

/// Whether graphs for `version` may use one of these operators.
pub(crate) fn has(version: TensorRtVersion, operator: &str) -> bool {
    since(operator).is_some_and(|since| since <= version)
}

/// Whether there is a kernel for [`attention`] of so many heads of queries, as far as NVIDIA's compiler shows. Without one no engine
/// is built: only an attribute of NVIDIA's own, which ONNX Runtime refuses, would let the operator be taken apart.
pub(super) fn has_kernel(queries: &Activation, heads: usize) -> bool {
    let head_dim = queries.width / heads;
    queries.element == ElementType::Float16
        && heads > 1
        && head_dim.is_multiple_of(8)
        && (16..=256).contains(&head_dim)
}

/// `softmax(q · kᵀ / √head_dim + mask) · v` of `[batch, heads, rows, head_dim]`, where `k` and `v` may have fewer heads. `mask`
/// is `[batch, 1, queries, keys]`, in the type of products; without one all see all.
pub(super) fn attention(
    graph: &mut Emitter<'_, '_>,
    [q, k, v]: [&str; 3],
    mask: Option<&str>,
    head_dim: usize,
) -> String {
    let scale = Attribute::float("scale", 1.0 / (head_dim as f32).sqrt());
    let inputs: Vec<&str> = [q, k, v].into_iter().chain(mask).collect();
    graph.op("Attention", &inputs, [scale])
}

/// A mask `[batch, 1, 1, keys]` with a row for each of `queries`, i64 `[1]`: ONNX Runtime's [`attention`] repeats none.
pub(super) fn for_every_query(graph: &mut Emitter<'_, '_>, mask: &str, queries: &str) -> String {
    let one = graph.vector(&[1]);
    let sizes = [&one, &one, queries, &one];
    let shape = graph.op("Concat", &sizes, [Attribute::int("axis", 0)]);
    graph.op("Expand", &[mask, &shape], [])
}

/// [`super::rms_norm`] in one.
pub(super) fn rms_norm(graph: &mut Emitter<'_, '_>, x: &Activation, weight: &str, eps: f32) -> Activation {
    let eps = Attribute::float("epsilon", eps);
    x.renamed(graph.op("RMSNormalization", &[&x.name, weight], [eps]))
}

/// Rotated rows `[tokens, heads · width]`; `cos` and `sin` are `[tokens, width / 2]`.
pub(super) fn rotate(
    graph: &mut Emitter<'_, '_>,
    x: &Activation,
    heads: usize,
    [cos, sin]: [&str; 2],
) -> Activation {
    let x = graph.as_flat(x);
    // Every token is a sequence of its own: the operator wants heads before positions, and so nothing need be transposed.
    let shape = graph.vector(&[-1, heads as i64, 1, (x.width / heads) as i64]);
    let apart = graph.op("Reshape", &[&x.name, &shape], []);
    let [cos, sin] = [cos, sin].map(|table| graph.unsqueezed(table));
    let turned = graph.op("RotaryEmbedding", &[&apart, &cos, &sin], []);
    let shape = graph.vector(&[-1, x.width as i64]);
    x.renamed(graph.op("Reshape", &[&turned, &shape], []))
}
