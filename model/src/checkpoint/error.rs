use std::path::PathBuf;

/// Why a checkpoint cannot be used. Every message names the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The folder holds no weights.
    #[error("`{0}` holds neither `model.safetensors` nor `model.safetensors.index.json`")]
    NoWeights(PathBuf),
    /// The index names a shard that is not there.
    #[error("`{index}` names the shard `{shard}`, which is missing; fetch it again")]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The shard.
        shard: String,
    },
    /// A file cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what its name says, is cut short, or its header contradicts its contents.
    #[error("`{path}` is not a sound safetensors file: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A weight that the configuration calls for is in no file.
    #[error("the checkpoint `{dir}` has no tensor `{name}`")]
    MissingWeight {
        /// The checkpoint.
        dir: PathBuf,
        /// Canonical name.
        name: String,
    },
    /// A weight has another shape than the configuration says.
    #[error("tensor `{name}` in `{path}` has shape {got:?}; the configuration calls for {expected:?}")]
    WeightShape {
        /// The file.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// What the configuration calls for.
        expected: Vec<usize>,
        /// What the file holds.
        got: Vec<usize>,
    },
    /// A weight is stored in a type that is no float of 16 or 32 bits.
    #[error("tensor `{name}` in `{path}` has type {got}; supported are F32, F16 and BF16")]
    WeightType {
        /// The file.
        path: PathBuf,
        /// Name in the file.
        name: String,
        /// What the file holds.
        got: String,
    },
    /// An adapter cannot be used.
    #[error("the adapter `{path}` cannot be used: {message}")]
    Adapter {
        /// The adapter's file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}
