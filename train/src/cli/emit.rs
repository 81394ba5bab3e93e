use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use lwv_train::recipe::{EmitEngine, Recipe, RunArgs};
use serde_json::json;

use super::desk::Desk;
use super::say;

/// Writes another trainer's files into `dir`.
pub(crate) fn run(args: &RunArgs, recipe: &Recipe, engine: EmitEngine, dir: &Path) -> Result<ExitCode> {
    let desk = Desk::training();
    let samples = desk.open_samples(recipe)?;
    lwv_train::emit(engine, recipe, &samples, dir)?;
    let left_out = samples.shortage.describe();
    if !left_out.is_empty() {
        desk.line(&format!("left out: {left_out}"));
    }
    desk.line(&format!(
        "{} has {} samples; its README.md says how to train from it",
        dir.display(),
        samples.train.len()
    ));
    if args.json {
        let summary = json!({
            "output": dir,
            "samples": samples.train.len(),
            "held_out": samples.held_out.len(),
            "left_out": samples.shortage,
        });
        say(&summary.to_string());
    }
    Ok(ExitCode::SUCCESS)
}
