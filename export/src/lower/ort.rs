//! Target `ort`: ONNX Runtime's fused operators.
//!
//! `GroupQueryAttention` reads and writes the cache in place when past and present share a buffer, so nothing in the
//! graph may take the past's length from its shape: it comes from the attention mask.

use lwv_model::{ModelConfig, Segments, contract};
use lwv_onnx::{Attribute, Node, Output};

use super::leading::Leading;
use super::{Lowering, PackedAttention};
use crate::emitter::Emitter;
use crate::value::{Activation, Layout};

/// Values that a graph computes once for all layers.
pub(crate) struct OrtLowering {
    /// Fused attention wants them apart.
    leading: Leading,
    /// Where a token's cosines and sines stand.
    rotary_table: RotaryTable,
    /// i64 `[batch, sequence]`: each token's row in that table, made when an operator first asks for it.
    rotary_rows: Option<String>,
    /// i32 `[batch]` index of each sequence's last token, and i32 scalar count of cached and new tokens.
    lengths: Option<(String, String)>,
    /// Scales of each layer's cache of 8 bits: of keys and of values, one a channel.
    cache_scales: Vec<[String; 2]>,
}

/// Where cosines and sines of tokens stand.
#[derive(Debug, Clone, Copy)]
enum RotaryTable {
    /// In a table of the tokens of one call, in their order.
    OfTokens,
    /// In a table of so many positions, which is part of the graph. `in_attention`: whether attention can read it.
    OfPositions { rows: usize, in_attention: bool },
}

impl OrtLowering {
    /// For a graph that embeds tokens and no more.
    pub(crate) fn without_layers() -> Self {
        Self {
            leading: Leading::default(),
            rotary_table: RotaryTable::OfTokens,
            rotary_rows: None,
            lengths: None,
            cache_scales: Vec::new(),
        }
    }

    /// For the vision tower: one sequence of the rows of `pixel_values`.
    pub(crate) fn for_rows(graph: &mut Emitter<'_, '_>, rows: &str) -> Self {
        Self::with_leading(Leading::of_rows(graph, rows), None)
    }

    /// For the decoder: batch and sequence of `inputs_embeds`, and the lengths that `attention_mask` tells.
    pub(crate) fn for_decoder(
        graph: &mut Emitter<'_, '_>,
        config: &ModelConfig,
        cache_scales: Option<&[[Vec<f32>; 2]]>,
    ) -> Self {
        graph.enter("cache");
        let scales = cache_scales.unwrap_or_default().iter();
        let scales = scales.map(|scales| {
            scales
                .each_ref()
                .map(|scales| graph.floats(scales, &[scales.len() as i64]))
        });
        let cache_scales = scales.collect();
        let leading = Leading::of_tokens(graph);
        let axis = graph.vector(&[1]);
        let seen = graph.op(
            "ReduceSum",
            &[contract::ATTENTION_MASK, &axis],
            [Attribute::int("keepdims", 0)],
        );
        let one = graph.scalar(1);
        let last = graph.op("Sub", &[&seen, &one], []);
        let last = graph.cast(&last, lwv_onnx::DataType::Int32);
        let total = graph.dimension(contract::ATTENTION_MASK, 1);
        let total = graph.cast(&total, lwv_onnx::DataType::Int32);
        let total = graph.op("Squeeze", &[&total], []);
        let mut lowering = Self::with_leading(leading, Some((last, total)));
        lowering.cache_scales = cache_scales;
        if config.position_axes() == 1 {
            lowering.rotary_table = RotaryTable::OfPositions {
                rows: config.text.max_position_embeddings,
                // What the operator demands.
                in_attention: config.text.head_dim.is_multiple_of(16),
            };
        }
        lowering
    }

    fn with_leading(leading: Leading, lengths: Option<(String, String)>) -> Self {
        Self {
            leading,
            lengths,
            ..Self::without_layers()
        }
    }

