use std::cell::Cell;
use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use lwv_export::{Progress, Recipe};

const BYTES: &str =
    "{msg:24} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta}";
const STEPS: &str = "{msg:24} {wide_bar} {pos}/{len} ETA {eta}";

/// A progress bar over bytes of weights, or over the steps of what comes before and after; on a terminal only.
pub(crate) struct Bar {
    bar: ProgressBar,
    /// Bytes of weights in all.
    total: Cell<u64>,
    /// Whether steps are shown.
    in_steps: Cell<bool>,
}

impl Bar {
    pub(crate) fn new(recipe: &Recipe) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let name = recipe.checkpoint.file_name().unwrap_or_default();
        bar.set_message(name.to_string_lossy().into_owned());
        let this = Self {
            bar,
            total: Cell::new(0),
            in_steps: Cell::new(false),
        };
        this.show(BYTES);
        this
    }

    /// Leaves the terminal clean.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Begins anew in another style.
    fn show(&self, template: &str) {
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.bar.set_style(style);
        self.bar.reset();
    }
}

impl Progress for Bar {
    fn total(&self, bytes: u64) {
        self.total.set(bytes);
        self.bar.set_length(bytes);
    }

    fn graph(&self, name: &str) {
        if self.in_steps.replace(false) {
            self.show(BYTES);
            self.bar.set_length(self.total.get());
        }
        self.bar.set_message(name.to_owned());
    }

    fn read(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn step(&self, task: &'static str, step: usize, steps: usize) {
        if !self.in_steps.replace(true) || step == 0 {
            self.show(STEPS);
        }
        self.bar.set_message(task);
        self.bar.set_length(steps as u64);
        self.bar.set_position(step as u64);
    }
}
