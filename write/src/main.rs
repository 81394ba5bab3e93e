//! `lwv-write`: writes a text from a bundle. See `lwv-write --help`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod bench;
mod cli;
mod long_text;
mod overview;
mod program;
mod text_file;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use lwv_processor::{Message, Prompt, RgbImage, open_image};
use lwv_runtime::{
    CancelToken, Draft, Engine, ErrorKind, Event, FinishReason, GenerationSettings, Stats, WriterEvent,
};
use lwv_write::{Progress, SettledText};
use serde::Serialize;

use crate::bench::Bench;
use crate::cli::{Arguments, Command, PromptSource, Recipe};
use crate::text_file::{TextFile, beside};

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

/// Where the text goes, and what was seen on the way.
struct Desk {
    progress: Progress,
    file: Option<TextFile>,
    stdout: Option<SettledText>,
    text: String,
    stats: Totals,
    /// What is to be said when the text is there.
    notes: Vec<String>,
    /// Whether the model saw the whole text so far, for all sections.
    shown_whole: bool,
    /// The first failure of writing the text; told at the end, since events cannot fail.
    failure: Option<anyhow::Error>,
}

/// Sums over all generations of a run.
#[derive(Default)]
struct Totals {
    last: Stats,
    prompt_tokens: usize,
    loop_interventions: usize,
    guessed_tokens: usize,
    accepted_tokens: usize,
    prefilled: usize,
    prefill_seconds: f64,
    steps: usize,
    decode_seconds: f64,
}

/// The last line with `--json`.
#[derive(Serialize)]
struct Report {
    text: String,
    token_ids: Vec<u32>,
    prompt_tokens: usize,
    finish_reason: FinishReason,
    loop_interventions: usize,
    guessed_tokens: usize,
    accepted_tokens: usize,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    time_to_first_token: f64,
    kv_bytes: u64,
    peak_rss_bytes: u64,
    provider: String,
}

impl Desk {
    fn new(recipe: &Recipe) -> Result<Self> {
        let to_stdout = recipe.out.is_none() && !recipe.json;
        Ok(Self {
            progress: Progress::new(recipe.words, to_stdout && std::io::stdout().is_terminal()),
            file: recipe.out.as_deref().map(TextFile::create).transpose()?,
            stdout: to_stdout.then(|| SettledText::new(recipe.loop_guard)),
            text: String::new(),
            stats: Totals::default(),
            notes: Vec::new(),
            shown_whole: true,
            failure: None,
        })
    }

    fn writer(&mut self, event: &WriterEvent) {
        self.watch(event);
        match event {
            WriterEvent::Text(text) => {
                self.put(text);
                self.settle_all();
            }
            WriterEvent::Generation(event) => self.text(event),
            _ => {}
        }
    }

    /// Takes notice of what is no text.
    fn watch(&mut self, event: &WriterEvent) {
        self.progress.writer(event);
        match event {
            WriterEvent::Generation(Event::Finished { stats, .. }) => self.stats.add(stats),
            WriterEvent::Shortfall { index, words, wanted } => {
                let section = index + 1;
                self.notes.push(format!(
                    "section {section} has {words} of {wanted} words: the model did not write more"
                ));
            }
            WriterEvent::TextLeftOut { index, words } if self.shown_whole => {
                self.shown_whole = false;
                let section = index + 1;
                self.notes
                    .push(format!("the context is full: from section {section} on the model did not see the first {words} words or more"));
            }
            _ => {}
        }
    }

    fn generation(&mut self, event: &Event) {
        self.text(event);
        if let Event::Finished { stats, .. } = event {
            self.stats.add(stats);
        }
    }

    fn text(&mut self, event: &Event) {
        match event {
            Event::Token { text, .. } => self.put(text),
            Event::Rewound { bytes, .. } => self.take_back(*bytes),
            Event::Settled { bytes } => self.print(|stdout| stdout.settle(*bytes)),
            Event::Finished { text, .. } => {
                self.put(text);
                self.settle_all();
            }
            _ => {}
        }
    }

    fn put(&mut self, text: &str) {
        self.text.push_str(text);
        if let Some(file) = &mut self.file {
            let written = file.push(text);
            self.note(written);
        }
        self.print(|stdout| stdout.push(text));
    }

    fn take_back(&mut self, bytes: usize) {
        self.text.truncate(self.text.len() - bytes);
        if let Some(stdout) = &mut self.stdout {
            stdout.take_back(bytes);
        }
        if let Some(file) = &mut self.file {
            let taken = file.take_back(bytes);
            self.note(taken);
        }
    }

