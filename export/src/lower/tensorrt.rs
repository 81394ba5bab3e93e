//! Target `tensorrt`: operators that TensorRT 10.3 and every later version take, and newer ones where older versions need not.
//!
//! The cache is joined by `Concat`, masks are computed once for all layers, and the geometry of images comes in as data, so
//! that no shape depends on the content of a tensor.

use std::collections::HashMap;

use lwv_model::{ElementType, Segments, TensorRtVersion, contract};
use lwv_onnx::{Attribute, Node, Output};

use super::leading::Leading;
use super::tensorrt_attention::{Attention, CausalMask, joined, padding_mask, swap};
use super::{Lowering, tensorrt_newer as newer};
use crate::emitter::Emitter;
use crate::value::{Activation, Layout};

/// The version that must take a graph, and values that it computes once for all layers.
pub(crate) struct TensorRtLowering {
    version: TensorRtVersion,
    leading: Leading,
    causal: Option<CausalMask>,
    /// Name of the lengths of segments → mask of their padding.
    padding: HashMap<String, String>,
}

impl TensorRtLowering {
    /// For a graph of rows: embedded tokens, or patches.
    pub(crate) fn for_rows(version: TensorRtVersion) -> Self {
        Self {
            version,
            leading: Leading::default(),
            causal: None,
            padding: HashMap::new(),
        }
    }

    /// For the decoder.
    pub(crate) fn for_decoder(graph: &mut Emitter<'_, '_>, version: TensorRtVersion) -> Self {
        let causal = CausalMask::append(graph);
        Self {
            leading: Leading::of_tokens(graph),
            causal: Some(causal),
            ..Self::for_rows(version)
        }
    }

    /// Whether attention of so many heads of queries is one operator.
    fn fuses_attention(&self, queries: &Activation, heads: usize) -> bool {
        newer::has(self.version, "Attention") && newer::has_kernel(queries, heads)
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
        if newer::has(self.version, "RMSNormalization") {
            return newer::rms_norm(graph, x, weight, eps);
        }
        super::rms_norm(graph, x, weight, eps)
    }

    /// Written out, in operators that all versions take.
    fn layer_norm(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        x: &Activation,
        [weight, bias]: [&str; 2],
        eps: f32,
    ) -> Activation {
        let axis = graph.vector(&[-1]);
        let kept = || [Attribute::int("keepdims", 1)];
        let mean = graph.op("ReduceMean", &[&x.name, &axis], kept());
        let centred = graph.op("Sub", &[&x.name, &mean], []);
        let square = graph.op("Mul", &[&centred, &centred], []);
        let variance = graph.op("ReduceMean", &[&square, &axis], kept());
        let eps = graph.floats(&[eps], &[]);
        let shifted = graph.op("Add", &[&variance, &eps], []);
        let root = graph.op("Sqrt", &[&shifted], []);
        let normed = graph.op("Div", &[&centred, &root], []);
        let scaled = graph.op("Mul", &[&normed, weight], []);
        x.renamed(graph.op("Add", &[&scaled, bias], []))
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

    /// `(1 + tanh(y)) / 2` is `sigmoid(2 · y)`.
    fn gelu_tanh(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation {
        let x = graph.as_type(x, ElementType::Float32);
        let slope = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
        let [slope, cubic] = [slope, slope * 0.044_715].map(|factor| graph.floats(&[factor as f32], &[]));
        let square = graph.op("Mul", &[&x.name, &x.name], []);
        let bent = graph.op("Mul", &[&square, &cubic], []);
        let factor = graph.op("Add", &[&bent, &slope], []);
        let inner = graph.op("Mul", &[&x.name, &factor], []);
        let gate = graph.op("Sigmoid", &[&inner], []);
        x.renamed(graph.op("Mul", &[&x.name, &gate], []))
    }

    fn rotate(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        x: &Activation,
        heads: usize,
        cos: &str,
        sin: &str,
    ) -> Activation {
        if newer::has(self.version, "RotaryEmbedding") {
            return newer::rotate(graph, x, heads, [cos, sin]);
        }
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
        let Some(causal) = &self.causal else {
            return qkv[0].clone();
        };
        let head_dim = qkv[0].width / heads;
        let fused = self.fuses_attention(&qkv[0], heads);
        let [heads, shared, width] =
            [heads, key_value_heads, head_dim].map(|size| graph.vector(&[size as i64]));
        let apart = |graph: &mut Emitter<'_, '_>, x: &Activation, heads: &str| {
            let shape = joined(graph, [&causal.batch, &causal.new, heads, &width]);
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
        let attended = if fused {
            newer::attention(graph, [&q, &k, &v], Some(&causal.mask), head_dim)
        } else {
            causal.attend(graph, [&q, &k, &v], [&heads, &shared, &width], head_dim)
        };
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
        let fused = self.fuses_attention(&qkv[0], heads);
        let mask = self
            .padding
            .entry(segments.lengths.clone())
            .or_insert_with(|| padding_mask(graph, segments, fused));
        let attended = if fused {
            newer::attention(graph, [&q, &k, &v], Some(mask), head_dim)
        } else {
            Attention {
                mask: Some(mask),
                scores: None,
            }
            .append(graph, [&q, &k, &v], head_dim)
        };
        let padded = as_rows(graph, &attended, &qkv[0]);
        padded.renamed(graph.op("Gather", &[&padded.name, &segments.scatter], []))
    }

    fn tile_attention(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        qkv: &[Activation; 3],
        heads: usize,
        rows: usize,
    ) -> Activation {
        let head_dim = qkv[0].width / heads;
        let shape = graph.vector(&[-1, rows as i64, heads as i64, head_dim as i64]);
        let [q, k, v] = qkv.each_ref().map(|x| {
            let apart = graph.op("Reshape", &[&x.name, &shape], []);
            swap(graph, &apart, [0, 2, 1, 3])
        });
        let attended = if self.fuses_attention(&qkv[0], heads) {
            newer::attention(graph, [&q, &k, &v], None, head_dim)
        } else {
            let attention = Attention {
                mask: None,
                scores: None,
            };
            attention.append(graph, [&q, &k, &v], head_dim)
        };
        as_rows(graph, &attended, &qkv[0])
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
