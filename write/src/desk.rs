use std::io::IsTerminal;
use std::path::Path;

use anyhow::Result;
use lwv_runtime::{Event, FinishReason, Stats, WriterEvent};
use lwv_write::{Progress, SettledText};
use serde::Serialize;

use crate::recipe::Recipe;
use crate::text_file::{TextFile, beside};
use crate::{print_text, say};

/// Where the text goes, and what was seen on the way.
pub(crate) struct Desk {
    pub(crate) progress: Progress,
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
pub(crate) struct Report {
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
    pub(crate) fn new(recipe: &Recipe) -> Result<Self> {
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

    pub(crate) fn writer(&mut self, event: &WriterEvent) {
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
    pub(crate) fn watch(&mut self, event: &WriterEvent) {
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

    pub(crate) fn generation(&mut self, event: &Event) {
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

    pub(crate) fn put(&mut self, text: &str) {
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
    pub(crate) fn settle_all(&mut self) {
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

    pub(crate) fn report(&mut self, token_ids: Vec<u32>, finish_reason: FinishReason) -> Report {
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
    pub(crate) fn close(mut self, recipe: &Recipe, report: Report) -> Result<FinishReason> {
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
    pub(crate) fn abandon(self) {
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

fn save_recipe(recipe: &Recipe, out: &Path) -> Result<()> {
    let mut file = TextFile::create(&beside(out, ".recipe.json"))?;
    file.push(&format!("{}\n", serde_json::to_string_pretty(recipe)?))?;
    file.finish()
}
