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
    /// Maps an I/O error of `action` on `path`.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
