use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lwv_runtime::{Event, LoadProgress, WordCounter, WriterEvent};

/// Progress on the terminal, or nothing where standard error is none.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
    target: Option<usize>,
    words: WordCounter,
    /// The text so far, since words cannot be taken back from a counter.
    text: String,
    writing: Option<Instant>,
    section: String,
}

impl Progress {
    /// `target` is the number of words to write. With `share_terminal` the text goes to the same terminal, so there is
    /// no bar below it.
    pub fn new(target: Option<usize>, share_terminal: bool) -> Self {
        let bar = if std::io::stderr().is_terminal() && !share_terminal {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8))
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            target,
            words: WordCounter::new(),
            text: String::new(),
            writing: None,
            section: String::new(),
        }
    }

    /// Shows what loading is at.
    pub fn load(&self, progress: &LoadProgress) {
        match progress {
            LoadProgress::Hashing { done, total } => {
                self.show(format!("checking hashes, {} %", done * 100 / (*total).max(1)));
            }
            LoadProgress::Loading { graph, index, count } => {
                self.show(format!("loading {graph} ({} of {count})", index + 1));
            }
            LoadProgress::Measuring {
                threads,
                index,
                count,
            } => {
                self.show(format!(
                    "measuring {threads} threads ({} of {count}; once)",
                    index + 1
                ));
            }
            LoadProgress::Building { graph, reason } => {
                let why = reason
                    .as_ref()
                    .map_or(String::new(), |reason| format!(": {reason}"));
                self.show(format!(
                    "building an engine for {graph}, which takes minutes{why}"
                ));
            }
            _ => {}
        }
    }

    /// Shows what a writer is at.
    pub fn writer(&mut self, event: &WriterEvent) {
        match event {
            WriterEvent::PlanLine { index, main_point } => {
                self.show(format!("planning: {}. {main_point}", index + 1));
            }
            WriterEvent::SectionStarted { index, words } => {
                self.section = format!("section {} (~{words} words), ", index + 1);
            }
            WriterEvent::Generation(event) => self.generation(event),
            _ => {}
        }
    }

    /// Shows what a generation is at.
    pub fn generation(&mut self, event: &Event) {
        match event {
            Event::ImageEncoded { index, tokens } => {
                self.show(format!(
                    "{}image {} encoded, {tokens} tokens",
                    self.section,
                    index + 1
                ));
            }
            Event::Prefill { done, total } => {
                self.show(format!(
                    "{}reading the prompt, {done} of {total} tokens",
                    self.section
                ));
            }
            Event::Token { text, .. } | Event::Finished { text, .. } => {
                self.words.push(text);
                self.text.push_str(text);
                let begin = *self.writing.get_or_insert_with(Instant::now);
                self.show(format!(
                    "{}{}",
                    self.section,
                    pace(self.words.count(), self.target, begin.elapsed())
                ));
            }
            Event::Rewound { bytes, .. } => {
                self.text.truncate(self.text.len() - bytes);
                self.words = WordCounter::new();
                self.words.push(&self.text);
            }
            _ => {}
        }
    }

    /// Leaves the terminal as it was.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn show(&self, message: String) {
        self.bar.set_message(message);
        self.bar.tick();
    }
}

/// Words, words per minute and the time that is left.
fn pace(words: usize, target: Option<usize>, elapsed: Duration) -> String {
    let minutes = elapsed.as_secs_f64() / 60.0;
    // In the first seconds the pace means nothing.
    let per_minute = if minutes > 0.02 {
        words as f64 / minutes
    } else {
        0.0
    };
    let count = target.map_or(format!("{words} words"), |target| {
        format!("{words} of ~{target} words")
    });
    let left = target.map_or(0, |target| target.saturating_sub(words));
    if per_minute < 1.0 {
        return count;
    }
    let seconds = left as f64 / per_minute * 60.0;
    let eta = if left > 0 {
        format!(", {} left", clock(seconds))
    } else {
        String::new()
    };
    format!("{count}, {per_minute:.0} words/min{eta}")
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_says_how_long_it_takes() {
        let text = pace(100, Some(400), Duration::from_secs(60));
        assert_eq!(text, "100 of ~400 words, 100 words/min, 3:00 left");
        assert_eq!(pace(3, None, Duration::ZERO), "3 words");
    }
}
