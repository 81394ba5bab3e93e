use similar::{Algorithm, DiffTag, capture_diff_slices};
use unicode_segmentation::UnicodeSegmentation;

/// A text before and after its correction, cut at the same places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segments {
    /// The pieces, as written and as corrected.
    pub(crate) pieces: Vec<[String; 2]>,
    /// What stands between two pieces that are not blank.
    pub(crate) separator: String,
    /// Whether the prompt shows of each piece what it is about, and so is cut with the text.
    pub(crate) cuts_prompt: bool,
}

impl Segments {
    /// The first `count` pieces of either text.
    pub(crate) fn prefix(&self, count: usize) -> [String; 2] {
        [0, 1].map(|side| {
            let pieces = self.pieces[..count].iter().map(|piece| piece[side].as_str());
            if self.separator.is_empty() {
                return pieces.collect();
            }
            let written: Vec<&str> = pieces.filter(|piece| !piece.trim().is_empty()).collect();
            written.join(&self.separator)
        })
    }
}

/// One piece a page.
pub(crate) fn by_pages(
    original: &[String],
    revised: &[String],
    separator: &str,
    cuts_prompt: bool,
) -> Segments {
    let pages = original.iter().zip(revised);
    Segments {
        pieces: pages
            .map(|(original, revised)| [original.clone(), revised.clone()])
            .collect(),
        separator: separator.to_owned(),
        cuts_prompt,
    }
}

/// One piece a section, where both texts have headings and as many sections.
pub(crate) fn by_sections(original: &str, revised: &str) -> Option<Segments> {
    let (original, revised) = (sections(original), sections(revised));
    (original.len() == revised.len() && original.len() > 1).then(|| {
        let pairs = original.into_iter().zip(revised);
        concatenated(
            pairs
                .map(|(original, revised)| [original.to_owned(), revised.to_owned()])
                .collect(),
        )
    })
}

/// One piece for every run of sentences that was changed, with those before it that were not, and one for the rest.
pub(crate) fn by_sentences(original: &str, revised: &str) -> Segments {
    let [old, new] = [original, revised].map(sentences);
    let mut pieces = vec![[String::new(), String::new()]];
    let mut is_changed = false;
    for step in capture_diff_slices(Algorithm::Myers, &old, &new) {
        let is_equal = step.tag() == DiffTag::Equal;
        if is_changed && is_equal {
            pieces.push([String::new(), String::new()]);
        }
        is_changed = !is_equal;
        if let Some([before, after]) = pieces.last_mut() {
            before.extend(old[step.old_range()].iter().copied());
            after.extend(new[step.new_range()].iter().copied());
        }
    }
    concatenated(pieces)
}

/// A text cut after its sentences. Where an ASCII mark is followed by no space, as in `v2.A` or an address, none ends.
fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let (mut start, mut end) = (0, 0);
    for piece in text.split_sentence_bounds() {
        end += piece.len();
        let said = piece.trim_end_matches(['"', '\'', ')', ']', '”', '’']);
        if !said.ends_with(['.', '!', '?']) || end == text.len() {
            sentences.push(&text[start..end]);
            start = end;
        }
    }
    sentences
}

fn concatenated(pieces: Vec<[String; 2]>) -> Segments {
    Segments {
        pieces,
        separator: String::new(),
        cuts_prompt: false,
    }
}

/// A text cut before its Markdown headings.
fn sections(text: &str) -> Vec<&str> {
    let mut sections = Vec::new();
    let (mut start, mut place) = (0, 0);
    for line in text.split_inclusive('\n') {
        if is_heading(line) && place > start {
            sections.push(&text[start..place]);
            start = place;
        }
        place += line.len();
    }
    sections.push(&text[start..]);
    sections
}

fn is_heading(line: &str) -> bool {
    let title = line.trim_start_matches('#');
    let level = line.len() - title.len();
    (1..=6).contains(&level) && title.starts_with([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(segments: &Segments) -> Vec<[&str; 2]> {
        let pieces = segments.pieces.iter();
        pieces
            .map(|[before, after]| [before.as_str(), after.as_str()])
            .collect()
    }

    #[test]
    fn pages_are_joined_and_empty_ones_left_out() {
        let pages = |pages: [&str; 3]| pages.map(str::to_owned);
        let segments = by_pages(&pages(["a", "", "c"]), &pages(["A", "B", ""]), "\n\n", true);
        assert_eq!(segments.prefix(2), ["a", "A\n\nB"]);
        assert_eq!(segments.prefix(3), ["a\n\nc", "A\n\nB"]);
    }

    #[test]
    fn sections_are_cut_before_headings() {
        let segments = by_sections("in\n# A\na\n## B\nb", "in!\n# A\na\n## C\nc\n").unwrap();
        assert_eq!(
            pieces(&segments),
            [
                ["in\n", "in!\n"],
                ["# A\na\n", "# A\na\n"],
                ["## B\nb", "## C\nc\n"]
            ]
        );
        assert_eq!(segments.prefix(2), ["in\n# A\na\n", "in!\n# A\na\n"]);
        assert_eq!(by_sections("# A\na\n# B\nb", "# A\na"), None);
        assert_eq!(by_sections("#1 is no heading", "#2 is none"), None);
    }

    #[test]
    fn sentences_are_cut_after_what_was_changed() {
        let segments = by_sentences(
            "One stays. Two is 2.5 wrong. Three stays. Four goes. Five stays.",
            "One stays. Two is 3.5 right. Three stays. Five stays. Six is new.",
        );
        assert_eq!(
            pieces(&segments),
            [
                ["One stays. Two is 2.5 wrong. ", "One stays. Two is 3.5 right. "],
                [
                    "Three stays. Four goes. Five stays.",
                    "Three stays. Five stays. Six is new."
                ],
            ]
        );
        let start = by_sentences("Gone. Stays.", "Stays.");
        assert_eq!(pieces(&start), [["Gone. ", ""], ["Stays.", "Stays."]]);
    }

    #[test]
    fn marks_inside_words_end_nothing() {
        assert_eq!(
            sentences("See http://a/b?x=1 now. Is v2.A it?yes. \"Good.\" End"),
            [
                "See http://a/b?x=1 now. ",
                "Is v2.A it?yes. ",
                "\"Good.\" ",
                "End"
            ]
        );
        assert_eq!(sentences("Same. Same. Same."), ["Same. ", "Same. ", "Same."]);
    }

    #[test]
    fn chinese_sentences_are_cut_too() {
        let segments = by_sentences(
            "第一页是河。第二页是房子。第三页是花园。",
            "第一页是河。第二页是桥。第三页是花园。",
        );
        assert_eq!(
            pieces(&segments),
            [
                ["第一页是河。第二页是房子。", "第一页是河。第二页是桥。"],
                ["第三页是花园。", "第三页是花园。"],
            ]
        );
    }

    /// Whatever is edited, the pieces are the texts.
    #[test]
    fn nothing_is_lost() {
        let sentences = [
            "A b. ",
            "Is it? ",
            "Same. ",
            "Same. ",
            "3.14 is not cut. ",
            "河。",
            "\n",
            "End",
        ];
        let mut state = 7_u64;
        let mut draw = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..300 {
            let mut text = || {
                (0..draw(9))
                    .map(|_| sentences[draw(sentences.len())])
                    .collect::<String>()
            };
            let (original, revised) = (text(), text());
            let segments = by_sentences(&original, &revised);
            assert_eq!(segments.prefix(segments.pieces.len()), [original, revised]);
        }
    }
}
