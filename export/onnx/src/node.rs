//! Nodes as a caller describes them, before they have names.

use crate::Attribute;

/// One application of an operator, to be appended with [`GraphBuilder::node`](crate::GraphBuilder::node).
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The operator, such as `MatMul`.
    pub op_type: String,
    /// The operator's domain: empty for the standard operators, `com.microsoft` for ONNX Runtime's own.
    pub domain: String,
    /// The values it reads, in the operator's order; `""` leaves an optional input out.
    pub inputs: Vec<String>,
    /// Its attributes; those left out take the operator's defaults.
    pub attributes: Vec<Attribute>,
    /// How many outputs it has.
    pub outputs: usize,
}

impl Node {
    /// A node of a standard operator with one output and no attributes.
    #[must_use]
    pub fn new(op_type: &str, inputs: &[&str]) -> Self {
        Self::in_domain("", op_type, inputs)
    }

    /// A node of another domain's operator with one output and no attributes.
    #[must_use]
    pub fn in_domain(domain: &str, op_type: &str, inputs: &[&str]) -> Self {
        Self {
            op_type: op_type.to_owned(),
            domain: domain.to_owned(),
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            attributes: Vec::new(),
            outputs: 1,
        }
    }

    /// The same node with these attributes added.
    #[must_use]
    pub fn with(mut self, attributes: impl IntoIterator<Item = Attribute>) -> Self {
        self.attributes.extend(attributes);
        self
    }

    /// The same node with `count` outputs.
    #[must_use]
    pub fn outputs(mut self, count: usize) -> Self {
        self.outputs = count;
        self
    }
}

/// How one output of a node is to be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A fresh name, derived from the node's.
    Fresh,
    /// The operator's optional output is left out.
    Absent,
    /// Exactly this name.
    Named(String),
}

impl From<&str> for Output {
    /// [`Output::Absent`] for the empty name, as ONNX itself has it.
    fn from(name: &str) -> Self {
        if name.is_empty() {
            Self::Absent
        } else {
            Self::Named(name.to_owned())
        }
    }
}
