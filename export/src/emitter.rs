use std::collections::HashMap;

use lwv_model::ElementType;
use lwv_onnx::{Attribute, DataType, Dimension, GraphBuilder, Model, Node};
use lwv_quantize::BlockScheme;

use crate::Error;
use crate::value::{Activation, Layout, Value};
use crate::weights::{Placed, WeightStore};

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

    /// Appends a node whose outputs have these names.
    pub(crate) fn node(&mut self, node: Node, outputs: &[&str]) {
        let result = self.builder.node_named_outputs(node, outputs);
        self.keep(result);
    }

    /// Declares an input.
    pub(crate) fn input(&mut self, name: &str, dtype: DataType, dims: &[Dimension]) {
        let result = self.builder.input(name, dtype, dims);
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
        let mut dims: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
        if dims.len() > 2 {
            dims = vec![dims[0], dims[1..].iter().product()];
        }
        let placed = match self.weights.place(name, shape, dtype)? {
            Placed::Inline(bytes) => self.builder.initializer_inline(name, dtype, &dims, bytes)?,
            Placed::External(location) => self.builder.initializer_external(name, dtype, &dims, location)?,
        };
        self.initializers.insert(key, placed.clone());
        Ok(placed)
    }

    /// Puts codes, of shape `codes`, and scales, of shape `scales`, of a weight into the graph.
    fn block_initializers(
        &mut self,
        weight: &Value,
        scheme: BlockScheme,
        [codes, scales]: [&[usize]; 2],
    ) -> Result<[String; 2], Error> {
        let (name, shape) = weight.weight("initializer")?;
        let placed = self.weights.place_blocks(name, shape, scheme)?;
        let mut add = |part: &str, dtype, shape: &[usize], placed| {
            let name = format!("{name}.{part}");
            let dims: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
            match placed {
                Placed::Inline(bytes) => self.builder.initializer_inline(&name, dtype, &dims, bytes),
                Placed::External(location) => {
                    self.builder.initializer_external(&name, dtype, &dims, location)
                }
            }
        };
        let codes = add("codes", DataType::UInt8, codes, placed.codes)?;
        Ok([codes, add("scales", DataType::Float32, scales, placed.scales)?])
    }

    /// `x · weightᵀ + bias` with a weight of small integers. What the kernel reads is rounded to 8 bits block by block, which
    /// is what makes it fast on CPUs.
    pub(crate) fn block_linear(
        &mut self,
        x: &Activation,
        weight: &Value,
        scheme: BlockScheme,
        bias: Option<&Value>,
    ) -> Result<String, Error> {
        let (_, shape) = weight.weight("linear")?;
        let (rows, columns) = (shape[0], shape[1..].iter().product());
        let blocks = scheme.blocks(columns);
        let shapes: [&[usize]; 2] = [&[rows, blocks, scheme.block_bytes()], &[rows, blocks]];
        let [codes, scales] = self.block_initializers(weight, scheme, shapes)?;
        let x = self.as_type(x, ElementType::Float32);
        let mut inputs = vec![x.name, codes, scales];
        if let Some(bias) = bias {
            // Zero points and the order of inputs are left out.
            inputs.extend([
                String::new(),
                String::new(),
                self.initializer(bias, ElementType::Float32)?,
            ]);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let attributes = [
            Attribute::int("K", columns as i64),
            Attribute::int("N", rows as i64),
            Attribute::int("accuracy_level", 4),
            Attribute::int("bits", scheme.bits.count() as i64),
            Attribute::int("block_size", scheme.block_size as i64),
        ];
        Ok(self.microsoft("MatMulNBits", &inputs, attributes))
    }

    /// Rows of a table of small integers.
    pub(crate) fn block_rows(
        &mut self,
        ids: &str,
        table: &Value,
        scheme: BlockScheme,
    ) -> Result<String, Error> {
        let (_, shape) = table.weight("embedding")?;
        let blocks = scheme.blocks(shape[1]);
        let shapes: [&[usize]; 2] = [&[shape[0], blocks * scheme.block_bytes()], &[shape[0], blocks]];
        let [codes, scales] = self.block_initializers(table, scheme, shapes)?;
        let attributes = [
            Attribute::int("bits", scheme.bits.count() as i64),
            Attribute::int("block_size", scheme.block_size as i64),
            Attribute::int("gather_axis", 0),
            Attribute::int("quantize_axis", 1),
        ];
        Ok(self.microsoft("GatherBlockQuantized", &[&codes, ids, &scales], attributes))
    }
}
