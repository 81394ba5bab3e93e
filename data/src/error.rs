use std::path::PathBuf;

use crate::Origin;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a dataset, or a chart of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder is there but cannot be read, or is not there.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system or the picture's format said.
        source: std::io::Error,
    },
    /// A file for a chart whose ending says no kind of picture.
    #[error("`{}` ends neither in `.svg` nor in `.png`; name one of these", path.display())]
    ChartEnding {
        /// The file.
        path: PathBuf,
    },
    /// A chart that cannot be drawn.
    #[error("cannot draw the chart: {0}")]
    Chart(String),
    /// A folder holds no data file.
    #[error("`{}` holds no `.jsonl`, `.json` or `.parquet` file; name the files", path.display())]
    NoFiles {
        /// The folder.
        path: PathBuf,
    },
    /// No sample in any file.
    #[error("no sample in `{}`; give a file with at least one", path.display())]
    Empty {
        /// The last file that was looked into.
        path: PathBuf,
    },
    /// A JSON list that does not end, or goes on after its end.
    #[error("`{}:{line}`: {message}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: u64,
        /// What is wrong.
        message: &'static str,
    },
    /// A Parquet file that cannot be read, or has other columns than are needed.
    #[error("`{}` is not usable: {message}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What is wrong and what is expected.
        message: String,
    },
    /// A sample that is asked for is not there.
    #[error("there is no sample `{index}`: the dataset has `{len}`")]
    NoSample {
        /// The sample, counted from 0.
        index: usize,
        /// Number of samples.
        len: usize,
    },
    /// A sample that cannot be used.
    #[error("`{origin}`: {problem}")]
    Sample {
        /// Where it stands.
        origin: Origin,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A share or number of samples that cannot be held out.
    #[error("cannot hold out `{held_out}` of `{len}` samples; keep at least one for training")]
    Split {
        /// Samples to hold out.
        held_out: usize,
        /// Samples there are.
        len: usize,
    },
    /// A thread that was to encode a sample has ended early.
    #[error("the thread that encodes sample `{index}` has ended; see its message above")]
    Worker {
        /// The sample, counted from 0.
        index: usize,
    },
}

impl Error {
    /// Whether the dataset can be read on without this sample.
    pub fn is_of_sample(&self) -> bool {
        matches!(self, Self::Sample { .. })
    }
}

/// What can be wrong with one sample.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Not JSON.
    #[error("not valid JSON: {0}")]
    Json(String),
    /// JSON of no known dataset format.
    #[error(
        "no known format: expected an object with `messages`, `conversations` or `instruction`, got {found}"
    )]
    Format {
        /// The keys that are there, or the kind of value.
        found: String,
    },
    /// A field is missing or has a value that cannot be used.
    #[error("`{field}` {message}")]
    Field {
        /// The field, with dots and indices.
        field: String,
        /// What is wrong and what is expected.
        message: String,
    },
    /// A speaker that is not known.
    #[error("unknown role `{role}` of message `{message}` (from `0`); expected {expected}")]
    Role {
        /// The role as it stands there.
        role: String,
        /// The message, counted from 0.
        message: usize,
        /// What is known.
        expected: &'static str,
    },
    /// Nobody answers.
    #[error("no message of the assistant, so there is nothing to learn")]
    NoAnswer,
    /// An answer without a word.
    #[error("the answer in message `{message}` (from `0`) is empty; write it or take the sample out")]
    EmptyAnswer {
        /// The message, counted from 0, with a system message.
        message: usize,
    },
    /// Pictures and places for them do not match.
    #[error("`{images}` images, but `{placeholders}` places for one (`<image>`); make them equal")]
    ImageCount {
        /// Number of images.
        images: usize,
        /// Number of places.
        placeholders: usize,
    },
    /// Two answers to different prompts.
    #[error("`chosen` and `rejected` have different prompts: their message `{message}` (from `0`) differs")]
    Prompts {
        /// The first message that differs, counted from 0.
        message: usize,
    },
    /// A text named as another one is.
    #[error("`id` is `{id}`, as in an earlier row; give every text its own")]
    SameId {
        /// The name.
        id: String,
    },
    /// Two answers, where one conversation is expected.
    #[error(
        "`chosen` and `rejected` make a pair of answers, which `iter-dpo` learns from; expected a conversation"
    )]
    Pair,
    /// Two answers that are the same.
    #[error("`chosen` and `rejected` are the same, so there is nothing to prefer")]
    SameAnswers,
    /// A picture that is not on this machine.
    #[error("image `{url}` is not a file; download it and give its path")]
    Remote {
        /// Its address.
        url: String,
    },
    /// A picture that is missing or does not decode.
    #[error("image `{image}` (from `0`): {source}")]
    Image {
        /// Which one, counted from 0.
        image: usize,
        /// What is wrong with it.
        source: lwv_processor::Error,
    },
    /// A picture whose header tells another size than its pixels have.
    #[error("image `{image}` (from `0`) has another size than its header says; save it again")]
    HeaderSize {
        /// Which one, counted from 0.
        image: usize,
    },
    /// The chat template or the tokenizer refuses the conversation.
    #[error(transparent)]
    Encode(#[from] lwv_processor::Error),
}

impl Problem {
    pub(crate) fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            message: message.into(),
        }
    }

    /// The problem, of the sample that stands there.
    pub fn at(self, origin: &Origin) -> Error {
        Error::Sample {
            origin: origin.clone(),
            problem: self,
        }
    }
}
