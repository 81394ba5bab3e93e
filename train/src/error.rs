use std::path::PathBuf;

/// What the Candle side returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong on the Candle side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint or the adapter cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] lwv_model::CheckpointError),
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] lwv_model::ConfigError),
    /// Images or positions do not fit.
    #[error(transparent)]
    Processor(#[from] lwv_processor::Error),
    /// Candle refuses a computation.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
    /// The network asks for a weight that was not loaded.
    #[error("the network has no weight `{0}`")]
    UnknownParameter(String),
    /// Everything is frozen.
    #[error("nothing is left to train: every part of the model is frozen, or no layer matches `lora-target`")]
    NothingToTrain,
    /// An adapter that training should go on with is of another kind.
    #[error(
        "the adapter `{path}` has no update of rank {rank} for `{name}`; start from it with its own rank and targets"
    )]
    AdapterMismatch {
        /// The adapter's file.
        path: PathBuf,
        /// The weight.
        name: String,
        /// The rank that was asked for.
        rank: usize,
    },
    /// The model takes no images.
    #[error("the model has no vision tower, but {0} images were given")]
    NoVisionTower(usize),
    /// A GGUF file cannot be made into a checkpoint.
    #[error("`{path}`: {message}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A file cannot be read or written.
    #[error("`{path}`: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
