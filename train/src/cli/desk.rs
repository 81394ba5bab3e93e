use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lwv_train::recipe::Recipe;
use lwv_train::{Error, Event, PreferenceMetrics, Samples, Share, Shortage, StepMetrics};

/// What a user sees on stderr: a bar where it is a terminal, else a line for what matters.
pub(crate) struct Desk {
    bar: Mutex<ProgressBar>,
    is_terminal: bool,
}

const COUNTING: &str = "counting tokens {bar:30} {pos}/{len} {eta}";
const REFERENCE: &str = "asking the reference {bar:30} {pos}/{len} {eta}";
const STEPS: &str = "{bar:30} {pos}/{len} {msg} · {elapsed}<{eta}";
const BYTES: &str = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

impl Desk {
    /// A desk for a training.
    pub(crate) fn training() -> Self {
        Self::new(COUNTING)
    }

    /// A desk for bytes that are moved.
    pub(crate) fn bytes() -> Self {
        Self::new(BYTES)
    }

    fn new(template: &str) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self {
            bar: Mutex::new(bar(0, template, is_terminal)),
            is_terminal,
        }
    }

    /// Opens the samples of a training, and shows how far counting them is.
    pub(crate) fn open_samples(&self, recipe: &Recipe) -> Result<Samples, Error> {
        let progress = |done, all| self.watch(&Event::Counted(done, all));
        Samples::open(
            &recipe.training,
            recipe.stage(),
            &AtomicBool::new(false),
            &progress,
        )
    }

    /// Shows bytes that were moved, and in all.
    pub(crate) fn moved(&mut self, bytes: u64, all: u64) {
        self.with_bar(|bar| {
            bar.set_length(all);
            bar.inc(bytes);
        });
    }

    /// Shows an event of a training.
    pub(crate) fn watch(&self, event: &Event<'_>) {
        match event {
            Event::Counted(done, all) => self.with_bar(|bar| {
                bar.set_length(*all as u64);
                bar.set_position(*done as u64);
            }),
            Event::Referenced(done, all) => self.referenced(*done, *all),
            Event::Started(done, all, shortage) => self.start(*done, *all, shortage),
            Event::Stepped(metrics) => self.step(metrics),
            Event::Evaluated(step, held_out) => self.line(&evaluation(*step, held_out)),
            Event::LeftOut(reason) => self.line(&format!("warning: left out: {reason}")),
            Event::Saved(path) => self.line(&format!("saved {}", path.display())),
            _ => {}
        }
    }

    fn referenced(&self, done: usize, all: usize) {
        self.with_bar(|current| {
            if current.length() != Some(all as u64) || done == 1 {
                current.finish_and_clear();
                *current = bar(all as u64, REFERENCE, self.is_terminal);
            }
            current.set_position(done as u64);
        });
    }

    fn start(&self, done: usize, all: usize, shortage: &Shortage) {
        self.with_bar(|current| {
            current.finish_and_clear();
            *current = bar(all as u64, STEPS, self.is_terminal);
            current.set_position(done as u64);
            current.reset_eta();
        });
        let left_out = shortage.describe();
        if !left_out.is_empty() {
            self.line(&format!("warning: left out: {left_out}"));
        }
    }

    fn step(&self, metrics: &StepMetrics) {
        let speed = metrics.tokens as f64 / metrics.seconds;
        self.with_bar(|bar| {
            bar.set_position(metrics.step as u64);
            let pairs = metrics.preference.as_ref();
            let margin = pairs.map_or(String::new(), |pairs| {
                format!(" · margin {:.3}", pairs.reward_margin)
            });
            bar.set_message(format!("loss {:.4}{margin} · {speed:.0} tokens/s", metrics.loss));
        });
    }

    /// A line that stays.
    pub(crate) fn line(&self, text: &str) {
        self.with_bar(|bar| bar.suspend(|| print(text)));
    }

    fn with_bar(&self, f: impl FnOnce(&mut ProgressBar)) {
        if let Ok(mut bar) = self.bar.lock() {
            f(&mut bar);
        }
    }
}

fn evaluation(step: usize, held_out: &Share) -> String {
    let pairs = held_out.pairs.metrics().map_or(String::new(), |pairs| {
        let PreferenceMetrics {
            reward_accuracy,
            reward_margin,
            ..
        } = pairs;
        format!(", reward accuracy {reward_accuracy:.3}, margin {reward_margin:.4}")
    });
    format!("step {step}: held-out loss {:.4}{pairs}", held_out.mean())
}

#[expect(clippy::print_stderr, reason = "the command line's own messages")]
fn print(text: &str) {
    eprintln!("{text}");
}

fn bar(length: u64, template: &str, is_terminal: bool) -> ProgressBar {
    let target = if is_terminal {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length), target).with_style(style)
}
