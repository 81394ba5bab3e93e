//! `lwv-data`: checks and measures datasets, makes preference pairs. See `lwv-data --help`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod cli;
mod histogram;
mod pairs;
mod plot;
mod stats;
mod sweep;
mod validate;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use lwv_data::{Dataset, Encoder, EncoderSettings};
use lwv_processor::Processor;
use serde::Serialize;

use crate::cli::{Arguments, Command, Pairs, Source, Stats, Validate};
use crate::validate::Rules;

/// Exit status after Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = catch_interrupts().and_then(|()| match &arguments.command {
        Command::Validate(arguments) => validate(arguments),
        Command::Stats(arguments) => stats(arguments),
        Command::Pairs(arguments) => pairs(arguments),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {}", with_causes(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The message and the causes that it does not tell itself.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| {
        let cause = cause.to_string();
        match told.as_str() {
            "" => cause,
            told if told.contains(&cause) => told.to_owned(),
            told => format!("{told}: {cause}"),
        }
    })
}

/// Nothing is half done, so the process may end anywhere.
fn catch_interrupts() -> Result<()> {
    ctrlc::set_handler(|| std::process::exit(INTERRUPTED)).context("cannot catch Ctrl-C")
}

/// Whether every sample can be used.
fn validate(arguments: &Validate) -> Result<bool> {
    let (dataset, encoder) = open(&arguments.source)?;
    let rules = Rules {
        max_length: arguments.max_length,
        strict: arguments.strict,
    };
    let report = validate::validate(&dataset, encoder.as_ref(), rules, say);
    if arguments.json {
        print_json(&report)?;
    } else {
        let mut summary = format!(
            "{} samples, {} images, {} unusable",
            report.samples, report.images, report.unusable
        );
        if let Some(max_length) = arguments.max_length {
            summary += &format!(", {} of over {max_length} tokens", report.too_long);
        }
        print(&(summary + "\n"))?;
    }
    Ok(report.unusable == 0)
}

/// Whether every sample could be read.
fn stats(arguments: &Stats) -> Result<bool> {
    let (dataset, encoder) = open(&arguments.source)?;
    let statistics = stats::statistics(&dataset, encoder.as_ref(), say);
    if let Some(path) = &arguments.plot {
        plot::plot(path, &statistics.histograms())?;
        save_recipe(arguments, path)?;
    }
    if arguments.json {
        print_json(&statistics)?;
    } else {
        print(&statistics.table())?;
    }
    Ok(statistics.unusable == 0)
}

/// Whether every row could be used.
fn pairs(arguments: &Pairs) -> Result<bool> {
    let report = pairs::pairs(arguments, say)?;
    save_recipe(arguments, &arguments.out)?;
    if arguments.json {
        print_json(&report)?;
    } else {
        print(&report.table())?;
    }
    Ok(report.unusable == 0)
}

fn open(source: &Source) -> Result<(Dataset, Option<Encoder>)> {
    let settings = EncoderSettings {
        min_pixels: source.image_min_pixels,
        max_pixels: source.image_max_pixels,
        ..Default::default()
    };
    let encoder = match &source.model {
        Some(model) => Some(Encoder::new(Processor::from_dir(model)?, settings)),
        None => None,
    };
    let dataset = Dataset::open(&source.dataset, source.media_dir.as_deref())?;
    Ok((dataset, encoder))
}

/// Writes settings beside the file that was made with them.
fn save_recipe(arguments: &impl Serialize, made: &Path) -> Result<()> {
    let mut path = made.as_os_str().to_owned();
    path.push(".recipe.json");
    let recipe = serde_json::to_string_pretty(arguments)? + "\n";
    std::fs::write(&path, recipe).with_context(|| format!("cannot write `{}`", Path::new(&path).display()))
}

fn print_json(value: &impl Serialize) -> Result<()> {
    print(&(serde_json::to_string(value)? + "\n"))
}

fn print(text: &str) -> Result<()> {
    // Unlike `print!`, this does not panic when nobody reads the pipe any more.
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}

#[expect(clippy::print_stderr, reason = "people read messages on standard error")]
fn say(message: &str) {
    eprintln!("{message}");
}
