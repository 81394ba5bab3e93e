use std::ops::AddAssign;

use serde::Serialize;

use crate::draft::PLACEHOLDER;
use crate::segments::Segments;
use crate::{Problem, Result, Script, ScriptRow};

/// How pairs are made of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixRule {
    /// Whether there is a pair for every prefix, or for the whole text alone.
    pub only_whole: bool,
    /// Whether a prefix whose prompt shows all of the text's subject is taken for a beginning, which must not teach that the
    /// text ends there.
    pub leaves_open: bool,
    /// What stands between two pages.
    pub separator: String,
}

impl Default for PrefixRule {
    fn default() -> Self {
        Self {
            only_whole: false,
            leaves_open: true,
            separator: "\n\n".to_owned(),
        }
    }
}

/// The pair of the first pages of a script (arXiv 2502.14834, equation 5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixPair {
    /// The prompt, with a place for each picture.
    pub prompt: String,
    /// The corrected pages.
    pub chosen: String,
    /// The pages as they were written. They may be blank.
    pub rejected: String,
    /// Pictures, from the first, that belong to it.
    pub images: usize,
    /// How many pages it has: at least 1.
    pub prefix: usize,
    /// Whether both answers are beginnings.
    pub is_open: bool,
}

/// What became of a script, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PrefixCounts {
    /// Scripts.
    pub scripts: usize,
    /// Scripts in which nothing was corrected.
    pub untouched: usize,
    /// Pages, or pieces of texts without pages.
    pub pages: usize,
    /// Pairs that were made.
    pub pairs: usize,
    /// Prefixes that are the same before and after the correction, as nothing was corrected so far.
    pub identical: usize,
    /// Prefixes that are blank after the correction.
    pub blank_chosen: usize,
    /// Pairs that were made although the prefix was blank before the correction.
    pub blank_rejected: usize,
}

impl AddAssign for PrefixCounts {
    fn add_assign(&mut self, other: Self) {
        self.scripts += other.scripts;
        self.untouched += other.untouched;
        self.pages += other.pages;
        self.pairs += other.pairs;
        self.identical += other.identical;
        self.blank_chosen += other.blank_chosen;
        self.blank_rejected += other.blank_rejected;
    }
}

impl ScriptRow {
    /// The pairs of a script: for every prefix the corrected pages against the written ones, with the pictures of these
    /// pages. Prefixes that are the same before and after are left out.
    ///
    /// # Errors
    /// Numbers of pages, pictures or places for pictures that do not fit each other.
    pub fn pairs(&self, rule: &PrefixRule) -> Result<(Vec<PrefixPair>, PrefixCounts)> {
        self.script
            .pairs(rule)
            .map_err(|problem| problem.at(&self.origin))
    }
}

impl Script {
    fn pairs(&self, rule: &PrefixRule) -> Result<(Vec<PrefixPair>, PrefixCounts), Problem> {
        let segments = self.segments(&rule.separator)?;
        let all = segments.pieces.len();
        let mut counts = PrefixCounts {
            scripts: 1,
            pages: all,
            ..PrefixCounts::default()
        };
        let mut pairs = Vec::new();
        let first = if rule.only_whole { all.max(1) } else { 1 };
        for prefix in first..=all {
            let [rejected, chosen] = segments.prefix(prefix);
            if rejected.trim() == chosen.trim() {
                counts.identical += 1;
                continue;
            }
            if chosen.trim().is_empty() {
                counts.blank_chosen += 1;
                continue;
            }
            counts.blank_rejected += usize::from(rejected.trim().is_empty());
            let images = if segments.cuts_prompt {
                prefix.min(self.images.len())
            } else {
                self.images.len()
            };
            pairs.push(PrefixPair {
                prompt: self.prompt(images)? + &self.sources(prefix, &segments),
                chosen,
                rejected,
                images,
                prefix,
                is_open: rule.leaves_open && prefix < all && !segments.cuts_prompt,
            });
        }
        counts.pairs = pairs.len();
        counts.untouched = usize::from(pairs.is_empty() && counts.blank_chosen == 0);
        Ok((pairs, counts))
    }

