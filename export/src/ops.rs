use lwv_model::{ElementType, Linear, Ops, Rotary, Segments, SelfAttention, Target, TileOps};
use lwv_onnx::{Attribute, DataType};

use crate::Error;
use crate::adapter_inputs::AdapterInputs;
use crate::emitter::Emitter;
use crate::formats::WeightFormat;
use crate::lower::Lowering;
use crate::value::{Activation, Layout, Value};

/// Appends the network's operations to a graph.
///
/// What every target shares is here: weights, types and layouts. Float matrices are `Gemm` with a transposed weight, so that
/// a weight's bytes stand in the bundle as they stand in the checkpoint; matrices of small integers are `MatMulNBits`, or for
/// TensorRT a `Gemm` of what `DequantizeLinear` makes. In fp16 the products and attention are 16 bit; the residual stream, norms and rotation stay 32 bit, which Qwen2.5-VL's large
/// activations need.
/// How norms, rotation and attention look is the [`Lowering`]'s business.
pub(crate) struct OnnxOps<'a, 'w> {
    /// The graph so far.
    pub(crate) graph: Emitter<'a, 'w>,
    /// What products of the decoder read of adapters.
    pub(crate) adapter_inputs: AdapterInputs,
    lowering: Box<dyn Lowering>,
}

impl<'a, 'w> OnnxOps<'a, 'w> {
    /// An interpreter that appends to `graph` in the way of `lowering`.
    pub(crate) fn new(graph: Emitter<'a, 'w>, lowering: Box<dyn Lowering>) -> Self {
        Self {
            graph,
            adapter_inputs: AdapterInputs::none(),
            lowering,
        }
    }

    /// `a` and `b` by an elementwise operator, in type `element`.
    fn binary(
        &mut self,
        op_type: &'static str,
        a: &Value,
        b: &Value,
        element: ElementType,
    ) -> Result<Value, Error> {
        let mut a = self.graph.as_type(a.activation(op_type)?, element);
        let mut b = self.graph.as_type(b.activation(op_type)?, element);
        if a.layout != b.layout {
            (a, b) = (self.graph.as_flat(&a), self.graph.as_flat(&b));
        }
        let name = self.graph.op(op_type, &[&a.name, &b.name], []);
        Ok(Value::Activation(a.renamed(name)))
    }

    /// Queries, keys and values in the type of products.
    fn attention_inputs(&mut self, qkv: [&Value; 3]) -> Result<[Activation; 3], Error> {
        let element = self.graph.compute_type();
        let [q, k, v] = qkv.map(|x| x.activation("attention").map(|x| self.graph.as_type(x, element)));
        Ok([q?, k?, v?])
    }
}

impl Ops for OnnxOps<'_, '_> {
    type Tensor = Value;
    type Error = Error;

    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Value, Error> {
        // Nodes are named after the module whose weights they use.
        self.graph.enter(module(name));
        Ok(Value::Weight {
            name: name.to_owned(),
            shape: shape.to_vec(),
        })
    }

    fn embedding(&mut self, ids: &Value, table: &Value) -> Result<Value, Error> {
        let (name, shape) = table.weight("embedding")?;
        let ids = &ids.activation("embedding")?.name;
        let (rows, element) = match self.graph.weights.formats().table(name, shape[1]) {
            Some(scheme) => (self.graph.block_rows(ids, table, scheme)?, ElementType::Float32),
            None => {
                let element = self.graph.compute_type();
                let table = self.graph.initializer(table, element)?;
                (self.graph.op("Gather", &[&table, ids], []), element)
            }
        };
        let rows = Activation {
            name: rows,
            element,
            width: shape[1],
            layout: Layout::Batched,
        };
        Ok(Value::Activation(self.graph.as_type(&rows, ElementType::Float32)))
    }

