use serde::{Deserialize, Deserializer, Serialize};

use crate::segments::{Segments, by_pages, by_sections, by_sentences};
use crate::{Origin, Problem};

/// A long text that a person has corrected: one row of the corrections that `lwv-data pairs` reads, and that writing
/// applications write.
///
/// With one text a page, both texts are lists of equal length, and so are pictures and sources where there are any; a page may
/// be empty. A text without pages is a string, with or without Markdown headings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// What its pairs are named after.
    pub id: String,
    /// What was asked for.
    pub instruction: String,
    /// What the writer was told to be.
    #[serde(
        default,
        deserialize_with = "or_nothing",
        skip_serializing_if = "String::is_empty"
    )]
    pub system: String,
    /// Paths of the pictures, one a page.
    #[serde(
        default,
        deserialize_with = "or_nothing",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub images: Vec<String>,
    /// What the prompt says of each page, below the instruction, one a line: such as its row of a table, or the words on it.
    #[serde(
        default,
        deserialize_with = "or_nothing",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub sources: Vec<String>,
    /// The text as it was written.
    pub original: ScriptText,
    /// The text as it should be.
    pub revised: ScriptText,
}

/// The text of a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ScriptText {
    /// One text a page.
    Pages(Vec<String>),
    /// Everything in one.
    Whole(String),
}

/// A row of corrections, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptRow {
    /// The row.
    pub script: Script,
    /// Where it stands.
    pub origin: Origin,
}

/// Null is the same as nothing.
fn or_nothing<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

impl Script {
    /// The script's text in pieces that were corrected one by one: its pages, its sections where both texts have as many, or
    /// else what lies between sentences that are the same in both. `separator` stands between pages.
    ///
    /// # Errors
    /// Numbers of pages or pictures that differ; a text with pages and one without.
    pub(crate) fn segments(&self, separator: &str) -> Result<Segments, Problem> {
        match (&self.original, &self.revised) {
            (ScriptText::Pages(original), ScriptText::Pages(revised)) => {
                self.check_counts(original.len(), revised.len())?;
                let is_cut = !self.images.is_empty() || !self.sources.is_empty();
                Ok(by_pages(original, revised, separator, is_cut))
            }
            (ScriptText::Whole(original), ScriptText::Whole(revised)) => {
                Ok(by_sections(original, revised).unwrap_or_else(|| by_sentences(original, revised)))
            }
            _ => Err(Problem::field(
                "revised",
                "must be a list of pages if `original` is one, and a text if that is one",
            )),
        }
    }

    fn check_counts(&self, original: usize, revised: usize) -> Result<(), Problem> {
        let id = &self.id;
        if original != revised {
            let message =
                format!("of `{id}` has `{revised}` pages, but `original` has `{original}`; make them equal");
            return Err(Problem::field("revised", message));
        }
        for (field, count) in [("images", self.images.len()), ("sources", self.sources.len())] {
            if count != 0 && count != original {
                let message =
                    format!("of `{id}` are `{count}`, but it has `{original}` pages; give one a page");
                return Err(Problem::field(field, message));
            }
        }
        Ok(())
    }
}
