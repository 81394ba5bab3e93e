use std::fmt;
use std::path::PathBuf;

use lwv_model::{AdapterFileError, ConfigError};

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in words that name the file, graph, tensor or setting and say what to do.
///
/// [`kind`](Self::kind) is for programs; the text is for people and may change.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error {
    inner: Box<Inner>,
}

/// Kinds of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// ONNX Runtime's shared library is missing, too old, or none.
    Library,
    /// The bundle lacks a file, or a file is not what the manifest says.
    Bundle,
    /// An adapter cannot be read, or is not for the bundle.
    Adapter,
    /// The chosen device cannot be used.
    Provider,
    /// The cache would be larger than its budget.
    Memory,
    /// The prompt cannot be made, or is longer than the context.
    Prompt,
    /// A setting has a value that cannot be used.
    Setting,
    /// ONNX Runtime failed while computing.
    Inference,
    /// The model's output cannot be used.
    Logits,
    /// A token was asked for that is not there.
    Rewind,
    /// A draft cannot be read, written or gone on with.
    Draft,
    /// A plan cannot be read.
    Plan,
    /// Cancelled while loading.
    Cancelled,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Inner {
    #[error(
        "ONNX Runtime's shared library was not found; looked for it at:\n{}\n\
         get `{name}` from the package `onnxruntime` of PyPI (folder `onnxruntime/capi`), or run \
         `scripts/quickstart`, and name it with `--onnxruntime FILE` or `LWV_ONNXRUNTIME`",
        list(places)
    )]
    LibraryNotFound { name: String, places: Vec<String> },
    #[error("`{}` cannot be used as ONNX Runtime's shared library: {message}", path.display())]
    LibraryUnusable { path: PathBuf, message: String },

    #[error("`{}` is no bundle: {source}", path.display())]
    Manifest { path: PathBuf, source: ConfigError },
    #[error("`{}` is missing, but `lwv.json` lists it; copy the bundle again or export it again", path.display())]
    MissingFile { path: PathBuf },
    #[error("`{}` has {found} bytes, but `lwv.json` says {expected}; copy the bundle again", path.display())]
    FileSize {
        path: PathBuf,
        found: u64,
        expected: u64,
    },
    #[error("`{}` has SHA-256 `{found}`, but `lwv.json` says `{expected}`; copy the bundle again", path.display())]
    FileHash {
        path: PathBuf,
        found: String,
        expected: String,
    },
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("`lwv.json` has no graph `{graph}`, which `{family}` needs; export the checkpoint again")]
    MissingGraph { graph: String, family: String },
    #[error(
        "`lwv.json` is for family `{manifest}`, but `config.json` is `{config}`; export the checkpoint again"
    )]
    Family { manifest: String, config: String },
    #[error("graph `{graph}`, {what} `{tensor}`: {problem}; export the checkpoint again with this version")]
    Contract {
        graph: String,
        what: &'static str,
        tensor: String,
        problem: String,
    },

    #[error(
        "the bundle `{}` takes no adapters; export it with `--runtime-adapters`, or merge the adapter when exporting (`--adapter`)",
        bundle.display()
    )]
    NoAdapterInputs { bundle: PathBuf },
    #[error("cannot read the adapter `{}`: {source}", path.display())]
    ReadAdapter { path: PathBuf, source: std::io::Error },
    #[error("the adapter `{}` cannot be used: {source}; make it again with `lwv-export adapter`", path.display())]
    AdapterFile { path: PathBuf, source: AdapterFileError },
    #[error(
        "the adapter `{}` is not for this bundle: {problem}; make it for this one with `lwv-export adapter`",
        path.display()
    )]
    AdapterMismatch { path: PathBuf, problem: String },

    #[error("device `{device}`: {reason}")]
    Provider { device: String, reason: String },

    #[error(
        "the cache for {tokens} tokens needs {} MiB, but its budget is {} MiB; raise the budget \
         (`--kv-budget-mib`) or write fewer tokens",
        mib(*needs),
        mib(*budget)
    )]
    Budget { tokens: usize, needs: u64, budget: u64 },
    #[error(
        "the bundle and a text of usual length need {:.1} GB, but only {:.1} GB can be had; {advice}, or load it all the same \
         (`--ignore-memory`)",
        *needs as f64 / 1e9,
        *has as f64 / 1e9
    )]
    TooLarge {
        needs: u64,
        has: u64,
        advice: &'static str,
    },
    #[error("no memory for {bytes} bytes of cache")]
    OutOfMemory { bytes: u64 },

    #[error(transparent)]
    Processor(#[from] lwv_processor::Error),
    #[error(
        "the prompt has {tokens} tokens, but the context holds {context}; shorten it or use fewer images"
    )]
    PromptTooLong { tokens: usize, context: usize },
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    #[error("token id {id} is not below the vocabulary size {vocabulary}")]
    TokenId { id: u32, vocabulary: usize },
    #[error("{images} images were given, but the bundle has no graph `vision_encoder`")]
    NoVision { images: usize },

    #[error("`{setting}` is `{value}`: {reason}")]
    Setting {
        setting: &'static str,
        value: String,
        reason: &'static str,
    },

    #[error("graph `{graph}`: {message}")]
    Inference { graph: String, message: String },
    #[error("ONNX Runtime: {0}")]
    Ort(String),
    #[error("the score of token {id} is not a number; the graph or its weights are damaged")]
    NotANumber { id: usize },
    #[error("no token is left to choose: every score is minus infinity; ban fewer tokens (`logit_bias`)")]
    OutOfTokens,
    #[error("cannot go back to {asked} of {have} tokens: {reason}")]
    Rewind {
        asked: usize,
        have: usize,
        reason: &'static str,
    },

    #[error("cannot read the draft `{}`: {source}", path.display())]
    ReadDraft { path: PathBuf, source: std::io::Error },
    #[error("cannot write the draft `{}`: {source}; is the disk full?", path.display())]
    WriteDraft { path: PathBuf, source: std::io::Error },
    #[error("the draft `{}` is open in another process; wait until that ends", path.display())]
    DraftInUse { path: PathBuf },
    #[error(
        "`{0}` is a draft already; go on with it (`--resume {0}`), or remove it, or name another (`--draft FILE`)",
        path.display()
    )]
    DraftExists { path: PathBuf },
    #[error(
        "`{}` is no draft that can be read{}, and there is no copy of one beside it",
        path.display(),
        if *zeroed { ", but zeros only" } else { "" }
    )]
    NoDraft { path: PathBuf, zeroed: bool },
    #[error("`{}` is a draft of version {found}, which this version of lwv does not know", path.display())]
    DraftVersion { path: PathBuf, found: String },
    #[error(
        "the draft `{}` was written by bundle {}, but this is bundle {}; go on with that one, or begin anew",
        path.display(),
        short(wants),
        short(found)
    )]
    DraftBundle {
        path: PathBuf,
        wants: String,
        found: String,
    },
    #[error(
        "the draft `{}` was written {}, this is the bundle {}; name the adapter that it was begun with (`--adapter`), or \
         begin anew",
        path.display(),
        with_adapter(wants.as_deref()),
        with_adapter(found.as_deref())
    )]
    DraftAdapter {
        path: PathBuf,
        wants: Option<String>,
        found: Option<String>,
    },
    #[error("`{}` was changed since the draft was begun; put the picture back, or begin anew", path.display())]
    DraftImage { path: PathBuf },
    #[error("a record of the draft cannot be written: {0}")]
    Record(String),

    #[error("the plan, line {line}: {problem}")]
    PlanLine { line: usize, problem: String },
    #[error("the plan {0}")]
    Plan(String),

    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        match *self.inner {
            Inner::LibraryNotFound { .. } | Inner::LibraryUnusable { .. } => ErrorKind::Library,
            Inner::Manifest { .. }
            | Inner::MissingFile { .. }
            | Inner::FileSize { .. }
            | Inner::FileHash { .. }
            | Inner::Read { .. }
            | Inner::MissingGraph { .. }
            | Inner::Family { .. }
            | Inner::Contract { .. } => ErrorKind::Bundle,
            Inner::NoAdapterInputs { .. }
            | Inner::ReadAdapter { .. }
            | Inner::AdapterFile { .. }
            | Inner::AdapterMismatch { .. } => ErrorKind::Adapter,
            Inner::Provider { .. } | Inner::Write { .. } => ErrorKind::Provider,
            Inner::Budget { .. } | Inner::TooLarge { .. } | Inner::OutOfMemory { .. } => ErrorKind::Memory,
            Inner::Processor(_)
            | Inner::PromptTooLong { .. }
            | Inner::EmptyPrompt
            | Inner::TokenId { .. }
            | Inner::NoVision { .. } => ErrorKind::Prompt,
            Inner::Setting { .. } => ErrorKind::Setting,
            Inner::Inference { .. } | Inner::Ort(_) => ErrorKind::Inference,
            Inner::NotANumber { .. } | Inner::OutOfTokens => ErrorKind::Logits,
            Inner::Rewind { .. } => ErrorKind::Rewind,
            Inner::ReadDraft { .. }
            | Inner::WriteDraft { .. }
            | Inner::DraftInUse { .. }
            | Inner::DraftExists { .. }
            | Inner::NoDraft { .. }
            | Inner::DraftVersion { .. }
            | Inner::DraftBundle { .. }
            | Inner::DraftAdapter { .. }
            | Inner::DraftImage { .. }
            | Inner::Record(_) => ErrorKind::Draft,
            Inner::PlanLine { .. } | Inner::Plan(_) => ErrorKind::Plan,
            Inner::Cancelled => ErrorKind::Cancelled,
        }
    }

    /// Whether every token is banned.
    pub(crate) fn is_out_of_tokens(&self) -> bool {
        matches!(*self.inner, Inner::OutOfTokens)
    }

    pub(crate) fn setting(setting: &'static str, value: impl ToString, reason: &'static str) -> Self {
        Inner::Setting {
            setting,
            value: value.to_string(),
            reason,
        }
        .into()
    }

    /// An error of the device that is called `device`.
    pub(crate) fn provider(device: &str, reason: impl Into<String>) -> Self {
        Inner::Provider {
            device: device.to_owned(),
            reason: reason.into(),
        }
        .into()
    }

    /// An error of a run of `graph`.
    pub(crate) fn inference(graph: &str, error: &ort::Error) -> Self {
        Inner::Inference {
            graph: graph.to_owned(),
            message: error.message().to_owned(),
        }
        .into()
    }
}