    /// All text so far stays.
    fn settle_all(&mut self) {
        self.print(SettledText::settle_all);
    }

    fn print(&mut self, settled: impl FnOnce(&mut SettledText) -> String) {
        if let Some(stdout) = &mut self.stdout {
            let printed = print_text(&settled(stdout));
            self.note(printed);
        }
    }

    fn note(&mut self, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.failure.get_or_insert(error);
        }
    }

    fn report(&mut self, token_ids: Vec<u32>, finish_reason: FinishReason) -> Report {
        let per_second = |count: usize, seconds: f64| {
            if seconds > 0.0 {
                count as f64 / seconds
            } else {
                0.0
            }
        };
        let totals = &self.stats;
        Report {
            text: self.text.clone(),
            token_ids,
            prompt_tokens: totals.prompt_tokens,
            finish_reason,
            loop_interventions: totals.loop_interventions,
            guessed_tokens: totals.guessed_tokens,
            accepted_tokens: totals.accepted_tokens,
            prefill_tokens_per_second: per_second(totals.prefilled, totals.prefill_seconds),
            decode_tokens_per_second: per_second(totals.steps, totals.decode_seconds),
            time_to_first_token: totals.last.time_to_first_token,
            kv_bytes: totals.last.kv_bytes,
            peak_rss_bytes: lwv_runtime::peak_rss_bytes(),
            provider: totals.last.provider.clone(),
        }
    }

    /// Brings the text where it belongs and says what has to be said.
    fn close(mut self, recipe: &Recipe, report: Report) -> Result<FinishReason> {
        // A text with a hole is not given its name.
        if let Some(failure) = self.failure.take() {
            self.abandon();
            return Err(failure);
        }
        let (reason, cancelled) = (
            report.finish_reason,
            report.finish_reason == FinishReason::Cancelled,
        );
        if self.stdout.is_some() && !self.text.ends_with('\n') {
            print_text("\n")?;
        }
        self.notes.iter().for_each(|note| say(note));
        match (self.file, &recipe.out) {
            (Some(file), _) if cancelled => keep(file, "cancelled; ", !self.text.is_empty()),
            (Some(mut file), Some(path)) => {
                file.push("\n")?;
                file.finish()?;
                save_recipe(recipe, path)?;
            }
            _ => {}
        }
        if reason == FinishReason::LoopDetected {
            say(
                "the text ends early: the model turned in circles, and three tries did not get it out; try a higher \
                 `--temperature`, `--dry-multiplier 0.8`, or another prompt",
            );
        }
        if recipe.json {
            print_text(&format!("{}\n", serde_json::to_string(&report)?))?;
        }
        Ok(reason)
    }

    /// Keeps what was written before a failure.
    fn abandon(self) {
        if let Some(file) = self.file {
            keep(file, "", !self.text.is_empty());
        }
    }
}

/// Leaves a text that is not whole where it is, and says where. An empty one is of no use to anyone.
fn keep(file: TextFile, why: &str, written: bool) {
    let place = file.temporary().to_owned();
    match file.keep() {
        Ok(kept) if written => say(&format!("{why}what was written is in `{}`", kept.display())),
        _ => {
            let _ = std::fs::remove_file(place);
            say(&format!("{why}nothing was written"));
        }
    }
}

impl Totals {
    fn add(&mut self, stats: &Stats) {
        let seconds = |count: usize, rate: f64| if rate > 0.0 { count as f64 / rate } else { 0.0 };
        let steps = stats.generated_tokens.saturating_sub(1);
        self.prompt_tokens += stats.prompt_tokens;
        self.loop_interventions += stats.loop_interventions;
        self.guessed_tokens += stats.guessed_tokens;
        self.accepted_tokens += stats.accepted_tokens;
        self.prefilled += stats.prefilled_tokens;
        self.prefill_seconds += seconds(stats.prefilled_tokens, stats.prefill_tokens_per_second);
        self.steps += steps;
        self.decode_seconds += seconds(steps, stats.decode_tokens_per_second);
        self.last = stats.clone();
    }
}

fn save_recipe(recipe: &Recipe, out: &std::path::Path) -> Result<()> {
    let mut file = TextFile::create(&beside(out, ".recipe.json"))?;
    file.push(&format!("{}\n", serde_json::to_string_pretty(recipe)?))?;
    file.finish()
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
