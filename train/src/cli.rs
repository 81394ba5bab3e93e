mod desk;
mod emit;
mod memory;
mod plan;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use lwv_train::recipe::{IterDpoArgs, PlanArgs, SaveType, SftArgs};
use lwv_train::{Curve, Preferred, Supervised, plot_curves};

use desk::Desk;

const EXAMPLES: &str = "\
Examples:
  lwv-train sft --model ./Qwen2.5-VL-7B-Instruct --dataset data.jsonl --output-dir ./out --finetuning-type lora
  lwv-train iter-dpo --model ./sft-model --dataset pairs.jsonl --output-dir ./out --finetuning-type lora
  lwv-train plan --recipe train/recipes/longwriter-v-7b-sft.toml --model ./checkpoint --dataset data.jsonl --output-dir ./out
  lwv-train plot steps.jsonl loss.svg
  lwv-train merge ./checkpoint ./out ./merged
  lwv-train import SmolLM2-135M-Instruct.Q4_1.gguf ./smollm2";

/// Trains checkpoints in Hugging Face layout.
#[derive(Parser)]
#[command(name = "lwv-train", version, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Fine-tunes a checkpoint on conversations
    #[command(after_help = SftArgs::EXAMPLES)]
    Sft(Box<SftArgs>),
    /// Fine-tunes a checkpoint on pairs of answers, of which one is better
    #[command(
        after_help = IterDpoArgs::EXAMPLES,
        mut_arg("learning_rate", |arg| arg.help("Learning rate after warm-up [default: 1e-6]"))
    )]
    IterDpo(Box<IterDpoArgs>),
    /// Says how much memory `sft` or `iter-dpo` with the same settings needs, and what would make it fit
    Plan(Box<PlanArgs>),
    /// Draws the losses of trainings over their steps
    Plot {
        /// Files that `--metrics` has written
        #[arg(required = true, value_name = "METRICS")]
        metrics: Vec<PathBuf>,
        /// The picture to write, .svg or .png
        out: PathBuf,
    },
    /// Makes a checkpoint out of a checkpoint and an adapter
    Merge {
        /// The checkpoint
        checkpoint: PathBuf,
        /// The adapter, in PEFT layout
        adapter: PathBuf,
        /// The folder to write
        out: PathBuf,
        /// Type of the weights
        #[arg(long, value_enum, default_value = "auto")]
        save_dtype: SaveType,
    },
    /// Makes a checkpoint out of a GGUF file of a Llama model
    Import {
        /// The GGUF file
        gguf: PathBuf,
        /// The folder to write
        checkpoint: PathBuf,
    },
}

/// Does what the command line says.
pub(crate) fn run() -> Result<ExitCode> {
    match Args::parse().command {
        Command::Sft(args) => train::run::<Supervised>(&args.run, args.resolve()?),
        Command::IterDpo(args) => train::run::<Preferred>(&args.run, args.resolve()?),
        Command::Plan(args) => plan::run(&args),
        Command::Plot { metrics, out } => {
            let curves = metrics.iter().map(|path| Curve::read(path));
            let curves: Vec<Curve> = curves.collect::<Result<_, _>>()?;
            plot_curves(&curves, &out)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Merge {
            checkpoint,
            adapter,
            out,
            save_dtype,
        } => {
            let mut desk = Desk::bytes();
            lwv_train::merge(&checkpoint, &adapter, &out, save_dtype, &mut |bytes, all| {
                desk.moved(bytes, all)
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Import { gguf, checkpoint } => {
            lwv_train::gguf::import(&gguf, &checkpoint)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Prints an error, and the causes that its message does not tell.
#[expect(clippy::print_stderr, reason = "the command line's own error output")]
pub(crate) fn report(error: &anyhow::Error) {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            told = format!("{told}: {cause}");
        }
    }
    eprintln!("error: {told}");
}

/// Prints a line on stdout.
#[expect(clippy::print_stdout, reason = "the command line's own output")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}
