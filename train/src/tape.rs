use std::rc::Rc;

use candle_core::{Result, Tensor};

use crate::Parameter;
use crate::kernels::activation;

/// A value in the network, and where its gradient goes.
#[derive(Clone)]
pub struct Traced {
    tensor: Tensor,
    source: Source,
}

#[derive(Clone)]
enum Source {
    /// Needs no gradient.
    Constant,
    /// The result of an operation on the tape.
    Node(usize),
    /// A weight.
    Parameter(Rc<Parameter>),
}

impl Traced {
    /// A value that needs no gradient.
    pub fn constant(tensor: Tensor) -> Self {
        Self {
            tensor,
            source: Source::Constant,
        }
    }

    pub(crate) fn parameter(parameter: Rc<Parameter>) -> Self {
        Self {
            tensor: parameter.value(),
            source: Source::Parameter(parameter),
        }
    }

    /// The value itself.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    pub(crate) fn node(&self) -> Option<usize> {
        match self.source {
            Source::Node(node) => Some(node),
            _ => None,
        }
    }

    pub(crate) fn as_parameter(&self) -> Option<&Rc<Parameter>> {
        match &self.source {
            Source::Parameter(parameter) => Some(parameter),
            _ => None,
        }
    }
}

type Backward = Box<dyn FnOnce(Tensor, &mut Flow) -> crate::Result<()>>;

/// What was computed, in order, each operation with its way back.
///
/// Candle's own graph keeps every intermediate value until the loss is dropped, and makes gradients of frozen weights
/// too. Here an operation's way back owns what it needs and is consumed by the backward pass, so memory is freed
/// while it goes; and weights are no part of the graph, they collect their gradients themselves.
#[derive(Default)]
pub(crate) struct Tape {
    nodes: Vec<Option<Backward>>,
}

impl Tape {
    /// A value whose gradient is asked for at the end.
    pub(crate) fn leaf(&mut self, tensor: Tensor) -> Traced {
        self.nodes.push(None);
        Traced {
            tensor,
            source: Source::Node(self.nodes.len() - 1),
        }
    }

    /// The result of an operation, with its way back: from the result's gradient to those of the operation's inputs.
    pub(crate) fn result(
        &mut self,
        tensor: Tensor,
        backward: impl FnOnce(Tensor, &mut Flow) -> crate::Result<()> + 'static,
    ) -> Traced {
        self.nodes.push(Some(Box::new(backward)));
        Traced {
            tensor,
            source: Source::Node(self.nodes.len() - 1),
        }
    }

    /// Carries `gradient`, that of `output`, back to all leaves and weights, and consumes the tape.
    pub(crate) fn backward(self, output: &Traced, gradient: Tensor) -> crate::Result<Flow> {
        let mut flow = Flow {
            gradients: vec![None; self.nodes.len()],
        };
        flow.add(output.node(), gradient)?;
        for (node, backward) in self.nodes.into_iter().enumerate().rev() {
            let Some(backward) = backward else { continue };
            if let Some(gradient) = flow.take(node) {
                backward(gradient, &mut flow)?;
            }
        }
        Ok(flow)
    }
}

/// Gradients on their way back.
pub(crate) struct Flow {
    gradients: Vec<Option<Tensor>>,
}

impl Flow {
    /// Adds a piece of the gradient of `node`; values that need none have no node.
    pub(crate) fn add(&mut self, node: Option<usize>, piece: Tensor) -> Result<()> {
        let Some(node) = node else { return Ok(()) };
        let sum = match self.gradients[node].take() {
            Some(sum) => activation::add(&sum, &piece)?,
            None => piece,
        };
        self.gradients[node] = Some(sum);
        Ok(())
    }

    /// The gradient of `node`, where any came.
    pub(crate) fn take(&mut self, node: usize) -> Option<Tensor> {
        self.gradients[node].take()
    }
}
