use lwv_data::{Dataset, Encoder, Result};
use serde::Serialize;

use crate::sweep::sweep;

/// Unusable samples that are named; more are only counted.
const NAMED: usize = 20;

/// What was found in a dataset.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    pub(crate) samples: usize,
    pub(crate) images: usize,
    /// Samples that cannot be used; with `--strict`, too long ones too.
    pub(crate) unusable: usize,
    /// Samples of more tokens than allowed.
    pub(crate) too_long: usize,
    /// Tokens of the longest sample, where they were counted.
    pub(crate) longest: Option<usize>,
}

/// A usable sample.
struct Sample {
    images: usize,
    tokens: Option<usize>,
    origin: String,
}

/// How strict to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) max_length: Option<usize>,
    pub(crate) strict: bool,
}

/// Checks every sample; `complain` hears of each of the first unusable ones.
pub(crate) fn validate(
    dataset: &Dataset,
    encoder: Option<&Encoder>,
    rules: Rules,
    mut complain: impl FnMut(&str),
) -> Report {
    let mut report = Report::default();
    sweep(
        dataset.len(),
        |index| check(dataset, encoder, index),
        |result| {
            if let Some(problem) = report.add(result, rules) {
                report.unusable += 1;
                if report.unusable <= NAMED {
                    complain(&problem);
                }
            }
        },
    );
    if report.unusable > NAMED {
        complain(&format!("… and `{}` more", report.unusable - NAMED));
    }
    report
}

fn check(dataset: &Dataset, encoder: Option<&Encoder>, index: usize) -> Result<Sample> {
    let conversation = dataset.get(index)?;
    conversation.check_images()?;
    let tokens = encoder
        .map(|encoder| encoder.token_count(&conversation))
        .transpose()?;
    Ok(Sample {
        images: conversation.images.len(),
        tokens,
        origin: conversation.origin.to_string(),
    })
}

impl Report {
    /// Counts a sample. Gives what is wrong with it.
    fn add(&mut self, result: Result<Sample>, rules: Rules) -> Option<String> {
        self.samples += 1;
        let sample = match result {
            Ok(sample) => sample,
            Err(error) => return Some(error.to_string()),
        };
        self.images += sample.images;
        self.longest = self.longest.max(sample.tokens);
        let (tokens, limit) = (sample.tokens?, rules.max_length?);
        if tokens <= limit {
            return None;
        }
        self.too_long += 1;
        rules.strict.then(|| {
            let origin = &sample.origin;
            format!("`{origin}`: `{tokens}` tokens, more than `--max-length` of `{limit}`")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(lines: &[&str]) -> (tempfile::TempDir, Dataset) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let dataset = Dataset::open(&[path], None).unwrap();
        (folder, dataset)
    }

    const GOOD: &str = r#"{"instruction": "a", "output": "b"}"#;
    const LAX: Rules = Rules {
        max_length: None,
        strict: false,
    };

    #[test]
    fn bad_lines_do_not_end_it() {
        let bad_image = r#"{"instruction": "<image>", "output": "b", "images": ["no.png"]}"#;
        let (_folder, dataset) = dataset(&[GOOD, "{", GOOD, bad_image]);
        let mut heard = Vec::new();
        let report = validate(&dataset, None, LAX, |problem| heard.push(problem.to_owned()));
        assert_eq!((report.samples, report.unusable), (4, 2));
        assert!(heard[0].contains("x.jsonl:2`: not valid JSON"), "{heard:?}");
        assert!(
            heard[1].contains("x.jsonl:4`: image `0` (from `0`): cannot read"),
            "{heard:?}"
        );
    }

    #[test]
    fn many_bad_lines_are_counted() {
        let (_folder, dataset) = dataset(&["x"; 25]);
        let mut heard = Vec::new();
        let report = validate(&dataset, None, LAX, |problem| heard.push(problem.to_owned()));
        assert_eq!((report.unusable, heard.len()), (25, 21));
        assert_eq!(heard[20], "… and `5` more");
    }

    #[test]
    fn length_counts_and_is_strict_on_request() {
        let sample = || {
            Ok(Sample {
                images: 2,
                tokens: Some(11),
                origin: "x.jsonl:1".to_owned(),
            })
        };
        let max_length = Some(10);
        let mut report = Report::default();
        let lax = Rules { max_length, ..LAX };
        assert_eq!(report.add(sample(), lax), None);
        assert_eq!((report.too_long, report.longest, report.images), (1, Some(11), 2));
        let strict = Rules { strict: true, ..lax };
        assert_eq!(
            report.add(sample(), strict).unwrap(),
            "`x.jsonl:1`: `11` tokens, more than `--max-length` of `10`"
        );
    }
}
