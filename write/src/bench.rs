use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use lwv_processor::Prompt;
use lwv_runtime::{
    CancelToken, DEFAULT_PREFILL_CHUNK, Engine, Event, GenerationSettings, MemoryEstimate, SamplerSettings,
    Stats,
};
use lwv_write::{EngineOptions, Progress};
use serde::Serialize;

use crate::print_text;

/// What is read where no tokens were given, again and again.
const TEXT: &str =
    "The lighthouse keeper climbed the stairs every evening, trimmed the wick, and wrote down the weather. ";

const EXAMPLES: &str = "\
Examples:
  How fast is it here, in short and in long texts?
    lwv-write bench bundle

  How fast is it with ONNX Runtime's own attention and products?
    lwv-write bench bundle --lengths 8000
    lwv-write bench bundle --lengths 8000 --library-kernels

  Figures for a table, of one thread:
    lwv-write bench bundle --lengths 64,512,4096 --runs 5 --threads 1 --json";

/// Measures how fast a bundle reads and writes.
///
/// Every run is a new text; the first one of each length is not counted. What is printed are medians.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    /// Folder of the bundle.
    bundle: PathBuf,
    /// Tokens that are read, one length after the other.
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "64,512,2048",
        value_parser = clap::value_parser!(u32).range(1..))]
    lengths: Vec<u32>,
    /// Tokens that are written after each.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..))]
    new_tokens: u32,
    /// Runs that are counted.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// File with a JSON list of token ids to read, again and again where more are wanted.
    #[arg(long, value_name = "FILE")]
    prompt_ids: Option<PathBuf>,
    /// Print one JSON object a length instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineOptions,
}

/// Medians of the runs of one length.
#[derive(Debug, Serialize)]
struct Figures {
    tokens: usize,
    runs: u32,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    time_to_first_token: f64,
    /// Bytes of weights and cache that writing reads in a second.
    decode_bytes_per_second: f64,
    kv_bytes: u64,
    provider: String,
    threads: usize,
}

impl Bench {
    /// Measures and prints a length at a time.
    ///
    /// # Errors
    /// The bundle cannot be loaded or has no room for a length, or the ids cannot be read.
    pub(crate) fn run(&self, cancel: &CancelToken) -> Result<()> {
        let progress = Progress::new(None, false);
        let shown = progress.clone();
        let engine = self
            .engine
            .load(&self.bundle, cancel, move |step| shown.load(&step))?;
        progress.finish();
        let text = self.text(&engine)?;
        if !self.json {
            print_text(" tokens   reading   writing  first token  memory read     cache\n")?;
        }
        for length in &self.lengths {
            let ids: Vec<u32> = text.iter().copied().cycle().take(*length as usize).collect();
            let figures = self.measure(&engine, &ids, cancel)?;
            print_text(&match self.json {
                true => serde_json::to_string(&figures)? + "\n",
                false => figures.row(),
            })?;
        }
        Ok(())
    }

    /// Tokens to make prompts of.
    fn text(&self, engine: &Engine) -> Result<Vec<u32>> {
        let ids = match &self.prompt_ids {
            Some(path) => read_ids(path)?,
            None => engine.processor().raw_prompt(TEXT, &[])?.input_ids,
        };
        ensure!(!ids.is_empty(), "there is no token to read");
        Ok(ids)
    }

    fn measure(&self, engine: &Engine, ids: &[u32], cancel: &CancelToken) -> Result<Figures> {
        self.write(engine, ids, cancel)?;
        let runs: Vec<Stats> = (0..self.runs)
            .map(|_| self.write(engine, ids, cancel))
            .collect::<Result<_>>()?;
        let median_of = |figure: fn(&Stats) -> f64| median(runs.iter().map(figure).collect());
        let decode = median_of(|stats| stats.decode_tokens_per_second);
        let estimate = MemoryEstimate::of(engine.bundle(), ids.len(), DEFAULT_PREFILL_CHUNK);
        Ok(Figures {
            tokens: ids.len(),
            runs: self.runs,
            prefill_tokens_per_second: median_of(|stats| stats.prefill_tokens_per_second),
            decode_tokens_per_second: decode,
            time_to_first_token: median_of(|stats| stats.time_to_first_token),
            decode_bytes_per_second: decode / estimate.tokens_per_second(1.0),
            kv_bytes: runs[0].kv_bytes,
            provider: engine.provider().to_owned(),
            threads: engine.threads(),
        })
    }

    /// Reads `ids` and writes on, in a text of its own.
    fn write(&self, engine: &Engine, ids: &[u32], cancel: &CancelToken) -> Result<Stats> {
        let mut session = engine.session()?;
        session.extend(Prompt {
            input_ids: ids.to_vec(),
            images: Vec::new(),
        })?;
        let settings = GenerationSettings {
            sampler: SamplerSettings {
                greedy: true,
                ..SamplerSettings::default()
            },
            max_new_tokens: self.new_tokens as usize,
            ignore_eos: true,
            cancel: cancel.clone(),
            ..GenerationSettings::default()
        };
        let mut stats = Stats::default();
        for event in session.generate(settings)? {
            if let Event::Finished { stats: whole, .. } = event? {
                stats = whole;
            }
        }
        let (written, wanted) = (stats.generated_tokens, self.new_tokens as usize);
        ensure!(
            written == wanted,
            "{written} of {wanted} tokens were written after {}: the context ends there; take a smaller one of `--lengths`",
            ids.len()
        );
        Ok(stats)
    }
}

impl Figures {
    fn row(&self) -> String {
        format!(
            "{:7}{:8.1}/s{:8.1}/s{:11.3} s{:8.1} GB/s{:7.1} MB\n",
            self.tokens,
            self.prefill_tokens_per_second,
            self.decode_tokens_per_second,
            self.time_to_first_token,
            self.decode_bytes_per_second / 1e9,
            self.kv_bytes as f64 / 1e6
        )
    }
}

/// A file with a JSON list of token ids.
///
/// # Errors
/// It cannot be read, or is something else.
pub(crate) fn read_ids(path: &Path) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the tokens `{}`", path.display()))?;
    serde_json::from_str(&text).with_context(|| {
        format!(
            "`{}` is no JSON list of token ids, such as [1, 2, 3]",
            path.display()
        )
    })
}

/// The middle one, or the mean of the two in the middle; there must be one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![7.0]), 7.0);
    }

    #[test]
    fn a_file_without_ids_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ids.json");
        std::fs::write(&path, "[1, -2]").unwrap();
        let error = read_ids(&path).unwrap_err().to_string();
        assert!(
            error.contains("ids.json") && error.contains("list of token ids"),
            "{error}"
        );
        std::fs::write(&path, "[1, 2]").unwrap();
        assert_eq!(read_ids(&path).unwrap(), [1, 2]);
    }
}
