use std::io::Write;

use anyhow::{Context, Result};

/// Standard output of a text. What was printed cannot be taken back, on a terminal or in a pipe, so where text may be, only
/// what stays is printed: usually a sentence when the next one begins.
pub(crate) struct SettledOutput {
    /// Whether text may be taken back.
    waits: bool,
    /// Bytes of the text that were printed.
    printed: usize,
    /// Where the text of the generation begins.
    begin: usize,
}

impl SettledOutput {
    pub(crate) fn new(waits: bool) -> Self {
        Self {
            waits,
            printed: 0,
            begin: 0,
        }
    }

    /// `text` has grown.
    pub(crate) fn add(&mut self, text: &str) -> Result<()> {
        if self.waits {
            Ok(())
        } else {
            self.print_to(text, text.len())
        }
    }

    /// The first `bytes` bytes of the generation's text stay.
    pub(crate) fn settle(&mut self, text: &str, bytes: usize) -> Result<()> {
        self.print_to(text, self.begin + bytes)
    }

    /// All of `text` stays, and the next generation goes on after it.
    pub(crate) fn settle_all(&mut self, text: &str) -> Result<()> {
        self.begin = text.len();
        self.print_to(text, text.len())
    }

    fn print_to(&mut self, text: &str, end: usize) -> Result<()> {
        if end <= self.printed {
            return Ok(());
        }
        let start = std::mem::replace(&mut self.printed, end);
        print_text(&text[start..end])
    }
}

/// Prints `text` at once.
pub(crate) fn print_text(text: &str) -> Result<()> {
    // Unlike `print!`, this does not panic when nobody reads the pipe any more.
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}
