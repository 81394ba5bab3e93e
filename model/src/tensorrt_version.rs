use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// A version of TensorRT, as far as it decides which operators there are. Files have it as text, such as `"10.3"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TensorRtVersion {
    /// 10 of 10.3.
    pub major: u32,
    /// 3 of 10.3.
    pub minor: u32,
}

impl TensorRtVersion {
    /// The version of JetPack 6, the oldest that graphs are written for.
    pub const OLDEST: Self = Self::new(10, 3);

    /// The version `major.minor`.
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl Default for TensorRtVersion {
    fn default() -> Self {
        Self::OLDEST
    }
}

impl fmt::Display for TensorRtVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for TensorRtVersion {
    type Err = ConfigError;

    fn from_str(word: &str) -> Result<Self, ConfigError> {
        let number = |digits: &str| digits.parse().ok();
        let parts = word
            .split_once('.')
            .and_then(|(major, minor)| Some(Self::new(number(major)?, number(minor)?)));
        parts.ok_or_else(|| {
            ConfigError::invalid("tensorrt_version", word, "write it as MAJOR.MINOR, such as 10.3")
        })
    }
}

impl TryFrom<String> for TensorRtVersion {
    type Error = ConfigError;

    fn try_from(word: String) -> Result<Self, ConfigError> {
        word.parse()
    }
}

impl From<TensorRtVersion> for String {
    fn from(version: TensorRtVersion) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_versions_are_numbers() {
        let [older, newer, next]: [TensorRtVersion; 3] =
            ["10.3", "10.14", "11.0"].map(|word| word.parse().unwrap());
        assert!(older < newer && newer < next);
        assert_eq!(serde_json::to_string(&newer).unwrap(), r#""10.14""#);
        assert_eq!(
            serde_json::from_str::<TensorRtVersion>(r#""10.14""#).unwrap(),
            newer
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for word in ["", "10", "10.", "10.x", "10.15.1", "-1.3"] {
            let error = word.parse::<TensorRtVersion>().unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{word}`")) && error.contains("10.3"),
                "{error}"
            );
        }
    }
}
