//! Writes with one bundle after the other and tells what memory each takes: the one before is freed first.
//!
//!     cargo run --release -p lwv-examples --example swap_bundles -- BUNDLE...
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use anyhow::Context;
use lwv_runtime::{Engine, GenerationSettings, rss_bytes};

fn main() -> anyhow::Result<()> {
    let mut bundles = std::env::args().skip(1);
    let first = bundles.next().context("usage: swap_bundles BUNDLE...")?;
    let mut engine = Engine::builder(&first).build()?;
    write(&engine)?;
    println!("{first}: {} bytes", rss_bytes());
    for bundle in bundles {
        engine = engine.swap(Engine::builder(&bundle))?;
        write(&engine)?;
        println!("{bundle}: {} bytes", rss_bytes());
    }
    Ok(())
}

fn write(engine: &Engine) -> anyhow::Result<()> {
    let mut session = engine.session()?;
    session.extend(engine.processor().raw_prompt("Once upon a time", &[])?)?;
    let settings = GenerationSettings {
        max_new_tokens: 16,
        ignore_eos: true,
        ..GenerationSettings::default()
    };
    session.generate(settings)?.complete()?;
    Ok(())
}
