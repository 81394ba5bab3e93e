use std::fmt;

/// What opening a draft found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Bytes at the end of the file that are no records.
    pub damaged_bytes: u64,
    /// Whether those are all NUL.
    pub zeroed: bool,
    /// Whether the copy of the last finished section was opened in the draft's place.
    pub from_copy: bool,
}

impl Recovery {
    /// What is to be said of `rest`, the bytes of a draft's file that are no records.
    pub(crate) fn of(rest: &[u8], from_copy: bool) -> Self {
        Self {
            damaged_bytes: rest.len() as u64,
            zeroed: !rest.is_empty() && rest.iter().all(|byte| *byte == 0),
            from_copy,
        }
    }

    /// Whether nothing was lost.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.damaged_bytes, self.zeroed) {
            (0, _) => "the draft is whole".to_owned(),
            (bytes, true) => {
                format!("the last {bytes} bytes of the draft are zeros, as after a loss of power")
            }
            (bytes, false) => format!("the last {bytes} bytes of the draft are damaged or half written"),
        };
        match (self.from_copy, self.damaged_bytes) {
            (true, 0) => write!(
                f,
                "the draft is missing or empty; its copy is gone on with, which ends with a section"
            ),
            (true, _) => write!(f, "{what}; its copy is gone on with, which ends with a section"),
            (false, 0) => write!(f, "{what}"),
            (false, _) => write!(f, "{what}; what is before them is gone on with"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_said_in_words() {
        assert!(Recovery::default().is_clean());
        let torn = Recovery {
            damaged_bytes: 7,
            ..Recovery::default()
        };
        assert!(torn.to_string().contains("last 7 bytes") && torn.to_string().contains("half written"));
        let zeroed = Recovery {
            damaged_bytes: 4096,
            zeroed: true,
            from_copy: true,
        };
        assert!(zeroed.to_string().contains("zeros") && zeroed.to_string().contains("copy"));
    }
}
