use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lwv_export::{Error, Progress, Quantization, Recipe, Summary, export};
use lwv_model::{Precision, Target, TensorRtVersion};

use crate::folder::scratch;

/// Progress that nobody watches.
pub struct Quiet;

impl Progress for Quiet {
    fn graph(&self, _: &str) {}
    fn read(&self, _: u64) {}
    fn total(&self, _: u64) {}
    fn step(&self, _: &'static str, _: usize, _: usize) {}
}

/// The settings of an export.
pub fn recipe(checkpoint: &Path, bundle: &Path, precision: Precision, adapter: Option<&Path>) -> Recipe {
    Recipe {
        checkpoint: checkpoint.to_owned(),
        bundle: bundle.to_owned(),
        adapter: adapter.map(Path::to_owned),
        runtime_adapters: false,
        precision,
        held_out: None,
        guard: false,
        islands: BTreeMap::new(),
        engines: None,
        quantization: Quantization::default(),
        target: Target::Ort,
        tensorrt_version: None,
    }
}

/// Exports without a parity report.
///
/// # Errors
/// What the exporter says.
pub fn export_into(recipe: &Recipe) -> Result<Summary, Error> {
    export(recipe, &Quiet, &mut |_, _| Ok(None))
}

/// The bundle of a checkpoint, exported once in this process.
pub fn bundle(checkpoint: &Path, precision: Precision) -> PathBuf {
    bundle_for(Target::Ort, checkpoint, precision)
}

/// The bundle of a checkpoint for a target, exported once in this process.
pub fn bundle_for(target: Target, checkpoint: &Path, precision: Precision) -> PathBuf {
    exported(Recipe {
        target,
        ..unplaced(checkpoint, precision)
    })
}

/// The bundle of a checkpoint for TensorRT of this version, exported once in this process.
pub fn bundle_for_tensorrt(version: TensorRtVersion, checkpoint: &Path, precision: Precision) -> PathBuf {
    exported(Recipe {
        target: Target::TensorRt,
        tensorrt_version: Some(version),
        ..unplaced(checkpoint, precision)
    })
}

/// The bundle of a checkpoint with an adapter merged in, exported once in this process.
pub fn bundle_with_adapter(checkpoint: &Path, precision: Precision, adapter: &Path) -> PathBuf {
    exported(Recipe {
        adapter: Some(adapter.to_owned()),
        ..unplaced(checkpoint, precision)
    })
}

/// The bundle of a checkpoint that reads adapters when it runs, exported once in this process.
pub fn bundle_for_adapters(checkpoint: &Path, precision: Precision) -> PathBuf {
    exported(Recipe {
        runtime_adapters: true,
        ..unplaced(checkpoint, precision)
    })
}

fn unplaced(checkpoint: &Path, precision: Precision) -> Recipe {
    recipe(checkpoint, Path::new(""), precision, None)
}

/// What `unplaced` says but for the place.
fn exported(unplaced: Recipe) -> PathBuf {
    static MADE: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let made = made.get_or_insert_default();
    let place = scratch().join(format!("bundle-{}", made.len()));
    made.entry(format!("{unplaced:?}"))
        .or_insert_with(|| {
            let checkpoint = unplaced.checkpoint.clone();
            let recipe = Recipe {
                bundle: place.clone(),
                ..unplaced
            };
            export_into(&recipe).unwrap_or_else(|e| panic!("{}: {e}", checkpoint.display()));
            place
        })
        .clone()
}
