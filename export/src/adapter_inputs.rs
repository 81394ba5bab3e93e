use lwv_model::{AdaptedLinear, AdaptedProduct, contract};

use crate::Error;
use crate::emitter::Emitter;
use crate::graphs::{data_type, dimensions};
use crate::ops::module;
use crate::value::{Activation, Value};

/// Products of a decoder that read an adapter when the graph runs, as far as the graph is built.
///
/// Optimizers leave them alone: an initializer that is an input too is no constant.
pub(crate) struct AdapterInputs {
    wanted: bool,
    products: Vec<AdaptedProduct>,
}

impl AdapterInputs {
    /// Those of a graph that reads no adapters.
    pub(crate) fn none() -> Self {
        Self {
            wanted: false,
            products: Vec::new(),
        }
    }

    /// Those of a graph that reads adapters.
    pub(crate) fn of_decoder_layers() -> Self {
        Self {
            wanted: true,
            ..Self::none()
        }
    }

    /// `made + x · A · B`, where `made` is what linear layers with these weights have made of `x` in one product called `name`. A and B
    /// become inputs; left out they are zeros, and so is the update. Layers that are none of the decoder's, and those of graphs that read no
    /// adapters, keep what was made.
    ///
    /// # Errors
    /// A weight is none.
    pub(crate) fn add_update(
        &mut self,
        graph: &mut Emitter<'_, '_>,
        x: &Activation,
        made: Activation,
        name: &str,
        weights: &[&Value],
    ) -> Result<Activation, Error> {
        if !self.wanted || !name.starts_with("model.layers.") {
            return Ok(made);
        }
        let x = graph.as_type(x, made.element);
        let linears = weights.iter().map(|weight| {
            let (name, shape) = weight.weight("linear")?;
            let name = module(name).to_owned();
            Ok(AdaptedLinear {
                name,
                outputs: shape[0],
            })
        });
        let product = AdaptedProduct {
            name: name.to_owned(),
            element_type: made.element,
            inputs: x.width,
            linears: linears.collect::<Result<_, Error>>()?,
        };
        // Of rank 1, not 0: kernels for processors make zeros of products without an inner dimension, others may not.
        let sizes = [[product.inputs, 1], [1, product.outputs()]];
        for (input, sizes) in contract::adapter_inputs(std::slice::from_ref(&product))
            .iter()
            .zip(sizes)
        {
            let zeros = vec![0; sizes[0] * sizes[1] * input.element_type.size()];
            let sizes = sizes.map(|size| size as i64);
            let dtype = data_type(input.element_type);
            graph.input_with_default(&input.name, dtype, &dimensions(input), &sizes, zeros);
        }
        self.products.push(product);
        let narrow = graph.op("MatMul", &[&x.name, &contract::lora_a(name)], []);
        let update = graph.op("MatMul", &[&narrow, &contract::lora_b(name)], []);
        Ok(made.renamed(graph.op("Add", &[&made.name, &update], [])))
    }

    /// What was adapted, in the order of the graph.
    pub(crate) fn into_products(self) -> Vec<AdaptedProduct> {
        self.products
    }
}
