//! ONNX models: what they declare, and their way to disk and back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use onnx_protobuf::{GraphProto, ModelProto, NodeProto};
use protobuf::Message as _;

use crate::{Error, FileDigest, Initializer, Storage, ValueInfo, write_atomically};

/// A whole ONNX model, but for the external data that it points to.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    proto: ModelProto,
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    initializers: Vec<Initializer>,
}

/// A node of a [`Model`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeInfo<'a> {
    /// The node's name, unique in models that [`GraphBuilder`](crate::GraphBuilder) made.
    pub name: &'a str,
    /// The operator, such as `MatMul`.
    pub op_type: &'a str,
    /// The operator's domain; empty for the standard operators.
    pub domain: &'a str,
    /// The values it reads; an empty one is an optional input left out.
    pub inputs: &'a [String],
    /// The values it defines; an empty one is an optional output left out.
    pub outputs: &'a [String],
}

impl Model {
    pub(crate) fn from_proto(proto: ModelProto) -> Result<Self, Error> {
        let graph = proto.graph.as_ref().ok_or(Error::MissingGraph)?;
        let values = |protos: &[_]| protos.iter().map(ValueInfo::from_proto).collect::<Result<_, _>>();
        let inputs = values(&graph.input)?;
        let outputs = values(&graph.output)?;
        let initializers = graph
            .initializer
            .iter()
            .map(Initializer::from_proto)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            proto,
            inputs,
            outputs,
            initializers,
        })
    }

    /// Reads a model, and leaves the external data where it is.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the file cannot be read; [`Error::Model`] when it is no ONNX model, or one with an
    /// input, output or initializer that is not a tensor of a [`DataType`](crate::DataType).
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(Error::io("read", path))?;
        ModelProto::parse_from_bytes(&bytes)
            .map_err(Error::Protobuf)
            .and_then(Self::from_proto)
            .map_err(|source| Error::Model {
                path: path.to_owned(),
                source: Box::new(source),
            })
    }

    /// Writes the model as [`write_atomically`] does. Equal models make equal files.
    ///
    /// # Errors
    ///
    /// Those of [`write_atomically`], and [`Error::Model`] when the model cannot be put in protobuf form.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<FileDigest, Error> {
        let path = path.as_ref();
        let bytes = self.proto.write_to_bytes().map_err(|source| Error::Model {
            path: path.to_owned(),
            source: Box::new(Error::Protobuf(source)),
        })?;
        write_atomically(path, &bytes)
    }

    /// How many nodes the graph has, those inside other nodes' attributes not counted.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.graph().node.len()
    }

    /// The nodes, in the order of the file.
    pub fn nodes(&self) -> impl Iterator<Item = NodeInfo<'_>> {
        self.graph().node.iter().map(node_info)
    }

    /// How often each operator occurs. Those of other than the standard domain have it before their name, as
    /// in `com.microsoft.MatMulNBits`.
    #[must_use]
    pub fn op_types(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for node in self.nodes() {
            let name = match node.domain {
                "" | "ai.onnx" => node.op_type.to_owned(),
                domain => format!("{domain}.{}", node.op_type),
            };
            *counts.entry(name).or_default() += 1;
        }
        counts
    }

    /// The version of each domain's operators that the model imports; the standard domain is `""`.
    #[must_use]
    pub fn opsets(&self) -> BTreeMap<String, i64> {
        self.proto
            .opset_import
            .iter()
            .map(|opset| (opset.domain.clone(), opset.version))
            .collect()
    }

    /// The version of the file format.
    #[must_use]
    pub fn ir_version(&self) -> i64 {
        self.proto.ir_version
    }

    /// The graph's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.graph().name
    }

    /// The name and version of the program that made the model.
    #[must_use]
    pub fn producer(&self) -> (&str, &str) {
        (&self.proto.producer_name, &self.proto.producer_version)
    }

    /// The text that describes the model to people.
    #[must_use]
    pub fn doc_string(&self) -> &str {
        &self.proto.doc_string
    }

    /// The text that the model keeps under `key`.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.proto
            .metadata_props
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| entry.value.as_str())
    }

    /// What a runtime must feed, in the order of the file.
    #[must_use]
    pub fn inputs(&self) -> &[ValueInfo] {
        &self.inputs
    }

    /// What a runtime can fetch, in the order of the file.
    #[must_use]
    pub fn outputs(&self) -> &[ValueInfo] {
        &self.outputs
    }

    /// The initializers, in the order of the file.
    pub fn initializers(&self) -> impl Iterator<Item = &Initializer> {
        self.initializers.iter()
    }

    /// The elements of an inline initializer, as [`Tensor::new`](crate::Tensor::new) takes them.
    ///
    /// `None` when there is none of this name, when it is external, and when another program stored it as
    /// numbers of protobuf instead of bytes.
    #[must_use]
    pub fn inline_bytes(&self, name: &str) -> Option<&[u8]> {
        let place = self
            .initializers
            .iter()
            .position(|initializer| initializer.name == name)?;
        let initializer = &self.initializers[place];
        let bytes = self.graph().initializer[place].raw_data.as_slice();
        let whole = initializer.dtype.byte_length(&initializer.dims) == Some(bytes.len() as u64);
        (initializer.storage == Storage::Inline && whole).then_some(bytes)
    }

    /// The files that the initializers point to, relative to the model's folder.
    #[must_use]
    pub fn external_files(&self) -> BTreeSet<String> {
        self.initializers
            .iter()
            .filter_map(|initializer| match &initializer.storage {
                Storage::External(location) => Some(location.file.clone()),
                Storage::Inline => None,
            })
            .collect()
    }

    fn graph(&self) -> &GraphProto {
        // Present: `from_proto` made sure. A missing one would read as empty.
        &self.proto.graph
    }
}

