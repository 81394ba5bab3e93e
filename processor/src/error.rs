use std::path::PathBuf;

use crate::Grid;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a folder, a text, a picture and the model's inputs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is there but cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file that must be in a checkpoint or bundle folder is not.
    #[error("`{}` is missing; {advice}", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
    },
    /// A file does not parse as what it should be.
    #[error("`{}` is not usable: {message}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        message: String,
    },
    /// A field of a JSON file is missing or has a value that cannot be used.
    #[error("`{field}` in `{}` {message}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, with dots.
        field: String,
        /// What is wrong and what is expected.
        message: String,
    },

    /// The model's `config.json` cannot be used.
    #[error(transparent)]
    Config(#[from] lwv_model::ConfigError),

    /// The tokenizer could not encode a text or decode ids.
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
    /// The folder has no chat template.
    #[error(
        "no chat template in `{}`; add `chat_template.jinja`, or give the prompt as raw text",
        path.display()
    )]
    NoChatTemplate {
        /// The folder.
        path: PathBuf,
    },
    /// The chat template does not parse, or failed on these messages.
    #[error("the chat template of `{}` failed: {message}", path.display())]
    ChatTemplate {
        /// The file that holds the template.
        path: PathBuf,
        /// The template engine's words, or the template's own by `raise_exception`.
        message: String,
    },

    /// The template renders a turn of the assistant otherwise when the conversation goes on, so that it cannot be
    /// told which of the text is the answer.
    #[error(
        "the chat template renders message `{turn}` (from `0`) otherwise when more follow; use a template that \
         only appends"
    )]
    UnstableTurn {
        /// The message, counted from 0.
        turn: usize,
    },
    /// The text up to an answer, the answer and what follows are not the tokens of the whole.
    #[error(
        "a token reaches over the border of an answer; take blanks and line breaks off its start and end"
    )]
    TurnBorder,

    /// An image file of zero bytes.
    #[error("`{name}` is empty (0 bytes); give a JPEG, PNG or WebP file")]
    EmptyImage {
        /// The file.
        name: String,
    },
    /// The content is no image that anyone here knows.
    #[error("`{name}` is not an image; give a JPEG, PNG or WebP file")]
    NotAnImage {
        /// The file.
        name: String,
    },
    /// An image of a format or colour layout that is not read.
    #[error("`{name}` is {found}, which is not supported; save it as JPEG, PNG or WebP")]
    UnsupportedImage {
        /// The file.
        name: String,
        /// Format or feature.
        found: String,
    },
    /// The image ends before its last pixel.
    #[error("`{name}` is truncated: the data ends before the image does; copy it again")]
    TruncatedImage {
        /// The file.
        name: String,
    },
    /// The image's content contradicts its format.
    #[error("`{name}` is damaged: {message}")]
    DamagedImage {
        /// The file.
        name: String,
        /// The decoder's words.
        message: String,
    },
    /// More pixels or memory than is ever decoded.
    #[error(
        "`{name}` has `{width}`×`{height}` pixels, more than the limit of `{limit}`; scale it down first"
    )]
    ImageTooLarge {
        /// The file.
        name: String,
        /// Width in pixels, as the header says.
        width: u32,
        /// Height in pixels, as the header says.
        height: u32,
        /// The largest number of pixels.
        limit: u64,
    },
    /// The memory for an image cannot be had.
    #[error("no memory for the `{bytes}` bytes of `{name}`; scale it down first")]
    ImageMemory {
        /// The file.
        name: String,
        /// Bytes asked for.
        bytes: u64,
    },
    /// A picture longer than it is wide beyond what the model takes, or the other way round.
    #[error("`{name}` of `{width}`×`{height}` pixels is over `200` times longer than wide; crop it")]
    AspectRatio {
        /// The file, or `the image` where it has none.
        name: String,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A size that cannot be cut into patches, with resizing switched off.
    #[error(
        "an image of `{width}`×`{height}` pixels cannot be cut into squares of `{factor}`; set `do_resize`"
    )]
    PatchSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Side of the square that becomes one token, in pixels.
        factor: usize,
    },
    /// Limits under which no size of a picture is possible.
    #[error("pixel limits `{min_pixels}` to `{max_pixels}` with squares of `{factor}` leave no image size")]
    PixelLimits {
        /// Fewest pixels.
        min_pixels: usize,
        /// Most pixels.
        max_pixels: usize,
        /// Side of the square that becomes one token, in pixels.
        factor: usize,
    },

    /// Pictures were given to a model that reads none.
    #[error(
        "`{images}` images were given, but the model's folder has no vision tower in `config.json` or no \
         `preprocessor_config.json`; leave the images out"
    )]
    TextOnly {
        /// Number of pictures.
        images: usize,
    },
    /// A conversation to learn from, with pictures that would be split into tiles.
    #[error(
        "the model splits pictures into tiles; conversations with pictures are not prepared for it, leave those out"
    )]
    TilesInTranscript,
    /// Pictures and placeholders in the text do not match.
    #[error("`{images}` images were given, but the prompt has `{placeholders}` places for one (`{token}`)")]
    ImageCount {
        /// Number of pictures.
        images: usize,
        /// Number of placeholders in the prompt.
        placeholders: usize,
        /// The placeholder.
        token: String,
    },
    /// Token ids hold another number of image tokens than the grids need.
    #[error("the prompt has `{found}` image tokens, but its `{images}` images need `{expected}`")]
    ImageTokens {
        /// Image tokens in the ids.
        found: usize,
        /// Image tokens that the grids need.
        expected: usize,
        /// Number of grids.
        images: usize,
    },
    /// An image's tokens are torn apart.
    #[error("image `{image}` needs `{expected}` image tokens in a row, but only `{found}` are there")]
    ImageRun {
        /// Which image, from 0.
        image: usize,
        /// Tokens in a row.
        found: usize,
        /// Tokens that its grid needs.
        expected: usize,
    },
    /// A token that the model's configuration names is not in the vocabulary.
    #[error("token id `{id}` (`{field}` in `config.json`) is not in the tokenizer's vocabulary")]
    UnknownToken {
        /// The field that names it.
        field: &'static str,
        /// The id.
        id: u32,
    },
    /// The image processor cuts other patches than the model takes.
    #[error(
        "`{field}` is `{processor}` in the image processor, but the model in `config.json` takes `{model}`"
    )]
    SizeMismatch {
        /// The image processor's field.
        field: &'static str,
        /// What the image processor says.
        processor: usize,
        /// What the model's configuration says.
        model: usize,
    },
    /// A grid whose sides are not multiples of the merge size, or zero.
    #[error("a grid of `{}`×`{}`×`{}` patches cannot be merged by `{merge}`", grid.t, grid.h, grid.w)]
    Grid {
        /// The grid.
        grid: Grid,
        /// Patches on a side of a merged square.
        merge: usize,
    },
    /// Window, patch and merge sizes that do not go together.
    #[error(
        "a window of `{window_size}` pixels holds no square of `{merge}`×`{merge}` patches of `{patch_size}` pixels"
    )]
    WindowSize {
        /// Side of a window in pixels.
        window_size: usize,
        /// Patches on a side of a merged square.
        merge: usize,
        /// Side of a patch in pixels.
        patch_size: usize,
    },
}

impl Error {
    pub(crate) fn field(path: &std::path::Path, field: &str, message: impl Into<String>) -> Self {
        Self::Field {
            path: path.to_owned(),
            field: field.to_owned(),
            message: message.into(),
        }
    }
}
