use super::{Plan, PlannedSection, parse_line, share_words, trim_markup};
use crate::error::{Inner, Result};

/// How a section can be written, for messages.
const FORM: &str = "`- What the section says (300 words)`";

/// Reads a plan that people wrote or edited: JSON, or Markdown with a line for each section.
///
/// # Errors
/// As for [`Plan::read`].
pub(super) fn read(text: &str, words: Option<usize>) -> Result<Plan> {
    let plan = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(text).map_err(|e| wrong(e.line(), e.to_string()))?,
        false => read_markdown(text, words)?,
    };
    if plan.sections.is_empty() {
        return Err(Inner::Plan(format!("has no sections; write a line for each, such as {FORM}")).into());
    }
    let is_bad = |section: &PlannedSection| section.words == 0 || section.main_point.trim().is_empty();
    match plan.sections.iter().position(is_bad) {
        Some(bad) => {
            let problem = format!(
                "says nothing or has no words in section {}; give it both",
                bad + 1
            );
            Err(Inner::Plan(problem).into())
        }
        None => Ok(plan),
    }
}

fn read_markdown(text: &str, words: Option<usize>) -> Result<Plan> {
    let mut sections = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if let Some((main_point, words)) = read_line(line).map_err(|problem| wrong(number, problem))? {
            sections.push((number, main_point, words));
        }
    }
    let counted: usize = sections.iter().filter_map(|(_, _, words)| *words).sum();
    let uncounted: Vec<usize> = sections
        .iter()
        .filter(|section| section.2.is_none())
        .map(|section| section.0)
        .collect();
    let left = words.map_or(0, |words| words.saturating_sub(counted));
    if let Some(first) = uncounted.first().filter(|_| left < uncounted.len()) {
        let problem = match words {
            None => format!(
                "no word count; write the line as {FORM}, or say with `--words` how many words there are in all"
            ),
            Some(words) => {
                format!("no words are left for it: the other sections have {counted} of {words} words")
            }
        };
        return Err(wrong(*first, problem));
    }
    let mut shares = share_words(left, uncounted.len()).into_iter();
    let planned = sections.into_iter().map(|(_, main_point, words)| PlannedSection {
        main_point,
        words: words.or_else(|| shares.next()).unwrap_or_default(),
    });
    Ok(Plan {
        sections: planned.collect(),
    })
}

/// What a line plans; `None` for one that is passed over: an empty one, a rule, a comment, the text's title.
fn read_line(line: &str) -> Result<Option<(String, Option<usize>)>, String> {
    let line = line.trim();
    let is_rule = line.chars().all(|character| "-*_=".contains(character));
    if is_rule || (line.starts_with("<!--") && line.ends_with("-->")) {
        return Ok(None);
    }
    if let Some(section) = parse_line(line) {
        return Ok(Some((section.main_point, Some(section.words))));
    }
    let Some(item) = item(line) else {
        return Err(format!(
            "`{line}` plans no section; write it as {FORM}, or remove the line"
        ));
    };
    let (main_point, words) = split_words(item);
    if words.is_none() && line.starts_with("# ") {
        return Ok(None);
    }
    Ok(Some((trim_markup(main_point).to_owned(), words)))
}

/// The text of a heading or an item of a list.
fn item(line: &str) -> Option<&str> {
    let after_digits = line.trim_start_matches(|character: char| character.is_ascii_digit());
    let numbered = after_digits
        .strip_prefix(['.', ')'])
        .filter(|_| after_digits.len() < line.len());
    let heading = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#'));
    let item = line.strip_prefix(['-', '*', '+']).or(numbered).or(heading)?;
    item.starts_with(char::is_whitespace).then(|| item.trim())
}

