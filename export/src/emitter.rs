use std::collections::HashMap;

use lwv_model::{ElementType, Linear};
use lwv_onnx::{Attribute, DataType, Dimension, GraphBuilder, Model, Node, Output, Tensor};
use lwv_quantize::BlockScheme;

use crate::Error;
use crate::value::{Activation, Layout, Value};
use crate::weights::{Placed, PlacedBlocks, WeightStore};

/// A graph being built, with the weights that enter it.
pub(crate) struct Emitter<'a, 'w> {
    /// The graph so far.
    builder: GraphBuilder,
    pub(crate) weights: &'a mut WeightStore<'w>,
    /// The first thing that the builder refused; later calls go on with empty names and the end reports it.
    fault: Option<lwv_onnx::Error>,
    /// Weights that are in the graph already.
    initializers: HashMap<(String, ElementType), String>,
    /// Casts and reshapes already made, so that three projections of one tensor share one.
    converted: HashMap<(String, Conversion), String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Conversion {
    ToFloat32,
    ToFloat16,
    Flat,
    Unsqueezed,
}

impl<'a, 'w> Emitter<'a, 'w> {
    /// Starts a graph with weights of `weights`.
    pub(crate) fn new(builder: GraphBuilder, weights: &'a mut WeightStore<'w>) -> Self {
        let (initializers, converted) = (HashMap::new(), HashMap::new());
        Self {
            builder,
            weights,
            fault: None,
            initializers,
            converted,
        }
    }

    /// Type of matrix products.
    pub(crate) fn compute_type(&self) -> ElementType {
        self.weights.formats().compute_type()
    }

    /// Names the nodes to come after `scope`.
    pub(crate) fn enter(&mut self, scope: &str) {
        self.builder.set_scope(scope);
    }

    /// Appends a standard operator with one output.
    pub(crate) fn op(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        attributes: impl IntoIterator<Item = Attribute>,
    ) -> String {
        let result = self.builder.op(op_type, inputs, attributes);
        self.keep(result)
    }

    /// Appends one of ONNX Runtime's own operators with one output.
    pub(crate) fn microsoft(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        attributes: impl IntoIterator<Item = Attribute>,
    ) -> String {
        let result = self.builder.op_in("com.microsoft", op_type, inputs, attributes);
        self.keep(result)
    }

    /// Appends a node whose outputs are named as said, and returns their names.
    pub(crate) fn node(&mut self, node: Node, outputs: &[Output]) -> Vec<String> {
        let result = self.builder.node_with_outputs(node, outputs);
        let mut names = self.keep(result);
        // After a fault there are none.
        names.resize(outputs.len(), String::new());
        names
    }

    /// Takes back the sum `value`, if it was appended last, and returns what it adds.
    pub(crate) fn take_back_sum(&mut self, value: &str) -> Option<[String; 2]> {
        self.builder.take_back("Add", value)?.try_into().ok()
    }

    /// Declares an input.
    pub(crate) fn input(&mut self, name: &str, dtype: DataType, dims: &[Dimension]) {
        let result = self.builder.input(name, dtype, dims);
        self.keep(result);
    }

    /// Declares an input that has the elements of `bytes` in the shape `sizes` where a run does not give it.
    pub(crate) fn input_with_default(
        &mut self,
        name: &str,
        dtype: DataType,
        dims: &[Dimension],
        sizes: &[i64],
        bytes: Vec<u8>,
    ) {
        let tensor = Tensor::new(dtype, sizes, bytes);
        let result = tensor.and_then(|tensor| self.builder.input_with_default(name, dims, tensor));
        self.keep(result);
    }

    /// Declares an output.
    pub(crate) fn output(&mut self, name: &str, value: &str, dtype: DataType, dims: &[Dimension]) {
        let result = self.builder.output(name, value, dtype, dims);
        self.keep(result);
    }

    /// An i64 constant of one dimension.
    pub(crate) fn vector(&mut self, values: &[i64]) -> String {
        let result = self.builder.constant_i64(values, &[values.len() as i64]);
        self.keep(result)
    }

