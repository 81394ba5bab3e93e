//! What programs on a terminal that load a bundle have in common: options, progress, text that stays, and what must stand in the environment.
//! `lwv-write` is one of them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod engine_options;
mod environment;
mod progress;
mod settled_text;

pub use engine_options::EngineOptions;
pub use environment::prepare;
pub use progress::Progress;
pub use settled_text::SettledText;
