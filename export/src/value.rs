use lwv_model::ElementType;

use crate::Error;

/// A tensor while a graph is being built.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A weight. It enters the graph when an operation uses it, which also decides its type.
    Weight {
        /// Canonical name.
        name: String,
        /// Shape in the checkpoint.
        shape: Vec<usize>,
    },
    /// A graph input or the output of a node.
    Activation(Activation),
}

/// A graph input or the output of a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Activation {
    /// Its name in the graph.
    pub name: String,
    /// Type of its elements.
    pub element: ElementType,
    /// Size of the last dimension.
    pub width: usize,
    /// How the other dimensions are laid out.
    pub layout: Layout,
}

/// How the leading dimensions of an activation are laid out. Matrix products want them as one, fused attention wants
/// them apart; a value is reshaped when it is needed otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `[tokens, width]`.
    Flat,
    /// `[batch, sequence, width]`, or whatever dimensions an input has.
    Batched,
}

impl Value {
    /// An activation `[tokens, width]`.
    pub(crate) fn flat(name: String, element: ElementType, width: usize) -> Self {
        Self::Activation(Activation {
            name,
            element,
            width,
            layout: Layout::Flat,
        })
    }

    /// An activation that keeps its leading dimensions.
    pub(crate) fn batched(name: String, element: ElementType, width: usize) -> Self {
        Self::Activation(Activation {
            name,
            element,
            width,
            layout: Layout::Batched,
        })
    }

    /// The activation that this is.
    ///
    /// # Errors
    /// It is a weight, which `operation` does not take here.
    pub(crate) fn activation(&self, operation: &'static str) -> Result<&Activation, Error> {
        match self {
            Self::Activation(activation) => Ok(activation),
            Self::Weight { name, .. } => Err(Error::Operand {
                operation,
                got: format!("the weight `{name}`"),
            }),
        }
    }

    /// The weight's canonical name and shape.
    ///
    /// # Errors
    /// It is an activation, which `operation` does not take here.
    pub(crate) fn weight(&self, operation: &'static str) -> Result<(&str, &[usize]), Error> {
        match self {
            Self::Weight { name, shape } => Ok((name, shape)),
            Self::Activation(Activation { name, .. }) => Err(Error::Operand {
                operation,
                got: format!("the activation `{name}`"),
            }),
        }
    }
}

impl Activation {
    /// The same tensor after an operation that keeps its shape.
    pub(crate) fn renamed(&self, name: String) -> Self {
        Self { name, ..self.clone() }
    }
}
