mod handwritten;

use serde::{Deserialize, Serialize};

use crate::error::Result;

/// Words of a section where nobody said how many sections there are to be.
const USUAL_SECTION: usize = 300;

/// Longest main point, in characters.
const LONGEST_MAIN_POINT: usize = 160;

/// What a long text is written from: its sections, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The sections.
    pub sections: Vec<PlannedSection>,
}

/// A section of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSection {
    /// What it says, in a phrase or a sentence.
    pub main_point: String,
    /// How many words it is to have.
    pub words: usize,
}

impl Plan {
    /// The plan of a text in one piece: a section without a main point.
    pub fn in_one_piece(words: usize) -> Self {
        let main_point = String::new();
        Self {
            sections: vec![PlannedSection { main_point, words }],
        }
    }

    /// Whether there is nothing but one section without a main point.
    pub fn is_in_one_piece(&self) -> bool {
        matches!(self.sections.as_slice(), [section] if section.main_point.is_empty())
    }

    /// Sum of the sections' word targets.
    pub fn words(&self) -> usize {
        self.sections.iter().map(|section| section.words).sum()
    }

    /// The plan as lines of the form that the models were trained on,
    /// `Paragraph 1 - Main Point: … - Word Count: 300 words`, with an empty line between.
    pub fn to_lines(&self) -> String {
        let lines = self
            .sections
            .iter()
            .enumerate()
            .map(|(index, section)| section.to_line(index));
        lines.collect::<Vec<_>>().join("\n\n")
    }

    /// Reads lines of that form; others are passed over. The opposite of [`to_lines`](Self::to_lines), for plans that
    /// were edited by hand or written freely by a model.
    ///
    /// ```
    /// let text = "A plan:\nParagraph 1 - Main Point: why bees matter - Word Count: 120 words";
    /// let plan = lwv_runtime::Plan::parse(text);
    /// assert_eq!((plan.sections[0].main_point.as_str(), plan.words()), ("why bees matter", 120));
    /// ```
    pub fn parse(text: &str) -> Self {
        Self {
            sections: text.lines().filter_map(parse_line).collect(),
        }
    }
}

impl Plan {
    /// Reads a plan that people wrote or edited. That is JSON, `{"sections": [{"main_point": "…", "words": 300}]}`, or
    /// Markdown with a line for each section: of the form of [`to_lines`](Self::to_lines), or a heading or an item of a list
    /// that ends with a word count. Sections without one share what is left of `words`. Empty lines, rules, comments in one
    /// line and a title (`# …`) are passed over.
    ///
    /// ```
    /// let plan = lwv_runtime::Plan::read("# Bees\n- Why bees matter (120 words)\n- What harms them\n", Some(200))?;
    /// assert_eq!((plan.sections[1].main_point.as_str(), plan.sections[1].words), ("What harms them", 80));
    /// # Ok::<(), lwv_runtime::Error>(())
    /// ```
    ///
    /// # Errors
    /// A line that plans nothing, a section without words, or no section at all; the text says which line.
    pub fn read(text: &str, words: Option<usize>) -> Result<Self> {
        handwritten::read(text, words)
    }
}

impl PlannedSection {
    /// What stands above the section: its main point as a Markdown heading, or nothing where it has none.
    pub(crate) fn heading(&self) -> String {
        match self.main_point.as_str() {
            "" => String::new(),
            main_point => format!("## {main_point}\n\n"),
        }
    }

    fn to_line(&self, index: usize) -> String {
        format!(
            "{} {} - Word Count: {} words",
            line_start(index),
            self.main_point,
            self.words
        )
    }
}

/// How the line of section `index` (from 0) begins.
pub(crate) fn line_start(index: usize) -> String {
    format!("Paragraph {} - Main Point:", index + 1)
}

/// How many sections a text of `words` words is divided into.
pub(crate) fn section_count(words: usize) -> usize {
    words.div_ceil(USUAL_SECTION).clamp(2, 40)
}

/// `words` divided into `count` shares that differ by at most one and add up to `words`.
pub(crate) fn share_words(words: usize, count: usize) -> Vec<usize> {
    let (each, rest) = (words / count.max(1), words % count.max(1));
    (0..count).map(|index| each + usize::from(index < rest)).collect()
}

/// What a model wrote as a main point, without what it added of the line's form, markup or quotes.
pub(crate) fn clean_main_point(written: &str) -> String {
    let line = written
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("");
    let end = line
        .find(" - Word")
        .or_else(|| line.find("Word Count"))
        .unwrap_or(line.len());
    let phrase = trim_markup(&line[..end]);
    let unnumbered = phrase.trim_start_matches(|c: char| c.is_ascii_digit());
    // A number only where it stands before a point: `1. Bees`, not `3000 bees`.
    let phrase = unnumbered.strip_prefix(['.', ')']).unwrap_or(phrase).trim();
    phrase
        .trim_end_matches(['-', ':', ',', ';', '.'])
        .trim()
        .to_owned()
}

/// The beginning of a main point, as long as main points are at most, cut at a word.
pub(crate) fn shorten_main_point(phrase: &str) -> String {
    match phrase.char_indices().nth(LONGEST_MAIN_POINT) {
        Some((cut, _)) => phrase[..phrase[..cut].rfind(' ').unwrap_or(cut)].to_owned(),
        None => phrase.to_owned(),
    }
}

/// A phrase without markup and quotes around it.
fn trim_markup(phrase: &str) -> &str {
    phrase
        .trim()
        .trim_matches(|c: char| "*#\"“”[]<>".contains(c) || c.is_whitespace())
}

fn parse_line(line: &str) -> Option<PlannedSection> {
    let line = line.trim().trim_start_matches('*');
    let numbered = line
        .strip_prefix("Paragraph ")
        .or_else(|| line.strip_prefix("Section "))?;
    let (_, rest) = numbered.split_once("Main Point:")?;
    let (_, count) = rest.rsplit_once("Word Count:")?;
    let count = count.trim_start_matches(|c: char| !c.is_ascii_digit());
    let digits: String = count.chars().take_while(char::is_ascii_digit).collect();
    Some(PlannedSection {
        main_point: clean_main_point(rest),
        words: digits.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        assert_eq!(share_words(1000, 3), [334, 333, 333]);
        assert_eq!(share_words(2, 4), [1, 1, 0, 0]);
        assert_eq!([100, 900, 3000, 100_000].map(section_count), [2, 3, 10, 40]);
    }

    #[test]
    fn lines_go_both_ways() {
        let section = |main_point: &str, words| PlannedSection {
            main_point: main_point.into(),
            words,
        };
        let plan = Plan {
            sections: vec![section("why bees matter", 334), section("what harms them", 333)],
        };
        let lines = plan.to_lines();
        assert!(
            lines.starts_with("Paragraph 1 - Main Point: why bees matter - Word Count: 334 words\n\n"),
            "{lines}"
        );
        assert_eq!(Plan::parse(&lines), plan);
        assert_eq!(Plan::parse("Paragraph x\nno plan").sections, []);
    }

    #[test]
    fn main_points_are_cleaned() {
        for (written, clean) in [
            (" The rise of bees - Word Count: 200 words", "The rise of bees"),
            ("**The rise of bees.**\n", "The rise of bees"),
            ("\n  \"Bees\"", "Bees"),
            ("2. Bees", "Bees"),
            ("3000 bees", "3000 bees"),
            (" - Word Count: 3", ""),
        ] {
            assert_eq!(clean_main_point(written), clean, "{written:?}");
        }
        assert!(shorten_main_point(&"word ".repeat(100)).chars().count() <= LONGEST_MAIN_POINT);
    }
}
