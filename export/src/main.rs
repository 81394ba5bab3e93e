//! `lwv-export`: checkpoint to bundle, in one command.

mod cli;
mod peak_memory;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "the command line's own error output")]
fn report(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
