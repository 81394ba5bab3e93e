//! What can be told without writing: engines that are kept, and what texts will take.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use lwv_runtime::{Bundle, DEFAULT_PREFILL_CHUNK, EngineCache, MemoryEstimate, available_bytes};

/// Lengths of texts that are told of, in tokens.
const LENGTHS: [usize; 5] = [1024, 4096, 8192, 16_384, 32_768];

/// All engines, a line each.
///
/// # Errors
/// Their folder cannot be read.
pub(crate) fn engines(cache: &EngineCache) -> Result<String> {
    let engines = cache.engines()?;
    let mut text = String::new();
    for engine in &engines {
        let built = &engine.fingerprint;
        writeln!(
            text,
            "{:7.1} MB  {}  {}  TensorRT {}  {}",
            engine.bytes as f64 / 1e6,
            built.graph,
            built.card,
            built.tensorrt,
            engine.folder.display()
        )?;
    }
    let bytes: u64 = engines.iter().map(|engine| engine.bytes).sum();
    writeln!(text, "{} engines, {:.1} MB", engines.len(), bytes as f64 / 1e6)?;
    Ok(text)
}

/// Memory of texts of several lengths, and how fast they can be written with a memory of `bandwidth` gigabytes a second.
///
/// # Errors
/// No bundle.
pub(crate) fn estimate(bundle: &Path, bandwidth: Option<f64>) -> Result<String> {
    let bundle = Bundle::open(bundle)?;
    let context = bundle.manifest().context_length;
    let mut lengths: Vec<usize> = LENGTHS.into_iter().filter(|length| *length < context).collect();
    lengths.push(context);
    let mut text = String::from(" tokens   weights     cache       all");
    if bandwidth.is_some() {
        text.push_str("  tokens/s at most");
    }
    text.push('\n');
    let gigabytes = |bytes: u64| format!("{:7.2} GB", bytes as f64 / 1e9);
    for length in lengths {
        let estimate = MemoryEstimate::of(&bundle, length, DEFAULT_PREFILL_CHUNK);
        let [weights, kv, all] = [estimate.weights, estimate.kv, estimate.total()].map(gigabytes);
        write!(text, "{length:7}{weights}{kv}{all}")?;
        if let Some(bandwidth) = bandwidth {
            write!(text, "{:18.1}", estimate.tokens_per_second(bandwidth * 1e9))?;
        }
        text.push('\n');
    }
    if let Some(available) = available_bytes() {
        writeln!(
            text,
            "This machine has {} left.",
            gigabytes(available).trim_start()
        )?;
    }
    Ok(text)
}
