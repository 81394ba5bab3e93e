use std::path::PathBuf;

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint or the adapter cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] lwv_model::CheckpointError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] lwv_model::ConfigError),
    /// Tokenizer, template or image settings cannot be used.
    #[error(transparent)]
    Processor(#[from] lwv_processor::Error),
    /// A graph cannot be built, or a file of it not be written.
    #[error(transparent)]
    Onnx(#[from] lwv_onnx::Error),
    /// The checkpoint lacks a file without which no bundle can be used.
    #[error("the checkpoint `{dir}` has no `{file}`: {reason}")]
    MissingFile {
        /// The checkpoint.
        dir: PathBuf,
        /// The file's name.
        file: &'static str,
        /// What it is needed for.
        reason: &'static str,
    },
    /// A JSON file of the checkpoint cannot be read.
    #[error("`{path}` is not valid JSON: {message}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        message: String,
    },
    /// A file or folder cannot be read or written.
    #[error("cannot {action} `{path}`: {source}")]
    Io {
        /// What was tried, such as `create`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The place of the bundle is taken by something that is no bundle.
    #[error("`{0}` exists and is not a bundle; choose another folder or remove it")]
    NotABundle(PathBuf),
    /// A weight cannot be quantized.
    #[error("cannot quantize `{weight}`: {source}")]
    Quantize {
        /// Canonical name.
        weight: String,
        /// Why.
        source: lwv_quantize::Error,
    },
    /// What was asked for needs the checkpoint to be run, which this build cannot.
    #[error("{0} needs feature `verify`, which this build has not")]
    NoEngine(&'static str),
    /// The source has no floats.
    #[error("`{0}` holds integers already; quantize the checkpoint, or a bundle in f32 or fp16")]
    Quantized(PathBuf),
    /// A setting that cannot be.
    #[error("{0}: {1}")]
    Setting(&'static str, String),
    /// The bundle has not passed the comparison with its checkpoint.
    #[error(
        "the bundle differs from the checkpoint by more than its precision explains and was not kept: {failures}; see \
         `{report}`, or keep it with --force{worst}"
    )]
    Differs {
        /// What is outside its bounds.
        failures: String,
        /// The parity report.
        report: PathBuf,
        /// Which parts lose most, where that is known.
        worst: String,
    },
    /// The bundle was not exported for adapters.
    #[error(
        "the bundle `{0}` takes no adapters when it runs; export it again with --runtime-adapters, or merge the adapter with --adapter"
    )]
    NoAdapterInputs(PathBuf),
    /// An adapter file cannot be made.
    #[error("`{}` cannot be written: {source}", path.display())]
    AdapterFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: lwv_model::AdapterFileError,
    },
    /// The checkpoint cannot be run on samples.
    #[error("calibration: {0}")]
    Calibration(String),
    /// Engines cannot be built.
    #[error("`{}` cannot build engines{advice}: {words}", python.display())]
    Compiler {
        /// The interpreter.
        python: PathBuf,
        /// What to do about it.
        advice: String,
        /// What it said.
        words: String,
    },
    /// TensorRT would refuse the graph.
    #[error("graph `{graph}`, node `{node}`: not for TensorRT {version}: {reason}")]
    Refused {
        /// Name of the graph.
        graph: String,
        /// Name of the node.
        node: String,
        /// The version that should take it.
        version: lwv_model::TensorRtVersion,
        /// What is wrong.
        reason: String,
    },
    /// An operation was given a tensor it cannot take: the network and the exporter disagree.
    #[error("operation `{operation}` cannot take {got}")]
    Operand {
        /// The operation.
        operation: &'static str,
        /// What it was given.
        got: String,
    },
    /// Running the bundle or the checkpoint for the parity report failed.
    #[cfg(feature = "verify")]
    #[error("parity report: {0}")]
    Verify(String),
}

impl Error {
    /// Maps an error of quantizing `weight`.
    pub(crate) fn quantize(weight: &str) -> impl FnOnce(lwv_quantize::Error) -> Self {
        let weight = weight.to_owned();
        move |source| Self::Quantize { weight, source }
    }

    /// Maps an I/O error of `action` on `path`.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
