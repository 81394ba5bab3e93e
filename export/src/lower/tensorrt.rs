//! Target `tensorrt`: operators that TensorRT 10.3 and every later version take.
//!
//! The cache is joined by `Concat`, masks are computed once for all layers, and the geometry of images comes in as data, so
//! that no shape depends on the content of a tensor.

use std::collections::HashMap;

use lwv_model::{ElementType, Segments, contract};
use lwv_onnx::{Attribute, DataType, Node, Output};

use super::Lowering;
use super::leading::Leading;
use crate::emitter::Emitter;
use crate::value::{Activation, Layout};

/// What is added to scores that do not count: out of reach of any other in 16 bits, and far from overflow.
const HIDDEN: f32 = -30_000.0;

/// Values that a graph computes once for all layers.
pub(crate) struct TensorRtLowering {
    leading: Leading,
    causal: Option<CausalMask>,
    /// Name of the lengths of segments → mask of their padding, `[segments, 1, 1, length]`.
    padding: HashMap<String, String>,
}

/// Which tokens each new token sees.
struct CausalMask {
    /// `[batch, 1, sequence, total]` in the type of products: 0, or [`HIDDEN`].
    mask: String,
    /// i64 `[1]` each: batch, new tokens, cached and new tokens.
    batch: String,
    new: String,
    total: String,
}

impl TensorRtLowering {
    /// For a graph of rows: embedded tokens, or patches.
    pub(crate) fn for_rows() -> Self {
        Self {
            leading: Leading::default(),
            causal: None,
            padding: HashMap::new(),
        }
    }

    /// For the decoder: batch and sequence of `inputs_embeds`, and the tokens that `attention_mask` shows.
    pub(crate) fn for_decoder(graph: &mut Emitter<'_, '_>) -> Self {
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
            leading: Leading::of_tokens(graph),
            causal: Some(CausalMask {
                mask,
                batch,
                new,
                total,
            }),
            padding: HashMap::new(),
        }
    }

    /// The mask that hides the padding of segments.
    fn padding_mask(&mut self, graph: &mut Emitter<'_, '_>, segments: &Segments<String>) -> String {
        if let Some(mask) = self.padding.get(&segments.lengths) {
            return mask.clone();
        }
        let length = graph.dimension(&segments.gather, 1);
        let length = graph.op("Squeeze", &[&length], []);
        let (zero, one) = (graph.scalar(0), graph.scalar(1));
        let places = graph.op("Range", &[&zero, &length, &one], []);
        let lengths = graph.cast(&segments.lengths, DataType::Int64);
        let axes = graph.vector(&[1, 2, 3]);
        let lengths = graph.op("Unsqueeze", &[&lengths, &axes], []);
        let seen = graph.op("Less", &[&places, &lengths], []);
        let mask = additive(graph, &seen);
        self.padding.insert(segments.lengths.clone(), mask.clone());
        mask
    }
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

fn swap(graph: &mut Emitter<'_, '_>, x: &str, axes: [i64; 4]) -> String {
    graph.op("Transpose", &[x], [Attribute::ints("perm", axes)])
}

/// `softmax(q · kᵀ / √head_dim + mask) · v`, heads apart; scores are seen as `scores` while the mask is added.
struct Attention<'a> {
    mask: &'a str,
    /// Shapes around the mask where queries of several heads stand in one: to `[batch, heads, queries, keys]`, and back.
    scores: Option<[&'a str; 2]>,
}

impl Attention<'_> {
    fn append(&self, graph: &mut Emitter<'_, '_>, q: &str, k: &str, v: &str, head_dim: usize) -> String {
        let q = scaled(graph, q, 1.0 / (head_dim as f32).sqrt());
        let k = swap(graph, k, [0, 1, 3, 2]);
        let mut scores = graph.op("MatMul", &[&q, &k], []);
        if let Some([apart, _]) = self.scores {
            scores = graph.op("Reshape", &[&scores, apart], []);
        }
        let scores = graph.op("Add", &[&scores, self.mask], []);
        let mut shares = graph.op("Softmax", &[&scores], [Attribute::int("axis", -1)]);
        if let Some([_, together]) = self.scores {
            shares = graph.op("Reshape", &[&shares, together], []);
        }
        graph.op("MatMul", &[&shares, v], [])
    }
}