    fn rotary_rows(&mut self, graph: &mut Emitter<'_, '_>) -> String {
        if self.rotary_rows.is_none() {
            self.rotary_rows = Some(match self.rotary_table {
                RotaryTable::OfPositions { .. } => Self::limited_positions(graph),
                RotaryTable::OfTokens => {
                    let count = graph.op(
                        "ReduceProd",
                        &[self.leading.dims()],
                        [Attribute::int("keepdims", 0)],
                    );
                    let (zero, one) = (graph.scalar(0), graph.scalar(1));
                    let rows = graph.op("Range", &[&zero, &count, &one], []);
                    graph.op("Reshape", &[&rows, self.leading.dims()], [])
                }
            });
        }
        self.rotary_rows.clone().unwrap_or_default()
    }

    /// The positions that angles are made of. A single axis is looked up in a table, by rows that are made when they are
    /// asked for.
    pub(crate) fn positions(&self, graph: &mut Emitter<'_, '_>) -> String {
        match self.rotary_table {
            RotaryTable::OfPositions { .. } => contract::POSITION_IDS.to_owned(),
            RotaryTable::OfTokens => {
                graph.enter("positions");
                Self::limited_positions(graph)
            }
        }
    }

    /// Positions that no caller can set too far: onnxruntime's JavaScript client counts text-only positions from three
    /// times the prompt's length. The position of text and still images never exceeds the token's index.
    fn limited_positions(graph: &mut Emitter<'_, '_>) -> String {
        let axis = graph.scalar(1);
        let counted = graph.op("CumSum", &[contract::ATTENTION_MASK, &axis], []);
        let index = graph.op("Sub", &[&counted, &axis], []);
        let new = graph.dimension(contract::INPUTS_EMBEDS, 1);
        let start = graph.op("Neg", &[&new], []);
        let [end, axes] = [i64::MAX, 1].map(|bound| graph.vector(&[bound]));
        let index = graph.op("Slice", &[&index, &start, &end, &axes], []);
        graph.op("Min", &[contract::POSITION_IDS, &index], [])
    }
}

