//! `lwv-serve`: answers OpenAI's chat completions from a bundle. See `lwv-serve --help`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cli;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use lwv_runtime::CancelToken;
use lwv_serve::{Model, Server, Stop};
use lwv_write::Progress;

use crate::cli::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    lwv_write::prepare();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    // Before the model is loaded, which takes long.
    let server = Server::bind(arguments.settings()?)?;
    let model = load(arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot begin to serve")?;
    runtime.block_on(async {
        let stop = Stop::new();
        tokio::spawn(stop_on_signals(stop.clone()));
        announce(&model, &server)?;
        Ok(server.run(model, stop).await?)
    })
}

fn load(arguments: &Arguments) -> Result<Model> {
    let progress = Progress::new(None, false);
    let shown = progress.clone();
    let engine = arguments
        .engine
        .load(&arguments.bundle, &CancelToken::new(), move |step| {
            shown.load(&step)
        });
    progress.finish();
    Ok(Model::of_engine(arguments.model_name()?, &engine?)?)
}

/// The address is what this program puts out, for whoever started it.
fn announce(model: &Model, server: &Server) -> Result<()> {
    let address = server.address()?;
    say(&format!("serving `{}`; Ctrl-C stops", model.id()));
    let mut out = std::io::stdout().lock();
    writeln!(out, "http://{address}/v1")
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}

/// The first signal lets the text that is being written come to its end, the second cuts it off.
async fn stop_on_signals(stop: Stop) {
    wait_for_signal().await;
    say("stopping after the text that is being written; once more to cut it off");
    stop.finish();
    wait_for_signal().await;
    stop.end();
}

#[cfg(unix)]
async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    // Where service managers stop a program, they send the second one.
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without a handler, the signal ends the process.
        _ => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn wait_for_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler, the signal ends the process.
        std::future::pending::<()>().await;
    }
}

#[expect(clippy::print_stderr, reason = "people read messages on standard error")]
fn say(message: &str) {
    eprintln!("{message}");
}
