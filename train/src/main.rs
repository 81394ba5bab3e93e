//! `lwv-train`: makes checkpoints.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  lwv-train import SmolLM2-135M-Instruct.Q4_1.gguf ./smollm2";

/// Makes checkpoints in Hugging Face layout.
#[derive(Parser)]
#[command(name = "lwv-train", version, after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a checkpoint out of a GGUF file of a Llama model
    Import {
        /// The GGUF file
        gguf: PathBuf,
        /// The folder to write
        checkpoint: PathBuf,
    },
}

fn main() -> ExitCode {
    let Command::Import { gguf, checkpoint } = Args::parse().command;
    match lwv_train::gguf::import(&gguf, &checkpoint) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error.into());
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the command line's own error output")]
fn report(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
