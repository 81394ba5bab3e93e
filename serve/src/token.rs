use std::path::Path;

use hmac_sha256::Hash;
use subtle::ConstantTimeEq;

use crate::error::{Error, Result};

/// Names a token in the environment.
pub const TOKEN_VARIABLE: &str = "LWV_SERVE_TOKEN";

/// Fewer characters can be guessed.
const SHORTEST: usize = 16;

/// What requests must bring as `Authorization: Bearer …`. Held and compared as its SHA-256, so that neither its length nor how
/// much of it somebody has guessed shows in the time that comparing takes.
#[derive(Clone)]
pub struct Token {
    digest: [u8; 32],
}

impl Token {
    /// A token; white space around it is no part of it.
    ///
    /// # Errors
    /// Fewer than 16 characters, or some that a header cannot have.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        let refused = |reason| Err(Error::Token { reason });
        if text.len() < SHORTEST {
            return refused("it has fewer than 16 characters; `openssl rand -hex 32` makes one");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return refused("it has characters that are no letters, digits or signs of ASCII");
        }
        Ok(Self {
            digest: digest(text.as_bytes()),
        })
    }

    /// The token in a file.
    ///
    /// # Errors
    /// The file cannot be read, or as for [`new`](Self::new).
    pub fn from_file(path: &Path) -> Result<Self> {
        let read = std::fs::read_to_string(path);
        let text = read.map_err(|source| Error::TokenFile {
            path: path.to_owned(),
            source,
        })?;
        Self::new(&text)
    }

    /// Whether the value of the header `Authorization` brings this token (RFC 6750).
    pub(crate) fn is_in(&self, authorization: &[u8]) -> bool {
        let (scheme, brought) = authorization
            .split_at_checked("Bearer ".len())
            .unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"Bearer ") && digest(brought).ct_eq(&self.digest).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Hash::hash(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_is_taken() {
        let token = Token::new("0123456789abcdef\n").unwrap();
        assert!(token.is_in(b"Bearer 0123456789abcdef") && token.is_in(b"bearer 0123456789abcdef"));
        for wrong in [
            "",
            "Bearer ",
            "0123456789abcdef",
            "Bearer 0123456789abcde",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcdef0",
        ] {
            assert!(!token.is_in(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn tokens_that_can_be_guessed_or_not_be_sent_are_refused() {
        for wrong in ["", "  \n", "0123456789", "0123456789 abcdef0", "0123456789abcdéf"] {
            assert!(matches!(Token::new(wrong), Err(Error::Token { .. })), "{wrong}");
        }
        let missing = Token::from_file(Path::new("/nowhere/token")).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/token"), "{missing}");
    }
}