    /// An i64 constant of no dimensions.
    pub(crate) fn scalar(&mut self, value: i64) -> String {
        let result = self.builder.constant_i64(&[value], &[]);
        self.keep(result)
    }

    /// An f32 constant of shape `dims`.
    pub(crate) fn floats(&mut self, values: &[f32], dims: &[i64]) -> String {
        let result = self.builder.constant_f32(values, dims);
        self.keep(result)
    }

    /// Checks what was built.
    ///
    /// # Errors
    /// The first thing that was refused, or what makes the whole no graph.
    pub(crate) fn finish(self) -> Result<Model, Error> {
        match self.fault {
            Some(fault) => Err(fault.into()),
            None => Ok(self.builder.finish()?),
        }
    }

    fn keep<T: Default>(&mut self, result: Result<T, lwv_onnx::Error>) -> T {
        result.unwrap_or_else(|error| {
            self.fault.get_or_insert(error);
            T::default()
        })
    }

    /// Appends a cast.
    pub(crate) fn cast(&mut self, name: &str, to: DataType) -> String {
        self.op("Cast", &[name], [Attribute::int("to", i64::from(to.onnx_code()))])
    }

    /// The activation as `element`, cast where it is not.
    pub(crate) fn as_type(&mut self, x: &Activation, element: ElementType) -> Activation {
        if x.element == element {
            return x.clone();
        }
        let (conversion, to) = match element {
            ElementType::Float16 => (Conversion::ToFloat16, DataType::Float16),
            _ => (Conversion::ToFloat32, DataType::Float32),
        };
        let name = self.convert_once(&x.name, conversion, |graph, name| graph.cast(name, to));
        Activation {
            element,
            ..x.renamed(name)
        }
    }

    /// The activation with its leading dimensions as one.
    pub(crate) fn as_flat(&mut self, x: &Activation) -> Activation {
        if x.layout == Layout::Flat {
            return x.clone();
        }
        let name = self.convert_once(&x.name, Conversion::Flat, |graph, name| {
            let shape = graph.vector(&[-1, x.width as i64]);
            graph.op("Reshape", &[name, &shape], [])
        });
        Activation {
            layout: Layout::Flat,
            ..x.renamed(name)
        }
    }

    /// The activation with its rows in tiles of `rows`: `[tiles, rows, width]`.
    pub(crate) fn tiles(&mut self, x: &Activation, rows: usize) -> Activation {
        let shape = self.vector(&[-1, rows as i64, x.width as i64]);
        Activation {
            layout: Layout::Batched,
            ..x.renamed(self.op("Reshape", &[&x.name, &shape], []))
        }
    }

    /// The value with a dimension of 1 after its first.
    pub(crate) fn unsqueezed(&mut self, name: &str) -> String {
        self.convert_once(name, Conversion::Unsqueezed, |graph, name| {
            let axis = graph.vector(&[1]);
            graph.op("Unsqueeze", &[name, &axis], [])
        })
    }

    /// One dimension of a value, i64 `[1]`.
    pub(crate) fn dimension(&mut self, value: &str, axis: i64) -> String {
        let bounds = [Attribute::int("start", axis), Attribute::int("end", axis + 1)];
        self.op("Shape", &[value], bounds)
    }

    fn convert_once(
        &mut self,
        name: &str,
        conversion: Conversion,
        make: impl FnOnce(&mut Self, &str) -> String,
    ) -> String {
        let key = (name.to_owned(), conversion);
        if let Some(known) = self.converted.get(&key) {
            return known.clone();
        }
        let made = make(self, name);
        self.converted.insert(key, made.clone());
        made
    }

    /// Puts a weight into the graph as `element`. A weight of more than two dimensions becomes a matrix, all but its
    /// first dimension taken as one.
    pub(crate) fn initializer(&mut self, weight: &Value, element: ElementType) -> Result<String, Error> {
        let (name, shape) = weight.weight("initializer")?;
        let key = (name.to_owned(), element);
        if let Some(known) = self.initializers.get(&key) {
            return Ok(known.clone());
        }
        let dtype = if element == ElementType::Float16 {
            DataType::Float16
        } else {
            DataType::Float32
        };
        let placed = self.weights.place(name, &[(name, shape)], dtype)?;
        let placed = if shape.len() > 2 {
            self.add_initializer(name, dtype, &[shape[0], shape[1..].iter().product()], placed)?
        } else {
            self.add_initializer(name, dtype, shape, placed)?
        };
        self.initializers.insert(key, placed.clone());
        Ok(placed)
    }

