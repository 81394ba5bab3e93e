use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};
use lwv_export::{Progress, Recipe};

/// A progress bar over the bytes of weights, on a terminal only.
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new(recipe: &Recipe) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(0);
        let template =
            "{msg:24} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} ETA {eta}";
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.set_message(
            recipe
                .checkpoint
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default(),
        );
        Self(bar)
    }

    /// The bundle is compared with its source.
    pub(crate) fn comparing(&self) {
        self.0.set_message("comparing with the checkpoint");
    }

    /// Leaves the terminal clean.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn graph(&self, name: &str) {
        self.0.set_message(name.to_owned());
    }
    fn read(&self, bytes: u64) {
        self.0.inc(bytes);
    }
    fn total(&self, bytes: u64) {
        self.0.set_length(bytes);
    }
    fn calibrating(&self, layer: usize, layers: usize) {
        self.0
            .set_message(format!("calibrating layer {} of {layers}", layer + 1));
    }
    fn measuring(&self, part: usize, parts: usize) {
        self.0
            .set_message(format!("measuring part {} of {parts}", part + 1));
    }
}
