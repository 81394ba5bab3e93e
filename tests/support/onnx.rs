use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use onnx_protobuf::tensor_proto::DataLocation;
use onnx_protobuf::tensor_shape_proto::dimension::Value as Dimension;
use onnx_protobuf::{GraphProto, Message, ModelProto, TensorProto, ValueInfoProto};

/// A graph's file as it is on the disk, read without any code of this project.
pub struct OnnxFile {
    path: PathBuf,
    graph: GraphProto,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Border {
    /// Its name.
    pub name: String,
    /// Its element type, as the format numbers them: 1 is f32, 7 is i64, 10 is f16.
    pub element: i32,
    /// Sizes and symbols.
    pub dims: Vec<String>,
}

impl OnnxFile {
    /// The graph `name` of a bundle.
    pub fn read(bundle: &Path, name: &str) -> Self {
        let path = bundle.join("onnx").join(format!("{name}.onnx"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let model = ModelProto::parse_from_bytes(&bytes).unwrap();
        let graph = model.graph.unwrap();
        Self { path, graph }
    }

    /// Inputs in order.
    pub fn inputs(&self) -> Vec<Border> {
        self.graph.input.iter().map(border).collect()
    }

    /// Outputs in order.
    pub fn outputs(&self) -> Vec<Border> {
        self.graph.output.iter().map(border).collect()
    }

    /// Whether an input has a value where it is not fed.
    pub fn has_value(&self, input: &str) -> bool {
        self.graph.initializer.iter().any(|tensor| tensor.name == input)
    }

    /// Operators that occur.
    pub fn operators(&self) -> BTreeSet<&str> {
        self.graph.node.iter().map(|node| node.op_type.as_str()).collect()
    }

    /// Data files that initializers stand in.
    pub fn data_files(&self) -> BTreeSet<String> {
        let external = self.graph.initializer.iter().filter(|tensor| is_external(tensor));
        external
            .map(|tensor| entries(tensor)["location"].clone())
            .collect()
    }

    /// Initializers of f32 by name.
    pub fn weights(&self) -> BTreeMap<String, Vec<f32>> {
        let floats = self
            .graph
            .initializer
            .iter()
            .filter(|tensor| tensor.data_type == 1);
        floats
            .map(|tensor| (tensor.name.clone(), self.floats(tensor)))
            .collect()
    }

    fn floats(&self, tensor: &TensorProto) -> Vec<f32> {
        let bytes = if is_external(tensor) {
            let entries = entries(tensor);
            let number = |key: &str| entries[key].parse::<usize>().unwrap();
            let data = std::fs::read(self.path.with_file_name(&entries["location"])).unwrap();
            data[number("offset")..][..number("length")].to_vec()
        } else {
            tensor.raw_data.clone()
        };
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect()
    }
}

fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location.enum_value() == Ok(DataLocation::EXTERNAL)
}

fn entries(tensor: &TensorProto) -> BTreeMap<String, String> {
    let pairs = tensor.external_data.iter();
    pairs
        .map(|entry| (entry.key.clone(), entry.value.clone()))
        .collect()
}

fn border(value: &ValueInfoProto) -> Border {
    let tensor = value.type_.tensor_type();
    let dims = tensor.shape.dim.iter().map(|dim| match &dim.value {
        Some(Dimension::DimValue(size)) => size.to_string(),
        Some(Dimension::DimParam(name)) => name.clone(),
        _ => "?".to_owned(),
    });
    Border {
        name: value.name.clone(),
        element: tensor.elem_type,
        dims: dims.collect(),
    }
}
