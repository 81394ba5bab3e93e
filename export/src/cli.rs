//! What both command lines share.

mod bar;
mod check_options;
mod integer_options;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

pub(crate) use bar::Bar;
pub(crate) use check_options::CheckOptions;
pub(crate) use integer_options::IntegerOptions;
use lwv_export::{Error, Recipe, export};
use lwv_model::ParitySummary;
use serde_json::json;

use crate::peak_memory::peak_rss_bytes;

/// Exports, compares and tells.
///
/// # Errors
/// What the exporter says, or a bundle that differs too much.
pub(crate) fn run(recipe: &Recipe, check: &CheckOptions, json: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    let bar = Bar::new(recipe);
    let mut parity = None;
    let summary = export(recipe, &bar, &mut |recipe, bundle| {
        if !check.wants(recipe.precision) {
            return Ok(None);
        }
        bar.comparing();
        let summary = verify(recipe, bundle, check.onnxruntime.as_deref())?;
        parity = Some(summary.clone());
        if !summary.passed && !check.force {
            return Err(keep_report(recipe, bundle)?);
        }
        Ok(Some(summary))
    })?;
    bar.finish();
    let seconds = started.elapsed().as_secs_f64();
    let result = json!({
        "bundle": recipe.bundle, "seconds": seconds, "peak_rss_bytes": peak_rss_bytes(),
        "bytes_written": summary.bytes_written, "graphs": summary.graphs, "parity": parity,
    });
    print(recipe, &result, json);
    Ok(())
}

/// Copies the report of a bundle that is not kept beside its place.
fn keep_report(recipe: &Recipe, bundle: &Path) -> Result<Error, Error> {
    let mut name = recipe.bundle.file_name().unwrap_or_default().to_owned();
    name.push(".parity.json");
    let report = recipe.bundle.with_file_name(name);
    let io = |source| Error::Io {
        action: "write",
        path: report.clone(),
        source,
    };
    std::fs::copy(bundle.join("parity.json"), &report).map_err(io)?;
    Ok(Error::Differs { report })
}

#[cfg(feature = "verify")]
fn verify(recipe: &Recipe, bundle: &Path, library: Option<&Path>) -> Result<ParitySummary, Error> {
    lwv_export::verify::verify(recipe, bundle, library)
}

#[cfg(not(feature = "verify"))]
fn verify(_: &Recipe, _: &Path, _: Option<&Path>) -> Result<ParitySummary, Error> {
    Err(Error::NoEngine("comparing a bundle with its checkpoint"))
}

#[expect(clippy::print_stdout, reason = "the command line's own output")]
fn print(recipe: &Recipe, result: &serde_json::Value, json: bool) {
    if json {
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

/// `path` from the root, so that a recipe can be read anywhere.
///
/// # Errors
/// The current folder is gone.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Io {
        action: "find",
        path: path.to_owned(),
        source,
    })
}

/// The exit status, after telling what went wrong.
#[expect(clippy::print_stderr, reason = "the command line's own error output")]
pub(crate) fn exit(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
