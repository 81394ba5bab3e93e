use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{ArgGroup, Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use lwv_export::{Error, Progress, Recipe, export};
use lwv_model::{ParitySummary, Precision, Target};
use serde_json::json;

use crate::peak_memory::peak_rss_bytes;

const EXAMPLES: &str = "\
Examples:
  lwv-export ./LongWriter-V-7B ./bundle --fp16
  lwv-export ./checkpoint ./bundle --fp32 --verify
  lwv-export ./Qwen2.5-VL-7B-Instruct ./bundle --fp16 --adapter ./my-lora --json";

/// Exports a checkpoint in Hugging Face layout into a bundle of ONNX graphs.
///
/// The bundle appears whole or not at all. A bundle that stands in its place already is replaced.
#[derive(Parser)]
#[command(name = "lwv-export", version, after_help = EXAMPLES)]
#[command(group(ArgGroup::new("precision").args(["fp32", "fp16"])))]
struct Args {
    /// Folder with `config.json`, safetensors, tokenizer and processor files
    checkpoint: PathBuf,
    /// Folder to write
    bundle: PathBuf,
    /// Write 32-bit floats
    #[arg(long)]
    fp32: bool,
    /// Write 16-bit floats (the default)
    #[arg(long)]
    fp16: bool,
    /// What the graphs are lowered for
    #[arg(long, value_enum, default_value = "ort")]
    target: TargetArg,
    /// Merge the LoRA in this folder (PEFT layout)
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Compare the bundle with the checkpoint and write `parity.json` into it
    #[arg(long)]
    verify: bool,
    /// With --verify: the ONNX Runtime library, if not found by itself
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Print a JSON object as the last line of stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum TargetArg {
    /// ONNX Runtime on CPU or CUDA
    Ort,
}

impl Args {
    fn resolve(&self) -> Result<Recipe, Error> {
        let absolute = |path: &Path| {
            std::path::absolute(path).map_err(|source| Error::Io {
                action: "find",
                path: path.to_owned(),
                source,
            })
        };
        let TargetArg::Ort = self.target;
        Ok(Recipe {
            checkpoint: absolute(&self.checkpoint)?,
            bundle: absolute(&self.bundle)?,
            adapter: self.adapter.as_deref().map(absolute).transpose()?,
            precision: if self.fp32 {
                Precision::Fp32
            } else {
                Precision::Fp16
            },
            target: Target::Ort,
        })
    }
}

/// Parses the command line and runs it.
pub(crate) fn run() -> anyhow::Result<()> {
    let args = Args::parse();
    let recipe = args.resolve()?;
    let started = Instant::now();
    let bar = Bar::new(&recipe);
    let mut parity = None;
    let summary = export(&recipe, &bar, &mut |bundle| {
        if !args.verify {
            return Ok(None);
        }
        bar.0.set_message("comparing with the checkpoint");
        let summary = verify(&recipe, bundle, args.onnxruntime.as_deref())?;
        parity = Some(summary.clone());
        Ok(Some(summary))
    })?;
    bar.0.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let result = json!({
        "bundle": recipe.bundle, "seconds": seconds, "peak_rss_bytes": peak_rss_bytes(),
        "bytes_written": summary.bytes_written, "graphs": summary.graphs, "parity": parity,
    });
    print(&args, &recipe, &result);
    match parity {
        Some(ParitySummary { passed: false, .. }) => {
            let report = recipe.bundle.join("parity.json");
            anyhow::bail!(
                "the bundle differs from the checkpoint by more than its precision explains; see `{}`",
                report.display()
            )
        }
        _ => Ok(()),
    }
}

#[cfg(feature = "verify")]
fn verify(recipe: &Recipe, bundle: &Path, library: Option<&Path>) -> Result<ParitySummary, Error> {
    lwv_export::verify::verify(recipe, bundle, library)
}

#[cfg(not(feature = "verify"))]
fn verify(recipe: &Recipe, _: &Path, _: Option<&Path>) -> Result<ParitySummary, Error> {
    let reason = "this build has no --verify; build with feature `verify`";
    Err(Error::MissingFile {
        dir: recipe.checkpoint.clone(),
        file: "parity report",
        reason,
    })
}

#[expect(clippy::print_stdout, reason = "the command line's own output")]
fn print(args: &Args, recipe: &Recipe, result: &serde_json::Value) {
    if args.json {
        println!("{result}");
        return;
    }
    let seconds = result["seconds"].as_f64().unwrap_or(0.0);
    let gigabytes = result["bytes_written"].as_u64().unwrap_or(0) as f64 / 1e9;
    println!(
        "wrote {} ({gigabytes:.2} GB) in {seconds:.1} s",
        recipe.bundle.display()
    );
}

/// A progress bar over the bytes of weights, on a terminal only.
struct Bar(ProgressBar);

impl Bar {
    fn new(recipe: &Recipe) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        let template =
            "{msg:24} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta}";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(
            recipe
                .checkpoint
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default(),
        );
        Self(bar)
    }
}

impl Progress for Bar {
    fn graph(&self, name: &str) {
        self.0.set_message(name.to_owned());
    }
    fn read(&self, bytes: u64) {
        self.0.inc(bytes);
    }
    fn total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }
}
