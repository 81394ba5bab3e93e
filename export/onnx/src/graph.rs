//! Building a graph node by node.

mod constant;
mod header;
mod initializer;

use std::collections::HashMap;

use onnx_protobuf::{GraphProto, ModelProto, NodeProto};
use protobuf::MessageField;

use crate::{
    Attribute, DataType, Dimension, Error, Model, Node, Output, Tensor, ValueInfo, check::check,
    initializer::Initializers, names::Names,
};

/// The producer that models name when nobody sets another.
pub const PRODUCER: &str = "longwriter-v-edge";

/// The IR version that came with operator set 18.
const IR_VERSION: i64 = 8;

/// Appends nodes to a graph in the order they run.
///
/// Values are known by name: a method that defines a value returns its name, which later nodes take as input.
/// Names that the builder chooses are unique. A value that is defined twice, or used before it is defined, is
/// an error of the very call that does so; after one, the builder is of no more use.
#[derive(Debug)]
pub struct GraphBuilder {
    model: ModelProto,
    graph: GraphProto,
    scopes: Vec<String>,
    nodes: Names,
    values: Names,
    initializers: Initializers,
    constants: HashMap<Tensor, String>,
}

impl GraphBuilder {
    /// An empty graph of this name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            model: ModelProto {
                ir_version: IR_VERSION,
                producer_name: PRODUCER.to_owned(),
                producer_version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Default::default()
            },
            graph: GraphProto {
                name: name.to_owned(),
                ..Default::default()
            },
            scopes: Vec::new(),
            nodes: Names::default(),
            values: Names::default(),
            initializers: Initializers::default(),
            constants: HashMap::new(),
        }
    }

    /// Opens a scope: until it is closed, the names of nodes start with it, inside those already open.
    ///
    /// In the scopes `layers.3` and `attention`, a node is named `/layers.3/attention/MatMul`.
    pub fn push_scope(&mut self, scope: &str) {
        self.scopes.push(scope.to_owned());
    }

    /// Closes the scope opened last; with none open, nothing changes.
    pub fn pop_scope(&mut self) {
        self.scopes.pop();
    }

    /// Closes all scopes and opens this one; the empty one stands for none.
    pub fn set_scope(&mut self, scope: &str) {
        self.scopes.clear();
        if !scope.is_empty() {
            self.push_scope(scope);
        }
    }

    /// Runs `build` in a scope, and afterwards leaves the scopes as they were, whatever `build` returns.
    pub fn scoped<T>(&mut self, scope: &str, build: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.scopes.clone();
        self.push_scope(scope);
        let result = build(self);
        self.scopes = outer;
        result
    }

    /// Declares an input, and returns `name`.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateValue`] when the value is defined already, [`Error::EmptyName`] for the empty name.
    pub fn input(&mut self, name: &str, dtype: DataType, dims: &[Dimension]) -> Result<String, Error> {
        self.define(name, || "an input".to_owned())?;
        let value = ValueInfo {
            name: name.to_owned(),
            dtype,
            dims: dims.to_vec(),
        };
        self.graph.input.push(value.to_proto());
        Ok(value.name)
    }

    /// Declares that the graph returns `value` under `name`.
    ///
    /// When the value has another name, an `Identity` gives it this one; to do without, have the node that
    /// makes it name its output, with [`GraphBuilder::node_named_outputs`].
    ///
    /// # Errors
    ///
    /// [`Error::UndefinedOutput`] when `value` is not defined, [`Error::DuplicateOutput`] when `name` is an
    /// output already, [`Error::DuplicateValue`] when it is another value, and [`Error::EmptyName`] for the
    /// empty name.
    pub fn output(
        &mut self,
        name: &str,
        value: &str,
        dtype: DataType,
        dims: &[Dimension],
    ) -> Result<(), Error> {
        if name.is_empty() {
            return Err(Error::EmptyName);
        }
        if !self.values.contains(value) {
            return Err(Error::UndefinedOutput {
                value: value.to_owned(),
            });
        }
        if self.graph.output.iter().any(|output| output.name == name) {
            return Err(Error::DuplicateOutput {
                value: name.to_owned(),
            });
        }
        if name != value {
            self.node_named_outputs(Node::new("Identity", &[value]), &[name])?;
        }
        let value = ValueInfo {
            name: name.to_owned(),
            dtype,
            dims: dims.to_vec(),
        };
        self.graph.output.push(value.to_proto());
        Ok(())
    }

    /// Appends a node and returns the names of its outputs, which are fresh.
    ///
    /// # Errors
    ///
    /// [`Error::UndefinedInput`] when it reads a value that is not defined yet.
    pub fn node(&mut self, node: Node) -> Result<Vec<String>, Error> {
        let outputs = vec![Output::Fresh; node.outputs];
        self.node_with_outputs(node, &outputs)
    }

    /// Appends a node whose outputs have exactly these names, and returns them. `""` leaves an optional output
    /// out. `node.outputs` counts for nothing here.
    ///
    /// # Errors
    ///
    /// As [`GraphBuilder::node`], and [`Error::DuplicateValue`] when an output has the name of another value.
    pub fn node_named_outputs(&mut self, node: Node, names: &[&str]) -> Result<Vec<String>, Error> {
        let outputs: Vec<Output> = names.iter().map(|&name| name.into()).collect();
        self.node_with_outputs(node, &outputs)
    }

    /// Appends a node each of whose outputs is named as said, and returns their names; that of an absent one
    /// is `""`. `node.outputs` counts for nothing here.
    ///
    /// # Errors
    ///
    /// As [`GraphBuilder::node_named_outputs`].
    pub fn node_with_outputs(&mut self, node: Node, outputs: &[Output]) -> Result<Vec<String>, Error> {
        let name = self
            .nodes
            .fresh(&format!("{}/{}", path(&self.scopes), node.op_type));
        self.check_inputs(&name, &node.inputs)?;
        let mut names = Vec::with_capacity(outputs.len());
        for (index, output) in outputs.iter().enumerate() {
            names.push(self.define_output(&name, index, output)?);
        }
        self.graph.node.push(NodeProto {
            name,
            op_type: node.op_type,
            domain: node.domain,
            input: without_trailing_absent(node.inputs),
            output: without_trailing_absent(names.clone()),
            attribute: node.attributes.into_iter().map(Attribute::into_proto).collect(),
            ..Default::default()
        });
        Ok(names)
    }

    /// Appends a node of a standard operator with one output, and returns the output's name.
    ///
    /// # Errors
    ///
    /// As [`GraphBuilder::node`].
    pub fn op(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        attributes: impl IntoIterator<Item = Attribute>,
    ) -> Result<String, Error> {
        self.op_in("", op_type, inputs, attributes)
    }

    /// Appends a node of another domain's operator with one output, and returns the output's name.
    ///
    /// # Errors
    ///
    /// As [`GraphBuilder::node`].
    pub fn op_in(
        &mut self,
        domain: &str,
        op_type: &str,
        inputs: &[&str],
        attributes: impl IntoIterator<Item = Attribute>,
    ) -> Result<String, Error> {
        let node = Node::in_domain(domain, op_type, inputs).with(attributes);
        Ok(self.node_with_outputs(node, &[Output::Fresh])?.concat())
    }

    /// Takes back the node that was appended last, if it is of this standard operator and all that it makes is `value`, and
    /// returns what it reads: for a caller who sees only afterwards that this node and the next are one operator.
    ///
    /// The name of the value is free again.
    pub fn take_back(&mut self, op_type: &str, value: &str) -> Option<Vec<String>> {
        let is_it = |node: &mut NodeProto| {
            node.op_type == op_type && node.domain.is_empty() && node.output == [value]
        };
        let node = self.graph.node.pop_if(is_it)?;
        self.nodes.release(&node.name);
        self.values.release(value);
        Some(node.input)
    }

    /// Makes the graph a model.
    ///
    /// # Errors
    ///
    /// [`Error::MissingOpset`] for an operator of a domain that is not imported, [`Error::ModelTooLarge`] when
    /// the graph with its inline tensors passes the 2 GiB of the format.
    pub fn finish(mut self) -> Result<Model, Error> {
        self.graph.initializer = self.initializers.into_protos();
        self.model.graph = MessageField::some(self.graph);
        check(&self.model)?;
        Model::from_proto(self.model)
    }

    fn check_inputs(&self, node: &str, inputs: &[String]) -> Result<(), Error> {
        let undefined = inputs
            .iter()
            .find(|input| !input.is_empty() && !self.values.contains(input));
        match undefined {
            Some(value) => Err(Error::UndefinedInput {
                node: node.to_owned(),
                value: value.clone(),
            }),
            None => Ok(()),
        }
    }

    fn define_output(&mut self, node: &str, index: usize, output: &Output) -> Result<String, Error> {
        match output {
            Output::Fresh => Ok(self.values.fresh(&format!("{node}_output_{index}"))),
            Output::Absent => Ok(String::new()),
            Output::Named(name) => {
                self.define(name, || format!("node `{node}`"))?;
                Ok(name.clone())
            }
        }
    }

    fn define(&mut self, value: &str, definer: impl FnOnce() -> String) -> Result<(), Error> {
        if value.is_empty() {
            return Err(Error::EmptyName);
        }
        if self.values.claim(value) {
            return Ok(());
        }
        Err(Error::DuplicateValue {
            value: value.to_owned(),
            definer: definer(),
        })
    }
}

fn path(scopes: &[String]) -> String {
    scopes.iter().flat_map(|scope| ["/", scope.as_str()]).collect()
}

fn without_trailing_absent(mut names: Vec<String>) -> Vec<String> {
    let present = names
        .iter()
        .rposition(|name| !name.is_empty())
        .map_or(0, |last| last + 1);
    names.truncate(present);
    names
}

#[cfg(test)]
mod tests;
