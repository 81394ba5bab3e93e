//! What can go wrong.

use std::{io, path::PathBuf};

use crate::DataType;

/// Why a graph, a model or a file was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused a file operation; a full disk among other things.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was attempted, such as `create`.
        action: &'static str,
        /// The file or folder it was attempted on.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A path has no file name, or one that is not Unicode and therefore cannot stand in a model.
    #[error("`{}` has no unicode file name", path.display())]
    FileName {
        /// The path.
        path: PathBuf,
    },
    /// A file is not an ONNX model that this crate can hold.
    #[error("cannot use the model `{}`", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with its contents.
        source: Box<Error>,
    },
    /// Bytes are not an ONNX model in protobuf form, or a model cannot be put in it.
    #[error("malformed protobuf message")]
    Protobuf(#[from] protobuf::Error),
    /// A model has no graph.
    #[error("the model has no graph")]
    MissingGraph,
    /// A model's protobuf message exceeds the format's limit; weights belong in external data.
    #[error("the model takes `{bytes}` bytes without its external data, and the format allows `{limit}`")]
    ModelTooLarge {
        /// The length of the message.
        bytes: u64,
        /// The longest that protobuf allows.
        limit: u64,
    },

    /// A node reads a value that no input, initializer or earlier node defines.
    #[error("node `{node}` reads `{value}`, which nothing before it defines")]
    UndefinedInput {
        /// The node.
        node: String,
        /// The value it reads.
        value: String,
    },
    /// The graph declares an output that nothing defines.
    #[error("the graph has the output `{value}`, which nothing defines")]
    UndefinedOutput {
        /// The output.
        value: String,
    },
    /// Two definitions of one value.
    #[error("`{value}` is defined twice, the second time by {definer}")]
    DuplicateValue {
        /// The value.
        value: String,
        /// What the second definition is, such as ``node `/Add` ``.
        definer: String,
    },
    /// The graph declares one output twice.
    #[error("the graph has the output `{value}` twice")]
    DuplicateOutput {
        /// The output.
        value: String,
    },
    /// An input, output or initializer has the empty name.
    #[error("an input, output or initializer of the graph has no name")]
    EmptyName,
    /// A node's operator belongs to a domain of which the model imports no operator set.
    #[error("node `{node}` needs an operator set of the domain `{domain}`, and none is imported")]
    MissingOpset {
        /// The node.
        node: String,
        /// The domain; empty for the standard operators.
        domain: String,
    },

    /// An initializer was asked for twice, differently.
    #[error("initializer `{name}` is {first}, and cannot also be {second}")]
    InitializerConflict {
        /// The initializer.
        name: String,
        /// What it is.
        first: String,
        /// What was asked for afterwards.
        second: String,
    },
    /// A tensor has a negative dimension, or more bytes than 64 bits can count.
    #[error("`{name}` cannot have the shape `{dims:?}`")]
    Shape {
        /// The tensor.
        name: String,
        /// The shape.
        dims: Vec<i64>,
    },
    /// A tensor's data is not as long as its type and shape say.
    #[error("`{name}` of `{dtype}` and shape `{dims:?}` takes `{expected}` bytes, not `{actual}`")]
    DataLength {
        /// The tensor.
        name: String,
        /// The type of its elements.
        dtype: DataType,
        /// Its shape.
        dims: Vec<i64>,
        /// The bytes that type and shape ask for.
        expected: u64,
        /// The bytes there are.
        actual: u64,
    },
    /// Floating-point values were to be stored in a type that is not floating-point.
    #[error("`{dtype}` does not hold floating-point values")]
    NotFloat {
        /// The type.
        dtype: DataType,
    },
    /// A tensor's elements are of a type that this crate leaves out.
    #[error("`{value}` has elements of the unsupported type `{code}`")]
    UnsupportedDataType {
        /// The input, output or initializer.
        value: String,
        /// The number that stands for the type in the file.
        code: i32,
    },
    /// An input or output is not a tensor with a shape.
    #[error("`{value}` is not a tensor of known rank")]
    UnsupportedType {
        /// The input or output.
        value: String,
    },

    /// An initializer's file is not below the model's folder, or has no name.
    #[error("initializer `{name}` points to `{file}`, which is not a file below the model's folder")]
    ExternalPath {
        /// The initializer.
        name: String,
        /// The file.
        file: String,
    },
    /// An initializer's place in its file is not given by numbers.
    #[error("initializer `{name}` has the {key} `{text}` in its external data")]
    ExternalNumber {
        /// The initializer.
        name: String,
        /// `offset` or `length`.
        key: &'static str,
        /// What stands in the place of the number.
        text: String,
    },
    /// More bytes came for a tensor than were announced.
    #[error("a tensor of `{length}` bytes in `{}` was given `{excess}` bytes too many", path.display())]
    TensorOverrun {
        /// The external file.
        path: PathBuf,
        /// The length announced.
        length: u64,
        /// How many bytes are too many.
        excess: u64,
    },
    /// A tensor was left before all announced bytes came.
    #[error("a tensor of `{length}` bytes in `{}` still lacks `{missing}` bytes", path.display())]
    TensorIncomplete {
        /// The external file.
        path: PathBuf,
        /// The length announced.
        length: u64,
        /// How many bytes did not come.
        missing: u64,
    },
    /// The file's length would not fit in 64 bits.
    #[error("`{}` cannot hold another tensor of `{length}` bytes", path.display())]
    FileTooLarge {
        /// The external file.
        path: PathBuf,
        /// The length announced.
        length: u64,
    },
    /// An external file was written to after an earlier write had failed.
    #[error("writing `{}` has failed before", path.display())]
    WriterFailed {
        /// The external file.
        path: PathBuf,
    },
}

impl Error {
    /// For `map_err` on the result of a file operation.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