    /// What the prompt says of the first `prefix` pages, or of all where the prompt is not cut.
    fn sources(&self, prefix: usize, segments: &Segments) -> String {
        let count = if segments.cuts_prompt {
            prefix
        } else {
            self.sources.len()
        };
        let sources = self.sources.iter().take(count);
        sources
            .filter(|source| !source.is_empty())
            .map(|source| format!("\n{source}"))
            .collect()
    }

    /// The instruction with places for the first `images` pictures: where it has places of its own, or before it.
    fn prompt(&self, images: usize) -> Result<String, Problem> {
        let mut parts = self.instruction.split(PLACEHOLDER);
        let places = self.instruction.matches(PLACEHOLDER).count();
        if places == 0 {
            return Ok(PLACEHOLDER.repeat(images) + &self.instruction);
        }
        if places != self.images.len() {
            return Err(Problem::ImageCount {
                images: self.images.len(),
                placeholders: places,
            });
        }
        let mut prompt = parts.next().unwrap_or_default().to_owned();
        for (place, part) in parts.enumerate() {
            if place < images {
                prompt += PLACEHOLDER;
            }
            prompt += part;
        }
        Ok(prompt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ScriptText;

    fn script(original: &[&str], revised: &[&str], has_images: bool) -> Script {
        let pages = |pages: &[&str]| ScriptText::Pages(pages.iter().map(|page| (*page).to_owned()).collect());
        let images = if has_images { original.len() } else { 0 };
        Script {
            id: "deck".into(),
            instruction: "Write.".into(),
            system: String::new(),
            sources: Vec::new(),
            images: (1..=images).map(|page| format!("{page}.png")).collect(),
            original: pages(original),
            revised: pages(revised),
        }
    }

    fn pairs(script: &Script) -> Vec<PrefixPair> {
        script.pairs(&PrefixRule::default()).unwrap().0
    }

    #[test]
    fn every_prefix_has_the_pictures_of_its_pages() {
        let pairs = pairs(&script(&["a", "b", "c"], &["A", "b", "C, longer"], true));
        let shown: Vec<_> = pairs
            .iter()
            .map(|pair| (pair.prefix, pair.images, pair.is_open))
            .collect();
        assert_eq!(shown, [(1, 1, false), (2, 2, false), (3, 3, false)]);
        assert_eq!(pairs[1].prompt, "<image><image>Write.");
        assert_eq!(
            (pairs[1].chosen.as_str(), pairs[1].rejected.as_str()),
            ("A\n\nb", "a\n\nb")
        );
        assert_eq!(pairs[2].chosen, "A\n\nb\n\nC, longer");
    }

    #[test]
    fn a_first_edit_on_page_7_of_12_leaves_six_pairs_out() {
        let original: Vec<String> = (1..=12).map(|page| format!("page {page}")).collect();
        let mut revised = original.clone();
        revised[6] = "page seven".into();
        let [original, revised] =
            [&original, &revised].map(|pages| pages.iter().map(String::as_str).collect::<Vec<_>>());
        let script = script(&original, &revised, true);
        let (pairs, counts) = script.pairs(&PrefixRule::default()).unwrap();
        let prefixes: Vec<usize> = pairs.iter().map(|pair| pair.prefix).collect();
        assert_eq!(prefixes, [7, 8, 9, 10, 11, 12]);
        assert_eq!((counts.identical, counts.pairs, counts.pages), (6, 6, 12));
        assert!(pairs.iter().all(|pair| pair.images == pair.prefix));
    }

    #[test]
    fn empty_pages_are_no_end() {
        let script = script(&["", "b", ""], &["A", "b", ""], true);
        let (pairs, counts) = script.pairs(&PrefixRule::default()).unwrap();
        let shown: Vec<_> = pairs
            .iter()
            .map(|pair| (pair.chosen.as_str(), pair.rejected.as_str()))
            .collect();
        assert_eq!(shown, [("A", ""), ("A\n\nb", "b"), ("A\n\nb", "b")]);
        assert_eq!((counts.blank_rejected, counts.blank_chosen), (1, 0));
        let emptied = self::script(&["x", "b"], &["", "B"], true);
        let (pairs, counts) = emptied.pairs(&PrefixRule::default()).unwrap();
        assert_eq!((pairs.len(), counts.blank_chosen), (1, 1));
        assert_eq!(
            (pairs[0].chosen.as_str(), pairs[0].rejected.as_str()),
            ("B", "x\n\nb")
        );
    }

    #[test]
    fn without_pictures_prefixes_stay_open() {
        let script = script(&["a", "b"], &["A", "b"], false);
        let open: Vec<bool> = pairs(&script).iter().map(|pair| pair.is_open).collect();
        assert_eq!(open, [true, false]);
        let closed = PrefixRule {
            leaves_open: false,
            ..PrefixRule::default()
        };
        assert!(script.pairs(&closed).unwrap().0.iter().all(|pair| !pair.is_open));
        let whole = PrefixRule {
            only_whole: true,
            ..PrefixRule::default()
        };
        let (pairs, _) = script.pairs(&whole).unwrap();
        assert_eq!((pairs.len(), pairs[0].prefix), (1, 2));
    }

    #[test]
    fn what_the_prompt_says_of_pages_is_cut_with_them() {
        let mut script = script(&["a", "b", "c"], &["A", "b", "c"], false);
        script.sources = ["| 1 |", "", "| 3 |"].map(str::to_owned).to_vec();
        let pairs = pairs(&script);
        let prompts: Vec<&str> = pairs.iter().map(|pair| pair.prompt.as_str()).collect();
        assert_eq!(
            prompts,
            ["Write.\n| 1 |", "Write.\n| 1 |", "Write.\n| 1 |\n| 3 |"]
        );
        assert!(pairs.iter().all(|pair| !pair.is_open && pair.images == 0));
        script.sources.pop();
        let problem = script.pairs(&PrefixRule::default()).unwrap_err().to_string();
        assert!(problem.starts_with("`sources` of `deck` are `2`"), "{problem}");
    }

    #[test]
    fn places_in_the_instruction_are_kept_for_its_pages() {
        let mut script = script(&["a", "b"], &["A", "b"], true);
        script.instruction = "First <image>, then <image>.".into();
        let prompts: Vec<String> = pairs(&script).into_iter().map(|pair| pair.prompt).collect();
        assert_eq!(prompts, ["First <image>, then .", "First <image>, then <image>."]);
        script.instruction = "Only <image>".into();
        let problem = script.pairs(&PrefixRule::default()).unwrap_err().to_string();
        assert!(problem.starts_with("`2` images, but `1` places"), "{problem}");
    }

    #[test]
    fn a_text_without_pages_keeps_all_pictures() {
        let mut script = script(&["a"], &["a"], true);
        script.images.push("2.png".into());
        script.original = ScriptText::Whole("One. Two.".into());
        script.revised = ScriptText::Whole("One! Two.".into());
        let pairs = pairs(&script);
        assert_eq!((pairs.len(), pairs[0].images, pairs[0].is_open), (2, 2, true));
        script.revised = ScriptText::Pages(vec!["One".into()]);
        assert!(script.pairs(&PrefixRule::default()).is_err());
    }

    #[test]
    fn counts_that_differ_are_named() {
        let problem = |script: &Script| script.pairs(&PrefixRule::default()).unwrap_err().to_string();
        let pages = script(&["a", "b"], &["a"], false);
        assert_eq!(
            problem(&pages),
            "`revised` of `deck` has `1` pages, but `original` has `2`; make them equal"
        );
        let mut images = script(&["a", "b"], &["A", "b"], true);
        images.images.pop();
        assert_eq!(
            problem(&images),
            "`images` of `deck` are `1`, but it has `2` pages; give one a page"
        );
    }
}