impl Lowering for OrtLowering {
    fn as_batched(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation {
        self.leading.as_batched(graph, x)
    }

    /// With the sum before it one operator. Without one written out: ONNX Runtime joins the six nodes when it loads the graph.
    fn rms_norm(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        x: &Activation,
        weight: &str,
        eps: f32,
    ) -> Activation {
        if let Some([a, b]) = graph.take_back_sum(&x.name) {
            let node = Node::in_domain(
                "com.microsoft",
                "SkipSimplifiedLayerNormalization",
                &[&a, &b, weight],
            )
            .with([Attribute::float("epsilon", eps)]);
            let outputs = [
                Output::Fresh,
                Output::Absent,
                Output::Absent,
                Output::Named(x.name.clone()),
            ];
            return x.renamed(graph.node(node, &outputs).swap_remove(0));
        }
        super::rms_norm(graph, x, weight, eps)
    }

    /// As many of the last ones as a run asks for.
    fn scored_positions(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation {
        let x = self.as_batched(graph, x);
        let start = graph.op("Neg", &[contract::SCORED_POSITIONS], []);
        let [end, axes] = [i64::MAX, 1].map(|bound| graph.vector(&[bound]));
        x.renamed(graph.op("Slice", &[&x.name, &start, &end, &axes], []))
    }

    fn layer_norm(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        x: &Activation,
        [weight, bias]: [&str; 2],
        eps: f32,
    ) -> Activation {
        let eps = Attribute::float("epsilon", eps);
        x.renamed(graph.op("LayerNormalization", &[&x.name, weight, bias], [eps]))
    }

    fn silu(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation {
        x.renamed(graph.microsoft("QuickGelu", &[&x.name], [Attribute::float("alpha", 1.0)]))
    }

    fn gelu(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation {
        x.renamed(graph.microsoft("Gelu", &[&x.name], []))
    }

    fn gelu_tanh(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation {
        x.renamed(graph.microsoft("FastGelu", &[&x.name], []))
    }

    fn rotary_table_rows(&self) -> Option<usize> {
        match self.rotary_table {
            RotaryTable::OfPositions { rows, .. } => Some(rows),
            RotaryTable::OfTokens => None,
        }
    }

    fn packed_attention(&mut self) -> Option<&mut dyn PackedAttention> {
        match self.rotary_table {
            RotaryTable::OfPositions {
                in_attention: true, ..
            } => Some(self),
            _ => None,
        }
    }

    /// The number of heads follows from the width of the table; the operator does not want to be told.
    fn rotate(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        x: &Activation,
        _heads: usize,
        cos: &str,
        sin: &str,
    ) -> Activation {
        let x = self.as_batched(graph, x);
        let rows = self.rotary_rows(graph);
        x.renamed(graph.microsoft("RotaryEmbedding", &[&x.name, &rows, cos, sin], []))
    }

    fn causal_attention(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        layer: usize,
        qkv: &[Activation; 3],
        heads: usize,
        key_value_heads: usize,
    ) -> Activation {
        let [q, k, v] = qkv.each_ref().map(|x| self.as_batched(graph, x));
        let inputs = [&*q.name, &k.name, &v.name];
        q.renamed(self.group_query_attention(graph, layer, inputs, [heads, key_value_heads], None))
    }

    fn segment_attention(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        qkv: &[Activation; 3],
        heads: usize,
        segments: &Segments<String>,
    ) -> Activation {
        let [q, k, v] = qkv.each_ref().map(|x| {
            let rows = graph.as_flat(x);
            graph.op("Gather", &[&rows.name, &segments.gather], [])
        });
        let inputs = [&*q, &k, &v, "", &segments.lengths];
        let attended = graph.microsoft(
            "MultiHeadAttention",
            &inputs,
            [Attribute::int("num_heads", heads as i64)],
        );
        let padded = Activation {
            layout: Layout::Batched,
            ..qkv[0].renamed(attended)
        };
        let padded = graph.as_flat(&padded);
        padded.renamed(graph.op("Gather", &[&padded.name, &segments.scatter], []))
    }

    fn tile_attention(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        qkv: &[Activation; 3],
        heads: usize,
        rows: usize,
    ) -> Activation {
        let [q, k, v] = qkv.each_ref().map(|x| graph.tiles(x, rows));
        let heads = Attribute::int("num_heads", heads as i64);
        q.renamed(graph.microsoft("MultiHeadAttention", &[&q.name, &k.name, &v.name], [heads]))
    }
}

impl PackedAttention for OrtLowering {
    fn attend(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        layer: usize,
        qkv: &Activation,
        counts: [usize; 2],
        tables: [&str; 2],
    ) -> Activation {
        let qkv = self.as_batched(graph, qkv);
        let [heads, key_value_heads] = counts;
        Activation {
            width: qkv.width * heads / (heads + 2 * key_value_heads),
            ..qkv.renamed(self.group_query_attention(graph, layer, [&qkv.name, "", ""], counts, Some(tables)))
        }
    }
}

impl OrtLowering {
    /// Attention over cache and new tokens; with `tables` of cosines and sines it rotates queries and keys before.
    fn group_query_attention(
        &self,
        graph: &mut Emitter<'_, '_>,
        layer: usize,
        [q, k, v]: [&str; 3],
        [heads, key_value_heads]: [usize; 2],
        tables: Option<[&str; 2]>,
    ) -> String {
        let past = [contract::past_key(layer), contract::past_value(layer)];
        let present = [contract::present_key(layer), contract::present_value(layer)];
        let (last, total) = self
            .lengths
            .as_ref()
            .map_or(("", ""), |(last, total)| (last, total));
        let [cos, sin] = tables.unwrap_or_default();
        let mut inputs = vec![q, k, v, &past[0], &past[1], last, total, cos, sin];
        let mut attributes = vec![
            Attribute::int("num_heads", heads as i64),
            Attribute::int("kv_num_heads", key_value_heads as i64),
            Attribute::int("do_rotary", i64::from(tables.is_some())),
        ];
        if let Some([keys, values]) = self.cache_scales.get(layer) {
            // Positions, bias and sinks are left out.
            inputs.extend(["", "", "", keys, values]);
            attributes.extend([
                Attribute::string("k_quant_type", "PER_CHANNEL"),
                Attribute::string("v_quant_type", "PER_CHANNEL"),
                Attribute::int("kv_cache_bit_width", 8),
            ]);
        }
        let node = Node::in_domain("com.microsoft", "GroupQueryAttention", &inputs).with(attributes);
        let [key, value] = present.map(Output::Named);
        graph
            .node(node, &[Output::Named(format!("attended.{layer}")), key, value])
            .swap_remove(0)
    }
}