fn node_info(node: &NodeProto) -> NodeInfo<'_> {
    NodeInfo {
        name: &node.name,
        op_type: &node.op_type,
        domain: &node.domain,
        inputs: &node.input,
        outputs: &node.output,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Attribute, DataType, ExternalLocation, GraphBuilder, Node, PRODUCER, file_digest, partial::names_in,
    };

    fn model() -> Model {
        let mut graph = GraphBuilder::new("g");
        graph.opset("", 18).opset("com.microsoft", 1).metadata("k", "v");
        let dims = ["batch".into(), 2.into()];
        graph.input("x", DataType::Float32, &dims).unwrap();
        graph
            .initializer_inline("b", DataType::Float32, &[2], vec![1; 8])
            .unwrap();
        for (name, offset) in [("w", 0), ("v", 4096)] {
            let location = ExternalLocation {
                file: "w.data".to_owned(),
                offset,
                length: 16,
            };
            graph
                .initializer_external(name, DataType::Float32, &[2, 2], location)
                .unwrap();
        }
        let product = graph.op("MatMul", &["x", "w"], []).unwrap();
        let product = graph.op("MatMul", &[&product, "v"], []).unwrap();
        let sum = graph.op("Add", &[&product, "b"], []).unwrap();
        let node = Node::in_domain("com.microsoft", "QuickGelu", &[&sum]);
        graph
            .node_named_outputs(node.with([Attribute::float("alpha", 0.0)]), &["y"])
            .unwrap();
        graph.output("y", "y", DataType::Float32, &dims).unwrap();
        graph.finish().unwrap()
    }

    #[test]
    fn model_survives_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let model = model();
        let written = model.write(&path).unwrap();
        assert_eq!(written, file_digest(&path).unwrap());
        assert_eq!(names_in(folder.path()), ["model.onnx"]);
        let read = Model::read(&path).unwrap();
        assert_eq!(read, model);
        assert_eq!(read.write(&path).unwrap(), written);
    }

    #[test]
    fn model_tells_what_it_declares() {
        let model = model();
        assert_eq!(
            (model.name(), model.node_count(), model.ir_version()),
            ("g", 4, 8)
        );
        assert_eq!(model.producer(), (PRODUCER, env!("CARGO_PKG_VERSION")));
        assert_eq!(
            model.opsets(),
            [(String::new(), 18), ("com.microsoft".to_owned(), 1)].into()
        );
        let counts = [("Add", 1), ("MatMul", 2), ("com.microsoft.QuickGelu", 1)];
        assert_eq!(
            model.op_types(),
            counts.map(|(name, count)| (name.to_owned(), count)).into()
        );
        let input = ValueInfo {
            name: "x".to_owned(),
            dtype: DataType::Float32,
            dims: vec!["batch".into(), 2.into()],
        };
        assert_eq!(model.inputs(), std::slice::from_ref(&input));
        assert_eq!(
            model.outputs(),
            [ValueInfo {
                name: "y".to_owned(),
                ..input
            }]
        );
        assert_eq!(model.external_files(), ["w.data".to_owned()].into());
        let names: Vec<&str> = model
            .initializers()
            .map(|initializer| initializer.name.as_str())
            .collect();
        assert_eq!(names, ["b", "w", "v"]);
        assert_eq!(model.inline_bytes("b"), Some(&[1; 8][..]));
        assert_eq!((model.inline_bytes("w"), model.inline_bytes("x")), (None, None));
    }

    #[test]
    fn files_that_are_no_model_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let missing = Model::read(&path).unwrap_err();
        assert!(
            matches!(&missing, Error::Io { path: named, .. } if *named == path),
            "{missing}"
        );

        let cause = |contents: &[u8]| {
            fs::write(&path, contents).unwrap();
            match Model::read(&path).unwrap_err() {
                Error::Model { path: named, source } if named == path => *source,
                error => panic!("{error}"),
            }
        };
        assert!(matches!(cause(b""), Error::MissingGraph));
        assert!(matches!(cause(b"{\"not\": \"onnx\"}"), Error::Protobuf(_)));
        // Cut short by one byte.
        let whole = model().proto.write_to_bytes().unwrap();
        assert!(matches!(cause(&whole[..whole.len() - 1]), Error::Protobuf(_)));
    }

    #[test]
    fn initializer_of_an_unknown_type_is_refused() {
        let mut proto = model().proto;
        proto.graph.mut_or_insert_default().initializer[0].data_type = 8;
        let error = Model::from_proto(proto).unwrap_err();
        assert!(
            matches!(error, Error::UnsupportedDataType { code: 8, .. }),
            "{error}"
        );
    }
}