impl From<Inner> for Error {
    fn from(inner: Inner) -> Self {
        Self {
            inner: Box::new(inner),
        }
    }
}

impl From<lwv_processor::Error> for Error {
    fn from(error: lwv_processor::Error) -> Self {
        Inner::Processor(error).into()
    }
}

impl<R> From<ort::Error<R>> for Error {
    fn from(error: ort::Error<R>) -> Self {
        Inner::Ort(error.message().to_owned()).into()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

fn list(places: &[String]) -> String {
    places
        .iter()
        .map(|place| format!("  {place}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// As many digits of a hash as people compare.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// Which adapter a text is written with, by the hash of its file.
fn with_adapter(hash: Option<&str>) -> String {
    hash.map_or("without an adapter".to_owned(), |hash| {
        format!("with adapter {}", short(hash))
    })
}

/// Bytes in MiB, rounded up.
fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_error_says_both_sizes() {
        let error = Error::from(Inner::Budget {
            tokens: 10,
            needs: (3 << 20) + 1,
            budget: 2 << 20,
        });
        assert_eq!(error.kind(), ErrorKind::Memory);
        assert!(
            error.to_string().contains("needs 4 MiB, but its budget is 2 MiB"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_library_lists_every_place() {
        let places = vec!["/a (LWV_ONNXRUNTIME)".to_owned(), "/b".to_owned()];
        let error = Error::from(Inner::LibraryNotFound {
            name: "libonnxruntime.so".into(),
            places,
        });
        assert!(
            error.to_string().contains("  /a (LWV_ONNXRUNTIME)\n  /b\n"),
            "{error}"
        );
    }
}
