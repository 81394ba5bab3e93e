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
    /// An observer has seen what it wanted to see.
    #[error("the computation was ended by who watched it")]
    Ended,
    /// The network asks for a weight that was not loaded.
    #[error("the network has no weight `{0}`")]
    UnknownParameter(String),
    /// The dataset cannot be used.
    #[error(transparent)]
    Data(Box<lwv_data::Error>),
    /// No sample is left to train on.
    #[error("no sample can be trained on: {0}")]
    NoSamples(String),
    /// No sample is left to evaluate on.
    #[error("no sample of `eval-dataset` can be evaluated on: {0}")]
    NothingHeldOut(String),
    /// A metrics file has no loss.
    #[error("`{0}` has no `loss` and no `eval_loss`; give a file that `lwv-train sft --metrics` has written")]
    NoLoss(PathBuf),
    /// Samples cannot be used, and none may be left out.
    #[error("{0}; without `--strict` they are left out")]
    Shortage(String),
    /// The user has interrupted.
    #[error("interrupted")]
    Interrupted,
    /// The loss or a gradient is not a number.
    #[error(
        "step {step}: the {what} is {value}; the samples are {samples}. The weights are as they were before this step"
    )]
    NotFinite {
        /// The step, from 1.
        step: usize,
        /// Loss or gradient norm.
        what: &'static str,
        /// What it is.
        value: f64,
        /// Where the samples of the batch stand.
        samples: String,
    },
    /// The reference thinks of a pair what is no number.
    #[error(
        "the reference gives a token of `{sample}` the log-probability {value}; look for weights that are no numbers"
    )]
    ReferenceNotFinite {
        /// Where the pair stands.
        sample: String,
        /// What it is.
        value: f64,
    },
    /// A pair that the reference was not asked about.
    #[error(
        "the reference knows nothing of `{0}`, so a picture has changed since; remove `reference.json` and go on"
    )]
    NoReference(String),
    /// Another process asks the same reference.
    #[error("`{0}` is being filled by another training; wait for it, or choose another `--reference-cache`")]
    ReferenceInUse(PathBuf),
    /// A training cannot be gone on with.
    #[error("`{path}`: {message}")]
    Resume {
        /// The checkpoint.
        path: PathBuf,
        /// Why not.
        message: String,
    },
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
    /// A device cannot be used.
    #[error("device `{device}`: {message}")]
    Device {
        /// Its name, as given.
        device: String,
        /// What is wrong.
        message: String,
    },
    /// A model that there is no way back through.
    #[error(
        "models of the family `{0}` cannot be trained: their vision tower has no backward pass here; they are exported and run"
    )]
    Untrainable(&'static str),
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
    /// A recipe file is not TOML, has a setting that there is not, or one of another type.
    #[error("`{path}`, line {line}: {message}")]
    RecipeFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A setting that has no default was not given.
    #[error("`{0}` is not set; give `--{0}` or set it in the recipe")]
    MissingSetting(&'static str),
    /// A setting's value cannot be used.
    #[error("`{field}` is `{value}`{origin}: {reason}")]
    Setting {
        /// The setting.
        field: String,
        /// Its value.
        value: String,
        /// The file and line that set it, where it was one.
        origin: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
    /// Another trainer cannot train this as we do.
    #[error("LLaMA-Factory cannot train the same: {0}")]
    Emit(String),
    /// The place of an output is taken by something else.
    #[error(
        "`{0}` exists and is neither a checkpoint, an adapter nor a folder of `--emit`; choose another folder or remove it"
    )]
    Occupied(PathBuf),
    /// A weight cannot be written.
    #[error("weight `{name}`: {message}")]
    Weight {
        /// Canonical name.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A JSON file of a checkpoint cannot be read.
    #[error("`{path}` is not valid JSON: {message}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        message: String,
    },
}

impl From<lwv_data::Error> for Error {
    fn from(error: lwv_data::Error) -> Self {
        // Boxed, as it is large, and every result would be.
        Self::Data(Box::new(error))
    }
}

impl Error {
    /// Maps an I/O error on `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