    fn linear(&mut self, x: &Value, weight: &Value, bias: Option<&Value>) -> Result<Value, Error> {
        let (name, shape) = weight.weight("linear")?;
        let mut x = x.activation("linear")?.clone();
        self.graph.enter(module(name));
        let target = self.graph.weights.formats().target();
        let compute = self.graph.compute_type();
        let (matrix, element) = match self.graph.weights.formats().matrix(name) {
            WeightFormat::Float(element) => (self.graph.initializer(weight, element)?, element),
            WeightFormat::Blocks(scheme) if target == Target::TensorRt => {
                let columns: usize = shape[1..].iter().product();
                // Blocks there are whole.
                if columns.is_multiple_of(scheme.block_size) {
                    (self.graph.dequantized_blocks(weight, scheme)?, compute)
                } else {
                    (self.graph.initializer(weight, compute)?, compute)
                }
            }
            WeightFormat::Channels => {
                if let Some(step) = self.graph.weights.activation_step(name) {
                    x = self.graph.rounded(&x, step);
                }
                (self.graph.dequantized_channels(weight)?, compute)
            }
            WeightFormat::Blocks(scheme) => {
                let linear = Linear {
                    weight: weight.clone(),
                    bias: bias.cloned(),
                };
                let made = self.graph.block_linear(&x, module(name), &[&linear], scheme)?;
                let made =
                    self.adapter_inputs
                        .add_update(&mut self.graph, &x, made, module(name), &[weight])?;
                return Ok(Value::Activation(made));
            }
        };
        let x = self.graph.as_flat(&x);
        let x = self.graph.as_type(&x, element);
        let mut inputs = vec![x.name.clone(), matrix];
        if let Some(bias) = bias {
            inputs.push(self.graph.initializer(bias, element)?);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let made = Activation {
            width: shape[0],
            ..x.renamed(self.graph.op("Gemm", &inputs, [Attribute::int("transB", 1)]))
        };
        let made = self
            .adapter_inputs
            .add_update(&mut self.graph, &x, made, module(name), &[weight])?;
        Ok(Value::Activation(made))
    }

    fn rms_norm(&mut self, x: &Value, weight: &Value, eps: f64) -> Result<Value, Error> {
        let x = self
            .graph
            .as_type(x.activation("rms_norm")?, ElementType::Float32);
        let weight = self.graph.initializer(weight, ElementType::Float32)?;
        Ok(Value::Activation(self.lowering.rms_norm(
            &mut self.graph,
            &x,
            &weight,
            eps as f32,
        )))
    }

    fn add(&mut self, a: &Value, b: &Value) -> Result<Value, Error> {
        self.binary("Add", a, b, ElementType::Float32)
    }

    fn mul(&mut self, a: &Value, b: &Value) -> Result<Value, Error> {
        self.binary("Mul", a, b, a.activation("mul")?.element)
    }

    fn silu(&mut self, x: &Value) -> Result<Value, Error> {
        Ok(Value::Activation(
            self.lowering.silu(&mut self.graph, x.activation("silu")?),
        ))
    }

    fn gelu(&mut self, x: &Value) -> Result<Value, Error> {
        Ok(Value::Activation(
            self.lowering.gelu(&mut self.graph, x.activation("gelu")?),
        ))
    }

    fn columns(&mut self, x: &Value, start: usize, length: usize) -> Result<Value, Error> {
        let x = x.activation("columns")?;
        let [start, end, axis] =
            [start as i64, (start + length) as i64, -1].map(|bound| self.graph.vector(&[bound]));
        let name = self.graph.op("Slice", &[&x.name, &start, &end, &axis], []);
        Ok(Value::Activation(Activation {
            width: length,
            ..x.renamed(name)
        }))
    }

    fn join_rows(&mut self, x: &Value, count: usize) -> Result<Value, Error> {
        let x = x.activation("join_rows")?;
        let width = x.width * count;
        let shape = self.graph.vector(&[-1, width as i64]);
        Ok(Value::flat(
            self.graph.op("Reshape", &[&x.name, &shape], []),
            x.element,
            width,
        ))
    }

    fn last_position(&mut self, x: &Value) -> Result<Value, Error> {
        Ok(Value::Activation(self.lowering.scored_positions(
            &mut self.graph,
            x.activation("last_position")?,
        )))
    }

    fn rotary(&mut self, positions: &Value, axes: &[usize], inverse: &[f32]) -> Result<Rotary<Value>, Error> {
        self.graph.enter("rotary");
        let half = axes.len();
        let value = |name| Value::flat(name, ElementType::Float32, half);
        if let Some(rows) = self
            .lowering
            .rotary_table_rows()
            .filter(|_| axes.iter().all(|&axis| axis == 0))
        {
            let angles = (0..rows).flat_map(|row| inverse.iter().map(move |inverse| row as f32 * inverse));
            let angles: Vec<f32> = angles.collect();
            let [cos, sin]: [fn(f32) -> f32; 2] = [f32::cos, f32::sin];
            let mut table = |name, of: fn(f32) -> f32| {
                let values: Vec<f32> = angles.iter().copied().map(of).collect();
                self.graph.table(name, &values, half).map(value)
            };
            return Ok(Rotary {
                cos: table("rotary.cos", cos)?,
                sin: table("rotary.sin", sin)?,
            });
        }
        let axis_count = axes.iter().max().map_or(1, |last| last + 1) as i64;
        let shape = self.graph.vector(&[axis_count, -1]);
        let rows = self
            .graph
            .op("Reshape", &[&positions.activation("rotary")?.name, &shape], []);
        let axes: Vec<i64> = axes.iter().map(|&axis| axis as i64).collect();
        let axes = self.graph.vector(&axes);
        let turning = self.graph.op("Gather", &[&rows, &axes], []);
        let turning = self
            .graph
            .op("Transpose", &[&turning], [Attribute::ints("perm", [1, 0])]);
        let turning = self.graph.cast(&turning, DataType::Float32);
        let inverse = self.graph.floats(inverse, &[half as i64]);
        let angles = self.graph.op("Mul", &[&turning, &inverse], []);
        let [cos, sin] = ["Cos", "Sin"].map(|op_type| self.graph.op(op_type, &[&angles], []));
        Ok(Rotary {
            cos: value(cos),
            sin: value(sin),
        })
    }

    fn rotate(&mut self, x: &Value, heads: usize, rotary: &Rotary<Value>) -> Result<Value, Error> {
        let x = self.graph.as_type(x.activation("rotate")?, ElementType::Float32);
        let (cos, sin) = (rotary.cos.activation("rotate")?, rotary.sin.activation("rotate")?);
        Ok(Value::Activation(self.lowering.rotate(
            &mut self.graph,
            &x,
            heads,
            &cos.name,
            &sin.name,
        )))
    }

    fn causal_attention(
        &mut self,
        layer: usize,
        q: &Value,
        k: &Value,
        v: &Value,
        heads: usize,
        key_value_heads: usize,
    ) -> Result<Value, Error> {
        let qkv = self.attention_inputs([q, k, v])?;
        let attended = self
            .lowering
            .causal_attention(&mut self.graph, layer, &qkv, heads, key_value_heads);
        Ok(Value::Activation(attended))
    }

    /// Where target and formats allow it, one product makes queries, keys and values, and attention rotates them itself.
    fn self_attention(
        &mut self,
        x: &Value,
        attention: &SelfAttention<Value>,
        rotary: &Rotary<Value>,
    ) -> Result<Value, Error> {
        let linears = [&attention.query, &attention.key, &attention.value];
        let mut names = Vec::new();
        for linear in linears {
            names.push(linear.weight.weight("self_attention")?.0);
        }
        let scheme = self.graph.weights.formats().shared_scheme(&names);
        let (Some(scheme), Some(packed)) = (scheme, self.lowering.packed_attention()) else {
            return attention.apply(self, x, rotary);
        };
        let name = module(names[0]).replace("q_proj", "qkv_proj");
        self.graph.enter(&name);
        let x = x.activation("self_attention")?;
        let qkv = self.graph.block_linear(x, &name, &linears, scheme)?;
        let weights = linears.map(|linear| &linear.weight);
        let qkv = self
            .adapter_inputs
            .add_update(&mut self.graph, x, qkv, &name, &weights)?;
        let [cos, sin] = [&rotary.cos, &rotary.sin].map(|table| table.activation("self_attention"));
        Ok(Value::Activation(packed.attend(
            &mut self.graph,
            attention.layer,
            &qkv,
            [attention.heads, attention.key_value_heads],
            [&cos?.name, &sin?.name],
        )))
    }

    fn segment_attention(
        &mut self,
        q: &Value,
        k: &Value,
        v: &Value,
        heads: usize,
        segments: &Segments<Value>,
    ) -> Result<Value, Error> {
        let qkv = self.attention_inputs([q, k, v])?;
        let name = |value: &Value| Ok::<_, Error>(value.activation("segment_attention")?.name.clone());
        let segments = Segments {
            gather: name(&segments.gather)?,
            lengths: name(&segments.lengths)?,
            scatter: name(&segments.scatter)?,
        };
        Ok(Value::Activation(self.lowering.segment_attention(
            &mut self.graph,
            &qkv,
            heads,
            &segments,
        )))
    }
}

impl TileOps for OnnxOps<'_, '_> {
    fn layer_norm(&mut self, x: &Value, weight: &Value, bias: &Value, eps: f64) -> Result<Value, Error> {
        let x = self
            .graph
            .as_type(x.activation("layer_norm")?, ElementType::Float32);
        let [weight, bias] = [weight, bias].map(|part| self.graph.initializer(part, ElementType::Float32));
        let parts = [&*weight?, &*bias?];
        Ok(Value::Activation(self.lowering.layer_norm(
            &mut self.graph,
            &x,
            parts,
            eps as f32,
        )))
    }

