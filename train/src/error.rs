use std::path::PathBuf;

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
    /// A device cannot be used.
    #[error("device `{device}`: {message}")]
    Device {
        /// Its name, as given.
        device: String,
        /// What is wrong.
        message: String,
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
