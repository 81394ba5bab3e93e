use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  Check everything before a training run:
    lwv-data validate train.jsonl --media-dir pictures --model ./Qwen2.5-VL-7B-Instruct --max-length 8192

  How long the answers of the published dataset are, as a table and a plot:
    lwv-data stats ./LongWriter-V-22K --plot lengths.svg

  The same with tokens, as one JSON object:
    lwv-data stats a.jsonl b.parquet --model ./Qwen2.5-VL-7B-Instruct --json

Exit status: 0 done, 1 failed or samples are unusable, 2 wrong usage, 130 interrupted.";

/// Checks and measures datasets for supervised training.
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
