//! `lwv-write`: writes a text from a bundle. See `lwv-write --help`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod bench;
mod cli;
mod desk;
mod long_text;
mod overview;
mod program;
mod recipe;
mod text_file;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use lwv_processor::{Message, Prompt, RgbImage, open_image};
use lwv_runtime::{CancelToken, Draft, Engine, ErrorKind, Event, FinishReason, GenerationSettings};
use lwv_write::Progress;

use crate::bench::Bench;
use crate::cli::{Arguments, Command};
use crate::desk::{Desk, Report};
use crate::recipe::{PromptSource, Recipe};

/// Exit status after Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Most tokens to write where nothing was said.
const USUAL_TOKENS: usize = 4096;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.command {
        Some(Command::Serve { arguments }) => {
            return program::serve(arguments).unwrap_or_else(|error| fail(&error));
        }
        Some(Command::Bench(bench)) => return measure(bench),
        None => {}
    }
    if arguments.estimate || arguments.list_engines {
        return overview(&arguments);
    }
    if let Err(error) = arguments.check() {
        error.exit();
    }
    lwv_write::prepare();
    let cancel = CancelToken::new();
    let outcome = catch_interrupts(&cancel).and_then(|()| run(arguments, &cancel));
    match outcome {
        Ok(FinishReason::Cancelled) => ExitCode::from(INTERRUPTED),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Measures and writes nothing.
fn measure(bench: &Bench) -> ExitCode {
    lwv_write::prepare();
    let cancel = CancelToken::new();
    match catch_interrupts(&cancel).and_then(|()| bench.run(&cancel)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if cancel.is_cancelled() => ExitCode::from(INTERRUPTED),
        Err(error) => fail(&error),
    }
}

/// Tells something and writes nothing.
fn overview(arguments: &Arguments) -> ExitCode {
    let told = match arguments.list_engines {
        true => overview::engines(&arguments.engine.engine_cache()),
        false => overview::estimate(arguments.bundle(), arguments.bandwidth),
    };
    match told.and_then(|text| print_text(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Says what failed, and which exit status that is.
fn fail(error: &anyhow::Error) -> ExitCode {
    say(&format!("error: {}", with_causes(error)));
    let kind = error
        .downcast_ref::<lwv_runtime::Error>()
        .map(lwv_runtime::Error::kind);
    match kind {
        Some(ErrorKind::Cancelled) => ExitCode::from(INTERRUPTED),
        _ => ExitCode::FAILURE,
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

/// The first Ctrl-C ends the writing and keeps the text, the second ends the process.
fn catch_interrupts(cancel: &CancelToken) -> Result<()> {
    let cancel = cancel.clone();
    let handler = move || {
        if cancel.is_cancelled() {
            std::process::exit(i32::from(INTERRUPTED));
        }
        cancel.cancel();
    };
    ctrlc::set_handler(handler).context("cannot catch Ctrl-C")
}

fn run(arguments: Arguments, cancel: &CancelToken) -> Result<FinishReason> {
    let mut draft = arguments.resume().map(long_text::open_draft).transpose()?;
    let recipe = &arguments.resolve(draft.as_ref().map(Draft::header))?;
    let images = match &draft {
        Some(draft) => draft.header().task.open()?.images,
        None => recipe
            .images
            .iter()
            .map(|path| Ok(open_image(path)?))
            .collect::<Result<_>>()?,
    };
    if let Some(path) = &recipe.plan_only {
        let mut progress = Progress::new(None, false);
        let engine = load(recipe, cancel, &progress)?;
        return long_text::plan_only(recipe, &engine, cancel, &mut progress, images, path);
    }
    let mut desk = Desk::new(recipe)?;
    let result = load(recipe, cancel, &desk.progress).and_then(|engine| match recipe.is_long_text() {
        true => long_text::write(recipe, &engine, cancel, &mut desk, images, &mut draft),
        false => write_plain(recipe, &engine, cancel, &mut desk, &images),
    });
    desk.progress.finish();
    let outcome = match result {
        Ok(report) => desk.close(recipe, report),
        Err(error) => {
            desk.abandon();
            Err(error)
        }
    };
    match draft {
        Some(draft) => long_text::settle(recipe, draft, &outcome).and(outcome),
        None => outcome,
    }
}

fn load(recipe: &Recipe, cancel: &CancelToken, progress: &Progress) -> Result<Engine> {
    let progress = progress.clone();
    let engine = recipe
        .engine
        .load(&recipe.bundle, cancel, move |step| progress.load(&step))?;
    if recipe.engine.device == lwv_runtime::Device::Auto && std::io::stderr().is_terminal() {
        say(&format!(
            "computing on {} with {} threads",
            engine.provider(),
            engine.threads()
        ));
    }
    Ok(engine)
}

/// Goes on with a prompt, whatever it is.
fn write_plain(
    recipe: &Recipe,
    engine: &Engine,
    cancel: &CancelToken,
    desk: &mut Desk,
    images: &[RgbImage],
) -> Result<Report> {
    let mut session = engine.session()?;
    session.extend(prompt(recipe, engine, images)?)?;
    let settings = GenerationSettings {
        sampler: recipe.sampler.clone(),
        max_new_tokens: recipe.max_new_tokens.unwrap_or(USUAL_TOKENS),
        stop: recipe.stop.clone(),
        ignore_eos: recipe.ignore_eos,
        loop_guard: recipe.loop_guard,
        lookup_tokens: recipe.lookup_tokens,
        cancel: cancel.clone(),
        ..GenerationSettings::default()
    };
    let mut generation = session.generate(settings)?;
    let mut reason = FinishReason::Cancelled;
    for event in generation.by_ref() {
        let event = event?;
        if let Event::Finished { reason: because, .. } = &event {
            reason = *because;
        }
        desk.progress.generation(&event);
        desk.generation(&event);
    }
    let token_ids = generation.generated().to_vec();
    Ok(desk.report(token_ids, reason))
}

fn prompt(recipe: &Recipe, engine: &Engine, images: &[RgbImage]) -> Result<Prompt> {
    let processor = engine.processor();
    Ok(match &recipe.prompt {
        PromptSource::Ids(ids) => Prompt {
            input_ids: ids.clone(),
            images: Vec::new(),
        },
        PromptSource::Raw(text) => processor.raw_prompt(text, images)?,
        PromptSource::Request(text) => {
            let system = recipe.system.iter().map(|text| Message::text("system", text));
            let user = Message::with_images("user", images.len(), text);
            processor.prompt(&system.chain([user]).collect::<Vec<_>>(), images)?
        }
    })
}

/// Prints `text` at once.
fn print_text(text: &str) -> Result<()> {
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