    /// Puts weights into the graph as f32, one after the other along their first dimension, under `name`.
    fn joined_initializer(&mut self, name: &str, weights: &[&Value]) -> Result<String, Error> {
        let weights = weights.iter().map(|weight| weight.weight("initializer"));
        let weights: Vec<_> = weights.collect::<Result<_, _>>()?;
        let (count, dtype) = (weights.iter().map(|(_, shape)| shape[0]).sum(), DataType::Float32);
        let placed = self.weights.place(name, &weights, dtype)?;
        self.add_initializer(name, dtype, &[count], placed)
    }

    /// Puts floats that are no weight into the graph, `[rows, columns]`.
    pub(crate) fn table(&mut self, name: &str, floats: &[f32], columns: usize) -> Result<String, Error> {
        let placed = self.weights.place_floats(floats)?;
        self.add_initializer(
            name,
            DataType::Float32,
            &[floats.len() / columns, columns],
            placed,
        )
    }

    fn add_initializer(
        &mut self,
        name: &str,
        dtype: DataType,
        shape: &[usize],
        placed: Placed,
    ) -> Result<String, Error> {
        let dims: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        Ok(match placed {
            Placed::Inline(bytes) => self.builder.initializer_inline(name, dtype, &dims, bytes)?,
            Placed::External(location) => self.builder.initializer_external(name, dtype, &dims, location)?,
        })
    }

    /// Puts matrices of small integers into the graph under `name`, the rows of one after those of the other: codes, of
    /// shape `codes`, and scales, of shape `scales`.
    fn block_initializers(
        &mut self,
        name: &str,
        weights: &[(&str, &[usize])],
        scheme: BlockScheme,
        [codes, scales]: [&[usize]; 2],
    ) -> Result<[String; 2], Error> {
        let placed = self.weights.place_blocks(name, weights, scheme)?;
        let (code_name, scale_name) = (format!("{name}.codes"), format!("{name}.scales"));
        Ok([
            self.add_initializer(&code_name, DataType::UInt8, codes, placed.codes)?,
            self.add_initializer(&scale_name, DataType::Float32, scales, placed.scales)?,
        ])
    }

    /// `x · weightᵀ + bias` with weights of small integers; those of several layers that read the same are one, called `name`.
    /// What the kernel reads is rounded to 8 bits block by block, which is what makes it fast on CPUs.
    pub(crate) fn block_linear(
        &mut self,
        x: &Activation,
        name: &str,
        linears: &[&Linear<Value>],
        scheme: BlockScheme,
    ) -> Result<Activation, Error> {
        let weights = linears.iter().map(|linear| linear.weight.weight("linear"));
        let weights: Vec<_> = weights.collect::<Result<_, _>>()?;
        let rows = weights.iter().map(|(_, shape)| shape[0]).sum();
        let columns = weights[0].1[1..].iter().product();
        let blocks = scheme.blocks(columns);
        let shapes: [&[usize]; 2] = [&[rows, blocks, scheme.block_bytes()], &[rows, blocks]];
        let weight_name = format!("{name}.weight");
        let [codes, scales] = self.block_initializers(&weight_name, &weights, scheme, shapes)?;
        let x = self.as_type(x, ElementType::Float32);
        let mut inputs = vec![&*x.name, &codes, &scales];
        let biases: Option<Vec<_>> = linears.iter().map(|linear| linear.bias.as_ref()).collect();
        let bias = match biases {
            Some(biases) => self.joined_initializer(&format!("{name}.bias"), &biases)?,
            None => String::new(),
        };
        // Zero points and the order of inputs are left out.
        inputs.extend(["", "", &bias]);
        let attributes = [
            Attribute::int("K", columns as i64),
            Attribute::int("N", rows as i64),
            Attribute::int("accuracy_level", 4),
            Attribute::int("bits", scheme.bits.count() as i64),
            Attribute::int("block_size", scheme.block_size as i64),
        ];
        Ok(Activation {
            width: rows,
            ..x.renamed(self.microsoft("MatMulNBits", &inputs, attributes))
        })
    }

