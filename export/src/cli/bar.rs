use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{DecimalBytes, HumanDuration, ProgressBar, ProgressStyle};
use lwv_export::{Progress, Recipe};

const BYTES: &str =
    "{msg:24} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta}";
const STEPS: &str = "{msg:24} {wide_bar} {pos}/{len} ETA {eta}";

/// Where there is no terminal, one line of progress in so long.
const SILENCE: Duration = Duration::from_secs(30);

/// A progress bar over bytes of weights, or over the steps of what comes before and after; on no terminal, a line now and then.
pub(crate) struct Bar {
    bar: ProgressBar,
    /// When the last line was written; none is where there is a terminal.
    said: Option<Cell<Instant>>,
    /// Bytes of weights in all.
    total: Cell<u64>,
    /// Whether steps are shown.
    in_steps: Cell<bool>,
}

impl Bar {
    pub(crate) fn new(recipe: &Recipe) -> Self {
        let (bar, said) = if std::io::stderr().is_terminal() {
            (ProgressBar::new(0), None)
        } else {
            (ProgressBar::hidden(), Some(Cell::new(Instant::now())))
        };
        let name = recipe.checkpoint.file_name().unwrap_or_default();
        bar.set_message(name.to_string_lossy().into_owned());
        let this = Self {
            bar,
            said,
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

    /// Writes a line where there is no terminal, and where there was none for long.
    #[expect(clippy::print_stderr, reason = "the command line's own messages")]
    fn say(&self) {
        let Some(said) = self.said.as_ref().filter(|said| said.get().elapsed() >= SILENCE) else {
            return;
        };
        said.set(Instant::now());
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
        let part = if self.in_steps.get() {
            format!("{done} of {all}")
        } else {
            format!("{} of {}", DecimalBytes(done), DecimalBytes(all))
        };
        let left = match done {
            0 => String::new(),
            _ => format!(", {} left", HumanDuration(self.bar.eta())),
        };
        eprintln!("{}: {part}{left}", self.bar.message());
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
        self.say();
    }

    fn step(&self, task: &'static str, step: usize, steps: usize) {
        if !self.in_steps.replace(true) || step == 0 {
            self.show(STEPS);
        }
        self.bar.set_message(task);
        self.bar.set_length(steps as u64);
        self.bar.set_position(step as u64);
        self.say();
    }
}
