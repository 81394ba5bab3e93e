use std::path::PathBuf;

/// Why a `config.json` or a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not JSON, or a field has the wrong type.
    #[error("`{path}` is not valid: {message}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        message: String,
    },
    /// `model_type` names a family that this toolchain does not know.
    #[error("unknown model_type `{0}`; known are `qwen2_5_vl`, `idefics3`, `smolvlm`, `qwen2` and `llama`")]
    UnknownFamily(String),
    /// A required field is missing.
    #[error("`{section}` has no field `{field}`")]
    MissingField {
        /// Which part of the file.
        section: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// A field's value cannot be used.
    #[error("`{field}` is `{value}`: {reason}")]
    InvalidField {
        /// The field's name.
        field: &'static str,
        /// What the file says.
        value: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },
}

impl ConfigError {
    pub(crate) fn invalid(field: &'static str, value: impl ToString, reason: impl Into<String>) -> Self {
        Self::InvalidField {
            field,
            value: value.to_string(),
            reason: reason.into(),
        }
    }
}