impl Lowering for TensorRtLowering {
    fn as_batched(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation {
        self.leading.as_batched(graph, x)
    }

    fn rms_norm(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        x: &Activation,
        weight: &str,
        eps: f32,
    ) -> Activation {
        super::rms_norm(graph, x, weight, eps)
    }

    fn silu(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation {
        let gate = graph.op("Sigmoid", &[&x.name], []);
        x.renamed(graph.op("Mul", &[&x.name, &gate], []))
    }

    fn gelu(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation {
        let x = graph.as_type(x, ElementType::Float32);
        let root = graph.floats(&[std::f32::consts::FRAC_1_SQRT_2], &[]);
        let (one, half) = (graph.floats(&[1.0], &[]), graph.floats(&[0.5], &[]));
        let scaled = graph.op("Mul", &[&x.name, &root], []);
        let erf = graph.op("Erf", &[&scaled], []);
        let shifted = graph.op("Add", &[&erf, &one], []);
        let share = graph.op("Mul", &[&shifted, &half], []);
        x.renamed(graph.op("Mul", &[&x.name, &share], []))
    }

    fn rotate(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        x: &Activation,
        heads: usize,
        cos: &str,
        sin: &str,
    ) -> Activation {
        let x = graph.as_flat(x);
        let width = (x.width / heads) as i64;
        let shape = graph.vector(&[-1, heads as i64, width]);
        let apart = graph.op("Reshape", &[&x.name, &shape], []);
        let [zero, middle, end, axis] = [0, width / 2, width, 2].map(|bound| graph.vector(&[bound]));
        let first = graph.op("Slice", &[&apart, &zero, &middle, &axis], []);
        let second = graph.op("Slice", &[&apart, &middle, &end, &axis], []);
        let [cos, sin] = [cos, sin].map(|table| graph.unsqueezed(table));
        let mut turned = |a: &str, b: &str, sum: &str| {
            let along = graph.op("Mul", &[a, &cos], []);
            let across = graph.op("Mul", &[b, &sin], []);
            graph.op(sum, &[&along, &across], [])
        };
        let halves = [turned(&first, &second, "Sub"), turned(&second, &first, "Add")];
        let joined = graph.op("Concat", &[&halves[0], &halves[1]], [Attribute::int("axis", 2)]);
        let shape = graph.vector(&[-1, x.width as i64]);
        x.renamed(graph.op("Reshape", &[&joined, &shape], []))
    }

    fn causal_attention(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        layer: usize,
        qkv: &[Activation; 3],
        heads: usize,
        key_value_heads: usize,
    ) -> Activation {
        let Some(CausalMask {
            mask,
            batch,
            new,
            total,
        }) = &self.causal
        else {
            return qkv[0].clone();
        };
        let head_dim = qkv[0].width / heads;
        let [heads, shared, width] =
            [heads, key_value_heads, head_dim].map(|size| graph.vector(&[size as i64]));
        let any = graph.vector(&[-1]);
        let join = |graph: &mut Emitter<'_, '_>, sizes: [&str; 4]| {
            graph.op("Concat", &sizes, [Attribute::int("axis", 0)])
        };
        let apart = |graph: &mut Emitter<'_, '_>, x: &Activation, heads: &str| {
            let shape = join(graph, [batch, new, heads, &width]);
            let apart = graph.op("Reshape", &[&x.name, &shape], []);
            swap(graph, &apart, [0, 2, 1, 3])
        };
        let q = apart(graph, &qkv[0], &heads);
        let mut extend = |x: &Activation, past: String, present: String| {
            let new = apart(graph, x, &shared);
            let node = Node::new("Concat", &[&past, &new]).with([Attribute::int("axis", 2)]);
            graph.node(node, &[Output::Named(present)]).swap_remove(0)
        };
        let k = extend(&qkv[1], contract::past_key(layer), contract::present_key(layer));
        let v = extend(
            &qkv[2],
            contract::past_value(layer),
            contract::present_value(layer),
        );
        // The queries of all heads that share keys stand in one head, so nothing is repeated.
        let together = join(graph, [batch, &shared, &any, &width]);
        let q = graph.op("Reshape", &[&q, &together], []);
        let scores = [
            join(graph, [batch, &heads, new, total]),
            join(graph, [batch, &shared, &any, total]),
        ];
        let attention = Attention {
            mask,
            scores: Some([&scores[0], &scores[1]]),
        };
        let attended = attention.append(graph, &q, &k, &v, head_dim);
        let shape = join(graph, [batch, &heads, new, &width]);
        let attended = graph.op("Reshape", &[&attended, &shape], []);
        as_rows(graph, &attended, &qkv[0])
    }

    fn segment_attention(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        qkv: &[Activation; 3],
        heads: usize,
        segments: &Segments<String>,
    ) -> Activation {
        let head_dim = qkv[0].width / heads;
        let shape = graph.vector(&[0, 0, heads as i64, head_dim as i64]);
        let [q, k, v] = qkv.each_ref().map(|x| {
            let rows = graph.as_flat(x);
            let rows = graph.op("Gather", &[&rows.name, &segments.gather], []);
            let apart = graph.op("Reshape", &[&rows, &shape], []);
            swap(graph, &apart, [0, 2, 1, 3])
        });
        let mask = self.padding_mask(graph, segments);
        let attention = Attention {
            mask: &mask,
            scores: None,
        };
        let attended = attention.append(graph, &q, &k, &v, head_dim);
        let padded = as_rows(graph, &attended, &qkv[0]);
        padded.renamed(graph.op("Gather", &[&padded.name, &segments.scatter], []))
    }
}

/// `[…, heads, rows, head_dim]` to rows as wide as `like`.
fn as_rows(graph: &mut Emitter<'_, '_>, attended: &str, like: &Activation) -> Activation {
    let rows = swap(graph, attended, [0, 2, 1, 3]);
    let shape = graph.vector(&[-1, like.width as i64]);
    Activation {
        layout: Layout::Flat,
        ..like.renamed(graph.op("Reshape", &[&rows, &shape], []))
    }
}
