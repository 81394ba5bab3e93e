//! `lwv-export`: checkpoint to bundle, in one command.

mod adapter_command;
mod cli;
mod peak_memory;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use adapter_command::AdapterCommand;
use clap::{ArgGroup, Parser};
use cli::{CheckOptions, EngineOptions, IntegerOptions, TargetOption, absolute, exit, run};
use lwv_export::{Error, Recipe};
use lwv_model::Precision;

const EXAMPLES: &str = "\
Examples:
  lwv-export ./LongWriter-V-7B ./bundle --fp16
  lwv-export ./checkpoint ./bundle --fp32 --verify
  lwv-export ./checkpoint ./bundle --int4 --int8-cache
  lwv-export ./LongWriter-V-7B ./bundle --fp16 --target tensorrt --engine rtx:sm89,sm120
  lwv-export ./checkpoint ./bundle --int4 --calibration my-samples.jsonl --media-dir ./images
  lwv-export ./Qwen2.5-VL-7B-Instruct ./bundle --fp16 --adapter ./my-lora --json

Adapters that are loaded when the bundle runs:
  lwv-export ./checkpoint ./bundle --int4 --runtime-adapters
  lwv-export adapter ./my-lora ./bundle    # see lwv-export adapter --help";

/// Exports a checkpoint in Hugging Face layout into a bundle of ONNX graphs.
///
/// The bundle appears whole or not at all. A bundle that stands in its place already is replaced.
#[derive(Parser)]
#[command(name = "lwv-export", version, after_help = EXAMPLES)]
#[command(group(ArgGroup::new("precision").args(["fp32", "fp16", "int8", "int4"])))]
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
    /// Write matrices of 8-bit integers
    #[arg(long)]
    int8: bool,
    /// Write matrices of 4-bit integers
    #[arg(long)]
    int4: bool,
    /// Where products are of 16 bits: do not run the checkpoint first to find layers that would overflow, which stay in 32 bits
    #[arg(long)]
    no_guard: bool,
    #[command(flatten)]
    integers: IntegerOptions,
    #[command(flatten)]
    target: TargetOption,
    #[command(flatten)]
    engines: EngineOptions,
    /// Merge the LoRA in this folder (PEFT layout)
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    check: CheckOptions,
    /// Print a JSON object as the last line of stdout
    #[arg(long)]
    json: bool,
}

impl Args {
    fn resolve(&self) -> Result<Recipe, Error> {
        let precision = self.precision();
        Ok(Recipe {
            checkpoint: absolute(&self.checkpoint)?,
            bundle: absolute(&self.bundle)?,
            adapter: self.adapter.as_deref().map(absolute).transpose()?,
            runtime_adapters: self.target.runtime_adapters(),
            precision,
            held_out: self.check.held_out.clone(),
            guard: !self.no_guard && cfg!(feature = "verify"),
            islands: BTreeMap::new(),
            quantization: self.integers.resolve(precision)?,
            target: self.target.resolve(),
            engines: self.engines.resolve(self.target.resolve())?,
            tensorrt_version: self.target.tensorrt_version(),
        })
    }

    fn precision(&self) -> Precision {
        match self {
            Self { fp32: true, .. } => Precision::Fp32,
            Self { int8: true, .. } => Precision::Int8,
            Self { int4: true, .. } => Precision::Int4,
            _ => Precision::Fp16,
        }
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    exit(if words.nth(1).is_some_and(|word| word == "adapter") {
        let program = "lwv-export adapter".into();
        AdapterCommand::parse_from(std::iter::once(program).chain(words)).run()
    } else {
        let args = Args::parse();
        args.resolve()
            .map_err(Into::into)
            .and_then(|recipe| run(&recipe, &args.check, args.json))
    })
}
