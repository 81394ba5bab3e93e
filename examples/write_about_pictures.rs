//! Writes about any number of pictures in one pass, and prints the text as it comes.
//!
//!     cargo run --release -p lwv-examples --example write_about_pictures -- BUNDLE PICTURE...
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "an example shows its result"
)]

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use lwv_processor::{Message, open_image};
use lwv_runtime::{Engine, Event, GenerationSettings};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let bundle = arguments
        .next()
        .context("usage: write_about_pictures BUNDLE PICTURE...")?;
    let pictures = arguments
        .map(|path| open_image(Path::new(&path)))
        .collect::<Result<Vec<_>, _>>()?;

    let engine = Engine::builder(bundle).build()?;
    let question = Message::with_images(
        "user",
        pictures.len(),
        "Write a long report about these pictures.",
    );
    let mut session = engine.session()?;
    session.extend(engine.processor().prompt(&[question], &pictures)?)?;

    for event in session.generate(GenerationSettings {
        max_new_tokens: 400,
        ..GenerationSettings::default()
    })? {
        match event? {
            Event::ImageEncoded { index, tokens } => eprintln!("picture {}: {tokens} tokens", index + 1),
            Event::Token { text, .. } => print!("{text}"),
            Event::Finished { text, reason, .. } => println!("{text}\n({reason:?})"),
            _ => {}
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}
