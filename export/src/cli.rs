//! What both command lines share.

mod bar;
mod check_options;
mod engine_options;
mod integer_options;
mod target_option;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

pub(crate) use bar::Bar;
pub(crate) use check_options::CheckOptions;
pub(crate) use engine_options::EngineOptions;
pub(crate) use integer_options::IntegerOptions;
use lwv_export::{Error, Recipe, export};
#[cfg(feature = "verify")]
use lwv_model::Target;
use lwv_model::{ParitySummary, Precision};
use serde_json::json;
pub(crate) use target_option::TargetOption;

use crate::peak_memory::peak_rss_bytes;

/// Exports, compares and tells.
///
/// # Errors
/// What the exporter says, or a bundle that differs too much.
pub(crate) fn run(recipe: &Recipe, check: &CheckOptions, json: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    check.find_library(recipe.precision)?;
    let bar = Bar::new(recipe);
    let mut parity = None;
    let summary = export(recipe, &bar, &mut |recipe, bundle| {
        parity = compare(recipe, bundle, check, &bar)?;
        Ok(parity.clone())
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

/// What to do about a bundle that is not kept: its report is put beside its place, and the parts are named that lose most.
#[cfg(feature = "verify")]
fn refuse(recipe: &Recipe, bundle: &Path, bar: &Bar) -> Result<Error, Error> {
    let mut name = recipe.bundle.file_name().unwrap_or_default().to_owned();
    name.push(".parity.json");
    let report = recipe.bundle.with_file_name(name);
    let io = |source| Error::Io {
        action: "write",
        path: report.clone(),
        source,
    };
    std::fs::copy(bundle.join("parity.json"), &report).map_err(io)?;
    let written = std::fs::read(&report).map_err(io)?;
    let written: serde_json::Value = serde_json::from_slice(&written).unwrap_or_default();
    let failures = written["failures"].as_array().into_iter().flatten();
    let failures: Vec<&str> = failures.filter_map(serde_json::Value::as_str).collect();
    Ok(Error::Differs {
        failures: failures.join(", "),
        worst: worst(recipe, bar)?,
        report,
    })
}

/// The parts of the decoder that lose most, where weights are integers and are all that is rounded.
#[cfg(feature = "verify")]
fn worst(recipe: &Recipe, bar: &Bar) -> Result<String, Error> {
    if !is_integer(recipe.precision) {
        return Ok(String::new());
    }
    if recipe.target == Target::TensorRt {
        let advice = match recipe.precision {
            Precision::Int8 => {
                ". What layers read is rounded too: --int4 rounds weights alone, and --fp16 nothing"
            }
            _ => "",
        };
        return Ok(advice.to_owned());
    }
    let mut losses = lwv_export::sensitivity(recipe, bar)?;
    losses.sort_by(|a, b| b.mean_divergence.total_cmp(&a.mean_divergence));
    let most = losses.iter().take(5);
    let most: Vec<_> = most
        .map(|loss| format!("`{}` ({:.4})", loss.part, loss.mean_divergence))
        .collect();
    Ok(format!(
        ". Rounded alone, these lose most: {}; --bits-per-weight gives them 8 bits",
        most.join(", ")
    ))
}

/// Compares a finished bundle, where that is wanted.
#[cfg(feature = "verify")]
fn compare(
    recipe: &Recipe,
    bundle: &Path,
    check: &CheckOptions,
    bar: &Bar,
) -> Result<Option<ParitySummary>, Error> {
    if !check.wants(recipe.precision) {
        return Ok(None);
    }
    let (needed, available) = (
        lwv_export::verify::memory(recipe)?,
        lwv_runtime::available_bytes(),
    );
    if !check.verify && available.is_some_and(|available| needed > available) {
        warn(needed, available.unwrap_or_default());
        return Ok(None);
    }
    let summary = lwv_export::verify::verify(recipe, bundle, check.onnxruntime.as_deref(), bar)?;
    if !summary.passed && !check.force {
        return Err(refuse(recipe, bundle, bar)?);
    }
    Ok(Some(summary))
}

#[cfg(not(feature = "verify"))]
fn compare(_: &Recipe, _: &Path, check: &CheckOptions, _: &Bar) -> Result<Option<ParitySummary>, Error> {
    if check.verify {
        return Err(Error::NoEngine("comparing a bundle with its checkpoint"));
    }
    Ok(None)
}

#[cfg(feature = "verify")]
#[expect(clippy::print_stderr, reason = "the command line's own output")]
fn warn(needed: u64, available: u64) {
    let [needed, available] = [needed, available].map(|bytes| bytes as f64 / 1e9);
    eprintln!(
        "warning: not compared with its checkpoint, which takes {needed:.1} GB where {available:.1} GB are free; --verify does \
         it all the same"
    );
}

fn is_integer(precision: Precision) -> bool {
    matches!(precision, Precision::Int8 | Precision::Int4)
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
