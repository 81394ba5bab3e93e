//! `lwv-quantize`: a bundle in floats, or a checkpoint, to a bundle in integers; and what integers cost where.

mod cli;
mod peak_memory;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use cli::{Bar, CheckOptions, EngineOptions, IntegerOptions, TargetOption, absolute, exit, run};
use lwv_export::{Error, PartLoss, Quantization, Recipe, plot_losses, sensitivity};
use lwv_model::{Precision, Target};
use lwv_quantize::{Bits, BlockScheme};

const EXAMPLES: &str = "\
Examples:
  lwv-quantize ./bundle-fp16 ./bundle-int4 --scheme int4
  lwv-quantize ./bundle-fp32 ./bundle-int4 --scheme int4 --bits-per-weight 5.5 --int8-cache
  lwv-quantize sensitivity ./bundle-fp32 --scheme int4 --plot losses.svg";

/// Makes a bundle of integers from a bundle in f32 or fp16, or from a checkpoint.
///
/// The new bundle is compared with its source. It appears whole or not at all. `lwv-quantize sensitivity --help` tells of the
/// other command: what each part of the decoder loses when it alone is rounded.
#[derive(Parser)]
#[command(name = "lwv-quantize", version, after_help = EXAMPLES)]
struct Quantize {
    /// Bundle in f32 or fp16, or a checkpoint
    source: PathBuf,
    /// Folder to write
    out: PathBuf,
    /// Bits of matrices
    #[arg(long, value_enum)]
    scheme: Scheme,
    #[command(flatten)]
    integers: IntegerOptions,
    #[command(flatten)]
    target: TargetOption,
    #[command(flatten)]
    engines: EngineOptions,
    #[command(flatten)]
    check: CheckOptions,
    /// Print a JSON object as the last line of stdout
    #[arg(long)]
    json: bool,
}

/// Measures what each part of the decoder loses when it alone is rounded: its mean divergence from the whole checkpoint.
#[derive(Parser)]
#[command(name = "lwv-quantize sensitivity", version, after_help = EXAMPLES)]
struct Sensitivity {
    /// Bundle in f32 or fp16, or a checkpoint
    source: PathBuf,
    /// Bits that are measured
    #[arg(long, value_enum, default_value = "int4")]
    scheme: Scheme,
    /// How many weights share a scale
    #[arg(long, value_name = "N", default_value_t = 32)]
    block_size: usize,
    /// Draw the losses into this file, .svg or .png
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Print a JSON object as the last line of stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Scheme {
    /// Matrices of 8-bit integers
    Int8,
    /// Matrices of 4-bit integers
    Int4,
}

impl Scheme {
    fn precision(self) -> Precision {
        match self {
            Self::Int8 => Precision::Int8,
            Self::Int4 => Precision::Int4,
        }
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    exit(if words.nth(1).is_some_and(|word| word == "sensitivity") {
        let program = "lwv-quantize sensitivity".into();
        measure(&Sensitivity::parse_from(std::iter::once(program).chain(words)))
    } else {
        quantize(&Quantize::parse())
    })
}

fn recipe(source: &Path, out: &Path, scheme: Scheme, quantization: Quantization) -> Result<Recipe, Error> {
    Ok(Recipe {
        checkpoint: absolute(source)?,
        bundle: absolute(out)?,
        adapter: None,
        runtime_adapters: false,
        precision: scheme.precision(),
        held_out: None,
        guard: false,
        islands: BTreeMap::new(),
        quantization,
        target: Target::Ort,
        engines: None,
        tensorrt_version: None,
    })
}

fn quantize(arguments: &Quantize) -> anyhow::Result<()> {
    let Quantize {
        source,
        out,
        scheme,
        integers,
        target,
        engines,
        check,
        json,
    } = arguments;
    let quantization = integers.resolve(scheme.precision())?;
    let recipe = Recipe {
        held_out: check.held_out.clone(),
        target: target.resolve(),
        runtime_adapters: target.runtime_adapters(),
        engines: engines.resolve(target.resolve())?,
        guard: !matches!(target.resolve(), Target::Ort),
        tensorrt_version: target.tensorrt_version(),
        ..recipe(source, out, *scheme, quantization)?
    };
    run(&recipe, check, *json)
}

fn measure(arguments: &Sensitivity) -> anyhow::Result<()> {
    let Sensitivity {
        source,
        scheme,
        block_size,
        plot,
        json,
    } = arguments;
    BlockScheme::new(Bits::Four, *block_size)?;
    let quantization = Quantization {
        block_size: *block_size,
        ..Quantization::default()
    };
    let recipe = recipe(source, Path::new("."), *scheme, quantization)?;
    let bar = Bar::new(&recipe);
    let losses = sensitivity(&recipe, &bar)?;
    bar.finish();
    if let Some(path) = plot {
        plot_losses(&losses, path)?;
    }
    print(&losses, *json)
}

#[expect(clippy::print_stdout, reason = "the command line's own output")]
fn print(losses: &[PartLoss], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::json!({"parts": losses}));
        return Ok(());
    }
    println!("| part | weights | mean divergence |\n|---|---|---|");
    for PartLoss {
        part,
        weights,
        mean_divergence,
        ..
    } in losses
    {
        println!("| {part} | {weights} | {mean_divergence:.5} |");
    }
    Ok(())
}
