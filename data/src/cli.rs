use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  Check everything before a training run:
    lwv-data validate train.jsonl --media-dir pictures --model ./Qwen2.5-VL-7B-Instruct --max-length 8192

  How long the answers of the published dataset are, as a table and a plot:
    lwv-data stats ./LongWriter-V-22K --plot lengths.svg

  The same with tokens, as one JSON object:
    lwv-data stats a.jsonl b.parquet --model ./Qwen2.5-VL-7B-Instruct --json

  Make preference pairs of corrected texts, for `lwv-train iter-dpo`, a tenth of the texts held out:
    lwv-data pairs corrections.jsonl --out pairs.jsonl --val-size 0.1 --eval-out held-out.jsonl

Exit status: 0 done, 1 failed or samples are unusable, 2 wrong usage, 130 interrupted.";

/// Checks and measures datasets for training, and makes preference pairs of corrections.
#[derive(Debug, Parser)]
#[command(name = "lwv-data", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check every sample and name each that cannot be used
    #[command(after_help = EXAMPLES)]
    Validate(Validate),
    /// Count samples and images, and show how long answers are
    #[command(after_help = EXAMPLES)]
    Stats(Stats),
    /// Make preference pairs of texts that were corrected, one for each prefix of pages (IterDPO)
    #[command(after_help = PAIRS)]
    Pairs(Pairs),
}

const PAIRS: &str = r#"A row of CORRECTIONS is a JSON object on a line:
  {"id": "deck-1", "instruction": "Write a lecture.", "images": ["1.png", "2.png"],
   "original": ["page 1 as written", ""], "revised": ["page 1 as it should be", "what was missing"]}
Beside "images", or instead, "sources" has what the prompt says of each page. Prompts of prefixes are cut with the text.
Texts without pages are strings: they are cut at Markdown headings, or else after sentences that were changed.

Examples:
  lwv-data pairs corrections.jsonl --out pairs.jsonl
  lwv-data pairs a.jsonl b.jsonl --media-dir slides --out pairs.jsonl --script-weight equal-scripts --json
  lwv-data pairs corrections.jsonl --out whole.jsonl --prefixes whole"#;

/// Which prefixes pairs are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Prefixes {
    /// Every one.
    All,
    /// The whole text only.
    Whole,
}

/// How much the pairs of a text count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ScriptWeight {
    /// 1 each, so that long texts count more.
    EqualPairs,
    /// 1/N for a text of N pages.
    EqualScripts,
}

/// What prefixes teach about the end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ends {
    /// That it ends there, where the prompt shows no more pages; nothing, where it does.
    Auto,
    /// That it ends there, in all cases.
    Closed,
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct Pairs {
    /// Files of JSON with corrected texts.
    #[arg(required = true)]
    pub(crate) corrections: Vec<PathBuf>,
    /// File to write the pairs to; the settings go into FILE.recipe.json.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Folder that paths of images start from; by default that of the corrections' file.
    #[arg(long, value_name = "DIR")]
    pub(crate) media_dir: Option<PathBuf>,
    /// Which prefixes pairs are made of.
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) prefixes: Prefixes,
    /// How much the pairs of a text count.
    #[arg(long, value_enum, default_value = "equal-pairs")]
    pub(crate) script_weight: ScriptWeight,
    /// What prefixes teach about the end of a text.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) ends: Ends,
    /// What stands between two pages, `\\n` being a line break.
    #[arg(long, default_value = "\\n\\n")]
    pub(crate) separator: String,
    /// Texts whose pairs go to --eval-out: a share below 1, else a count.
    #[arg(long, value_name = "X", default_value_t = 0.0, requires = "eval_out")]
    pub(crate) val_size: f64,
    /// File for the pairs of the texts that are held out.
    #[arg(long, value_name = "FILE")]
    pub(crate) eval_out: Option<PathBuf>,
    /// Seed that texts are drawn with.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Stop at a row that cannot be used instead of leaving it out.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Print one JSON object at the end instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Validate {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Most tokens of a sample; longer ones are counted.
    #[arg(long, value_name = "N", requires = "model")]
    pub(crate) max_length: Option<usize>,
    /// Samples that are too long are unusable.
    #[arg(long, requires = "max_length")]
    pub(crate) strict: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args, Serialize)]
pub(crate) struct Stats {
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) source: Source,
    /// Draw the lengths into this file, .svg or .png; the settings go into FILE.recipe.json.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Print one JSON object at the end instead of the table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which samples, and how they are encoded.
#[derive(Debug, Args, Serialize)]
pub(crate) struct Source {
    /// Files or folders: JSON or JSON lines (sharegpt, alpaca, OpenAI messages), Parquet.
    #[arg(required = true)]
    pub(crate) dataset: Vec<PathBuf>,
    /// Folder that paths of images start from; by default that of the dataset's file.
    #[arg(long, value_name = "DIR")]
    pub(crate) media_dir: Option<PathBuf>,
    /// Folder of the checkpoint whose tokens are counted.
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) model: Option<PathBuf>,
    /// Fewest pixels of a resized image; by default the checkpoint's.
    #[arg(long, value_name = "N", requires = "model")]
    pub(crate) image_min_pixels: Option<usize>,
    /// Most pixels of a resized image; by default the checkpoint's.
    #[arg(long, value_name = "N", requires = "model")]
    pub(crate) image_max_pixels: Option<usize>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
        let parse = |arguments: &[&str]| Arguments::try_parse_from([&["lwv-data"], arguments].concat());
        assert!(parse(&["stats", "a.jsonl", "b", "--plot", "x.svg"]).is_ok());
        assert!(parse(&["validate"]).is_err(), "a dataset is needed");
        assert!(
            parse(&["validate", "a", "--max-length", "9"]).is_err(),
            "a length needs a model"
        );
    }
}