    /// A matrix of integers of 4 bits as floats, in the type of products.
    pub(crate) fn dequantized_blocks(
        &mut self,
        weight: &Value,
        scheme: BlockScheme,
    ) -> Result<String, Error> {
        let (name, shape) = weight.weight("linear")?;
        let (rows, columns) = (shape[0], shape[1..].iter().product());
        let placed = self.weights.place_blocks(name, &[(name, shape)], scheme)?;
        let attributes = [
            Attribute::int("axis", 1),
            Attribute::int("block_size", scheme.block_size as i64),
        ];
        let shapes: [&[usize]; 2] = [&[rows, columns], &[rows, scheme.blocks(columns)]];
        self.dequantized(name, DataType::Int4, placed, shapes, &attributes)
    }

    /// A matrix of integers of 8 bits as floats, in the type of products.
    pub(crate) fn dequantized_channels(&mut self, weight: &Value) -> Result<String, Error> {
        let (name, shape) = weight.weight("linear")?;
        let placed = self.weights.place_channels(name, shape)?;
        let shapes: [&[usize]; 2] = [&[shape[0], shape[1..].iter().product()], &[shape[0]]];
        self.dequantized(name, DataType::Int8, placed, shapes, &[Attribute::int("axis", 0)])
    }

    fn dequantized(
        &mut self,
        name: &str,
        dtype: DataType,
        placed: PlacedBlocks,
        [codes, scales]: [&[usize]; 2],
        attributes: &[Attribute],
    ) -> Result<String, Error> {
        let (code_name, scale_name) = (format!("{name}.codes"), format!("{name}.scales"));
        let codes = self.add_initializer(&code_name, dtype, codes, placed.codes)?;
        let scales = self.add_initializer(&scale_name, DataType::Float16, scales, placed.scales)?;
        Ok(self.op("DequantizeLinear", &[&codes, &scales], attributes.iter().cloned()))
    }

    /// `x` rounded to 8 bits, `step` a level, and back: symmetric, so the zero point is 0.
    pub(crate) fn rounded(&mut self, x: &Activation, step: f32) -> Activation {
        let x = self.as_type(x, ElementType::Float16);
        let step = self.builder.constant_floats(DataType::Float16, &[step], &[]);
        let step = self.keep(step);
        let zero = Tensor::new(DataType::Int8, &[], vec![0]);
        let zero = zero.map(|zero| self.builder.constant(zero));
        let zero = self.keep(zero);
        let codes = self.op("QuantizeLinear", &[&x.name, &step, &zero], []);
        let [opset, _] = self.weights.formats().versions();
        // Where the type of codes may also stand in an attribute, ONNX Runtime's own changes of this pair contradict that attribute
        // if there are two zero points; without its own, the second takes 0.
        let inputs = [&*codes, &step, &zero];
        let inputs = if opset < 21 { &inputs[..] } else { &inputs[..2] };
        x.renamed(self.op("DequantizeLinear", inputs, []))
    }

    /// Rows of a table of small integers.
    pub(crate) fn block_rows(
        &mut self,
        ids: &str,
        table: &Value,
        scheme: BlockScheme,
    ) -> Result<String, Error> {
        let (name, shape) = table.weight("embedding")?;
        let blocks = scheme.blocks(shape[1]);
        let shapes: [&[usize]; 2] = [&[shape[0], blocks * scheme.block_bytes()], &[shape[0], blocks]];
        let [codes, scales] = self.block_initializers(name, &[(name, shape)], scheme, shapes)?;
        let attributes = [
            Attribute::int("bits", scheme.bits.count() as i64),
            Attribute::int("block_size", scheme.block_size as i64),
            Attribute::int("gather_axis", 0),
            Attribute::int("quantize_axis", 1),
        ];
        Ok(self.microsoft("GatherBlockQuantized", &[&codes, ids, &scales], attributes))
    }
}
