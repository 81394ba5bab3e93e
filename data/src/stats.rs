use std::fmt::Write;

use lwv_data::{Dataset, Encoder, Result, count_words};
use serde::Serialize;

use crate::histogram::Histogram;
use crate::sweep::sweep;

/// Characters of the longest bar of a table.
const BAR: usize = 40;

/// What a dataset holds.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Statistics {
    pub(crate) samples: usize,
    /// Samples that could not be read, and are not in the other numbers.
    pub(crate) unusable: usize,
    pub(crate) images: usize,
    pub(crate) answers: usize,
    /// Words of each answer.
    pub(crate) words: Histogram,
    /// Tokens of each sample, where there is a checkpoint.
    pub(crate) tokens: Option<Histogram>,
}

/// Lengths of one sample.
struct Sample {
    images: usize,
    words: Vec<usize>,
    tokens: Option<usize>,
}

/// Measures every sample that can be read; `complain` hears of the first that cannot.
pub(crate) fn statistics(
    dataset: &Dataset,
    encoder: Option<&Encoder>,
    mut complain: impl FnMut(&str),
) -> Statistics {
    let (mut words, mut tokens, mut images, mut unusable) = (Vec::new(), Vec::new(), 0, 0);
    sweep(
        dataset.len(),
        |index| measure(dataset, encoder, index),
        |result| match result {
            Ok(sample) => {
                words.extend(sample.words);
                tokens.extend(sample.tokens);
                images += sample.images;
            }
            Err(error) => {
                if unusable == 0 {
                    complain(&error.to_string());
                }
                unusable += 1;
            }
        },
    );
    if unusable > 0 {
        complain(&format!(
            "`{unusable}` samples were left out; `lwv-data validate` names them"
        ));
    }
    Statistics {
        samples: dataset.len(),
        unusable,
        images,
        answers: words.len(),
        words: Histogram::new("words of an answer", "answers", words),
        tokens: encoder.map(|_| Histogram::new("tokens of a sample", "samples", tokens)),
    }
}

fn measure(dataset: &Dataset, encoder: Option<&Encoder>, index: usize) -> Result<Sample> {
    let conversation = dataset.get(index)?;
    let tokens = encoder
        .map(|encoder| encoder.token_count(&conversation))
        .transpose()?;
    Ok(Sample {
        images: conversation.images.len(),
        words: conversation
            .answers()
            .map(|answer| count_words(&answer))
            .collect(),
        tokens,
    })
}

impl Statistics {
    /// The histograms that there are.
    pub(crate) fn histograms(&self) -> Vec<&Histogram> {
        [&self.words].into_iter().chain(&self.tokens).collect()
    }

    /// All numbers as text.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{:>9} samples\n{:>9} images\n{:>9} answers\n",
            self.samples, self.images, self.answers
        );
        for histogram in self.histograms() {
            // Writing to a string cannot fail.
            let _ = write_histogram(&mut table, histogram);
        }
        table
    }
}

fn write_histogram(table: &mut String, histogram: &Histogram) -> std::fmt::Result {
    writeln!(table, "\n{}", histogram.measure)?;
    writeln!(table, "{:>9.1} mean", histogram.mean)?;
    writeln!(table, "{:>9} median", histogram.median)?;
    writeln!(table, "{:>9} longest", histogram.longest)?;
    let shares = [
        (1000, histogram.over_1000),
        (2000, histogram.over_2000),
        (4000, histogram.over_4000),
    ];
    for (limit, share) in shares {
        writeln!(table, "{:>8.1}% over {limit}", 100.0 * share)?;
    }
    writeln!(table, "\n{:>9}  {}", "from", histogram.unit)?;
    for (index, count) in histogram.bars.iter().enumerate() {
        let bar = "█".repeat((count * BAR).div_ceil(histogram.highest().max(1)));
        writeln!(table, "{:>9} {count:>8} {bar}", index * histogram.bar_width)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_measured_and_bad_samples_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        let lines = [
            r#"{"instruction": "a", "output": "one two 三"}"#,
            "{",
            r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "one"},
                {"from": "human", "value": "b"}, {"from": "gpt", "value": "two"}]}"#,
        ];
        std::fs::write(&path, lines.map(|line| line.replace('\n', " ")).join("\n")).unwrap();
        let mut heard = Vec::new();
        let dataset = Dataset::open(&[path], None).unwrap();
        let statistics = statistics(&dataset, None, |problem| heard.push(problem.to_owned()));
        assert_eq!(
            (statistics.samples, statistics.unusable, statistics.answers),
            (3, 1, 3)
        );
        assert_eq!(statistics.words.bars, [0, 2, 0, 1]);
        assert!(heard[0].contains("x.jsonl:2`"), "{heard:?}");
        assert_eq!(
            heard[1],
            "`1` samples were left out; `lwv-data validate` names them"
        );
        let table = statistics.table();
        assert!(table.contains("        3 samples\n"), "{table}");
        assert!(
            table.contains(&format!("        1        2 {}\n", "█".repeat(BAR))),
            "{table}"
        );
    }
}