    fn gelu_tanh(&mut self, x: &Value) -> Result<Value, Error> {
        Ok(Value::Activation(
            self.lowering
                .gelu_tanh(&mut self.graph, x.activation("gelu_tanh")?),
        ))
    }

    fn add_to_tiles(&mut self, x: &Value, table: &Value, order: &[usize]) -> Result<Value, Error> {
        let x = self
            .graph
            .as_type(x.activation("add_to_tiles")?, ElementType::Float32);
        let table = self.graph.initializer(table, ElementType::Float32)?;
        let places: Vec<i64> = order.iter().map(|&row| row as i64).collect();
        let places = self.graph.vector(&places);
        let rows = self.graph.op("Gather", &[&table, &places], []);
        let x = self.graph.tiles(&x, order.len());
        let name = self.graph.op("Add", &[&x.name, &rows], []);
        Ok(Value::Activation(x.renamed(name)))
    }

    fn tile_attention(
        &mut self,
        q: &Value,
        k: &Value,
        v: &Value,
        heads: usize,
        rows: usize,
    ) -> Result<Value, Error> {
        let qkv = self.attention_inputs([q, k, v])?;
        let attended = self.lowering.tile_attention(&mut self.graph, &qkv, heads, rows);
        Ok(Value::Activation(attended))
    }
}

/// The name of the layer that a weight belongs to.
pub(crate) fn module(weight: &str) -> &str {
    let name = weight
        .strip_suffix(".weight")
        .or_else(|| weight.strip_suffix(".bias"));
    name.unwrap_or(weight)
}
