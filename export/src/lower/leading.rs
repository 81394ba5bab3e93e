use std::collections::HashMap;

use lwv_model::contract;
use lwv_onnx::Attribute;

use crate::emitter::Emitter;
use crate::value::{Activation, Layout};

/// The leading dimensions of a graph's rows, batch and sequence, where an operator wants them apart.
#[derive(Debug, Default)]
pub(crate) struct Leading {
    /// i64 `[2]`.
    dims: String,
    /// Width → shape `[batch, sequence, width]`.
    shapes: HashMap<usize, String>,
}

impl Leading {
    /// Those of the tokens in `inputs_embeds`.
    pub(crate) fn of_tokens(graph: &mut Emitter<'_, '_>) -> Self {
        graph.enter("layout");
        let bounds = [Attribute::int("start", 0), Attribute::int("end", 2)];
        Self::of(graph.op("Shape", &[contract::INPUTS_EMBEDS], bounds))
    }

    /// One sequence of the rows of `rows`.
    pub(crate) fn of_rows(graph: &mut Emitter<'_, '_>, rows: &str) -> Self {
        graph.enter("layout");
        let count = graph.dimension(rows, 0);
        let one = graph.vector(&[1]);
        Self::of(graph.op("Concat", &[&one, &count], [Attribute::int("axis", 0)]))
    }

    fn of(dims: String) -> Self {
        Self {
            dims,
            shapes: HashMap::new(),
        }
    }

    /// Name of the two sizes.
    pub(crate) fn dims(&self) -> &str {
        &self.dims
    }

    /// The activation with its leading dimensions apart.
    pub(crate) fn as_batched(&mut self, graph: &mut Emitter<'_, '_>, x: &Activation) -> Activation {
        if x.layout == Layout::Batched {
            return x.clone();
        }
        if !self.shapes.contains_key(&x.width) {
            let width = graph.vector(&[x.width as i64]);
            let shape = graph.op("Concat", &[&self.dims, &width], [Attribute::int("axis", 0)]);
            self.shapes.insert(x.width, shape);
        }
        let name = graph.op("Reshape", &[&x.name, &self.shapes[&x.width]], []);
        Activation {
            layout: Layout::Batched,
            ..x.renamed(name)
        }
    }
}
