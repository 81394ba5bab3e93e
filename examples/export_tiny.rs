//! Exports a tiny random checkpoint and shows what the bundle's graphs promise.
//!
//!     cargo run -p lwv-examples --example export_tiny [-- CHECKPOINT BUNDLE]
#![expect(clippy::print_stdout, reason = "an example shows its result")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use lwv_export::{Progress, Quantization, Recipe, export};
use lwv_model::{Manifest, Precision, Target};

struct Silent;

impl Progress for Silent {
    fn graph(&self, _: &str) {}
    fn read(&self, _: u64) {}
    fn total(&self, _: u64) {}
    fn step(&self, _: &'static str, _: usize, _: usize) {}
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let fixture = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/fixtures/tiny/nested_f32"
    ));
    let recipe = Recipe {
        checkpoint: arguments.next().unwrap_or(fixture),
        bundle: arguments
            .next()
            .unwrap_or_else(|| std::env::temp_dir().join("lwv-tiny-bundle")),
        adapter: None,
        runtime_adapters: false,
        precision: Precision::Fp32,
        held_out: None,
        guard: false,
        islands: BTreeMap::new(),
        quantization: Quantization::default(),
        target: Target::Ort,
        engines: None,
        tensorrt_version: None,
    };
    // The closure may compare the finished bundle with the checkpoint; see `lwv_export::verify`.
    let summary = export(&recipe, &Silent, &mut |_, _| Ok(None))?;
    println!("{} bytes in {}", summary.bytes_written, recipe.bundle.display());
    for (name, graph) in Manifest::from_dir(&recipe.bundle)?.graphs {
        println!("{name}: {} nodes, opset {}", graph.nodes, graph.opset);
        for input in graph.contract.inputs {
            println!("  {} {:?} {:?}", input.name, input.element_type, input.dims);
        }
    }
    Ok(())
}