/// Takes a word count such as `(300 words)`, `- about 300 words` or `（300字）` from the end of a line. A number alone may be
/// a year.
fn split_words(item: &str) -> (&str, Option<usize>) {
    let before_closers = item.trim_end_matches(|c: char| ")]）】.*_ ".contains(c));
    let lower = before_closers.to_ascii_lowercase();
    let unit = ["words", "word", "字", "词", "語", "어절"]
        .into_iter()
        .find(|unit| lower.ends_with(unit));
    let Some(unit) = unit else {
        return (item, None);
    };
    let counted = before_closers[..before_closers.len() - unit.len()].trim_end();
    let digits = |c: char| c.is_ascii_digit() || c == ',';
    let main_point = counted.trim_end_matches(digits);
    let count: String = counted[main_point.len()..]
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    let Ok(count) = count.parse() else {
        return (item, None);
    };
    let main_point = main_point.trim_end();
    let main_point = ["about", "approx.", "ca.", "~", "≈"]
        .iter()
        .find_map(|word| main_point.strip_suffix(word))
        .unwrap_or(main_point);
    let main_point = main_point
        .trim_end()
        .trim_end_matches(['(', '[', '（', '【', '-', '–', '—', ':', ',', '|']);
    (main_point.trim_end(), Some(count))
}

fn wrong(line: usize, problem: String) -> crate::Error {
    Inner::PlanLine { line, problem }.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn sections(text: &str, words: Option<usize>) -> Vec<(String, usize)> {
        let plan = read(text, words).unwrap_or_else(|e| panic!("{e}"));
        plan.sections
            .into_iter()
            .map(|section| (section.main_point, section.words))
            .collect()
    }

    #[test]
    fn all_forms_that_people_type_are_read() {
        for line in [
            "Paragraph 1 - Main Point: Why bees matter - Word Count: 1200 words",
            "**Section 1** - Main Point: [Why bees matter] - Word Count: [1200 words]",
            "## Why bees matter (1200 words)",
            "### Why bees matter — about 1,200 words",
            "# Why bees matter (1200 words)",
            "- Why bees matter: 1200 words",
            "  * **Why bees matter** (~1200 Words)",
            "1. Why bees matter [1200 words].",
            "12) Why bees matter, ca. 1200 words",
            "+ Why bees matter（1200字）",
        ] {
            assert_eq!(
                sections(line, None),
                [("Why bees matter".to_owned(), 1200)],
                "{line}"
            );
        }
        assert_eq!(
            sections("- The words of 1984 (50 words)", None),
            [("The words of 1984".to_owned(), 50)]
        );
    }

    #[test]
    fn titles_rules_and_comments_are_passed_over_and_words_shared() {
        let text = "# Bees\n\n---\n<!-- to do -->\n- One (100 words)\n- Two in 1984\n- Three\n";
        let expected = [("One", 100), ("Two in 1984", 151), ("Three", 150)]
            .map(|(point, words)| (point.to_owned(), words));
        assert_eq!(sections(text, Some(401)), expected);
    }

    #[test]
    fn errors_name_the_line() {
        for (text, words, expected) in [
            ("- One (100 words)\n\n- Two", None, ["line 3", "--words"]),
            ("- One (100 words)\n- Two", Some(100), ["line 2", "100 of 100"]),
            ("- One (100 words)\nand more", None, ["line 2", "`and more`"]),
            (
                "{\"sections\": [\n{\"main_point\": 3}]}",
                None,
                ["line 2", "string"],
            ),
            ("# Only a title", None, ["no sections", "(300 words)"]),
            ("- One (0 words)", None, ["section 1", "no words"]),
            ("- (100 words)", None, ["section 1", "says nothing"]),
        ] {
            let error = read(text, words).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Plan);
            assert!(
                expected.iter().all(|part| error.to_string().contains(part)),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let plan = Plan {
            sections: vec![
                PlannedSection {
                    main_point: format!("A point of {} letters", "many ".repeat(60)),
                    words: 334,
                },
                PlannedSection {
                    main_point: "3000 bees: what 5 of them do".to_owned(),
                    words: 20,
                },
            ],
        };
        assert_eq!(read(&plan.to_lines(), None).unwrap(), plan);
        assert_eq!(
            read(&serde_json::to_string_pretty(&plan).unwrap(), None).unwrap(),
            plan
        );
    }
}
