//! Plans an article and writes it section by section.
//!
//!     cargo run --release -p lwv-examples --example write_article -- BUNDLE "what about" [WORDS]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example shows its result"
)]

use anyhow::Context;
use lwv_runtime::{Engine, SamplerSettings, Task, Writer, WriterEvent, WriterSettings};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let bundle = arguments
        .next()
        .context("usage: write_article BUNDLE \"what about\" [WORDS]")?;
    let instruction = arguments
        .next()
        .unwrap_or_else(|| "Write an article about lighthouses.".to_owned());
    let words = arguments.next().map_or(Ok(400), |words| words.parse())?;

    let engine = Engine::builder(bundle).build()?;
    let settings = WriterSettings {
        sampler: SamplerSettings {
            repetition_penalty: 1.1,
            seed: 1,
            ..SamplerSettings::default()
        },
        ..WriterSettings::default()
    };
    let mut writer = Writer::new(
        &engine,
        Task {
            instruction,
            ..Task::default()
        },
        settings,
    )?;

    let plan = writer.plan(words, Some(3), |_| ())?;
    eprintln!("{}\n", plan.to_lines());
    let manuscript = writer.write(plan, |event| {
        if let WriterEvent::SectionFinished { index, words, reason } = event {
            eprintln!("section {}: {words} words, {reason:?}", index + 1);
        }
    })?;
    println!("{}", manuscript.text());
    Ok(())
}
