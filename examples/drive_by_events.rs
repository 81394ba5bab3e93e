//! Drives the runtime as an app would: on a thread of its own, by events over a channel, with a way to cancel.
//!
//!     cargo run --release -p lwv-examples --example drive_by_events -- BUNDLE "how it begins"
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example shows its result"
)]

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use lwv_runtime::{CancelToken, Engine, Event, GenerationSettings};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let bundle = arguments
        .next()
        .context("usage: drive_by_events BUNDLE \"how it begins\"")?;
    let beginning = arguments.next().unwrap_or_else(|| "Once upon a time".to_owned());

    let engine = Engine::builder(bundle).build()?;
    let cancel = CancelToken::new();
    let settings = GenerationSettings {
        cancel: cancel.clone(),
        ..GenerationSettings::default()
    };
    let (sender, events) = mpsc::channel();
    let worker = std::thread::spawn(move || -> lwv_runtime::Result<()> {
        let mut session = engine.session()?;
        session.extend(engine.processor().raw_prompt(&beginning, &[])?)?;
        for event in session.generate(settings)? {
            if sender.send(event?).is_err() {
                break;
            }
        }
        Ok(())
    });

    let started = Instant::now();
    for event in events {
        match event {
            Event::Prefill { done, total } => eprintln!("read {done} of {total} tokens"),
            Event::Token { text, .. } => print!("{text}"),
            Event::Finished { reason, text, stats } => {
                println!("{text}");
                eprintln!(
                    "{reason:?} after {:.1} tokens per second",
                    stats.decode_tokens_per_second
                );
            }
            _ => {}
        }
        // A user who has read enough.
        if started.elapsed() > Duration::from_secs(5) {
            cancel.cancel();
        }
    }
    worker
        .join()
        .map_err(|_| anyhow::anyhow!("the worker panicked"))??;
    Ok(())
}
