use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use lwv_train::recipe::{Recipe, RunArgs};
use lwv_train::{Error, MetricsFile, Objective, Outcome, Trainer, TrainingState};
use serde_json::json;

use super::desk::Desk;
use super::{emit, memory, say};

/// Exit status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Trains, or writes another trainer's files.
pub(crate) fn run<O: Objective>(args: &RunArgs, recipe: Recipe) -> Result<ExitCode> {
    if let Some((engine, dir)) = args.emit()? {
        return emit::run(args, &recipe, engine, dir);
    }
    let resume = resume(args, &recipe)?;
    if let (None, Some(_), Some(metrics)) = (&resume, &args.resume, &args.metrics) {
        // Lost before its first checkpoint, the training begins anew, and its steps do too.
        MetricsFile::open(metrics, Some(0))?;
    }
    let cancelled = Arc::new(AtomicBool::new(false));
    listen(Arc::clone(&cancelled))?;
    let desk = Desk::training();
    let watch = |event: lwv_train::Event<'_>| desk.watch(&event);
    let trainer = Trainer::<O>::open(
        recipe,
        resume.as_deref(),
        args.metrics.as_deref(),
        cancelled,
        &watch,
    );
    let outcome = match trainer.and_then(|trainer| trainer.run(&watch)) {
        Err(Error::Interrupted) => return Ok(ExitCode::from(INTERRUPTED)),
        other => other?,
    };
    if outcome.interrupted {
        desk.line("interrupted; go on with the same command and `--resume`");
    }
    if args.json {
        say(&summary(&outcome));
    }
    let code = if outcome.interrupted { INTERRUPTED } else { 0 };
    Ok(ExitCode::from(code))
}

/// The checkpoint to go on from. `auto` begins anew where there is none.
fn resume(args: &RunArgs, recipe: &Recipe) -> Result<Option<PathBuf>> {
    match args.resume.as_deref() {
        None => Ok(None),
        Some(auto) if auto == Path::new("auto") => Ok(TrainingState::newest(&recipe.training.output_dir)?),
        Some(path) => Ok(Some(path.to_owned())),
    }
}

/// The first Ctrl-C asks the training to save and end, a second one ends it at once.
fn listen(cancelled: Arc<AtomicBool>) -> Result<()> {
    let handler = move || {
        if cancelled.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
    };
    ctrlc::set_handler(handler).context("cannot catch Ctrl-C")
}

fn summary(outcome: &Outcome) -> String {
    json!({
        "step": outcome.step,
        "interrupted": outcome.interrupted,
        "output": outcome.output,
        "loss": outcome.loss,
        "best_eval_loss": outcome.best_eval_loss,
        "left_out": outcome.left_out,
        "peak_rss_bytes": memory::peak(),
    })
    .to_string()
}
