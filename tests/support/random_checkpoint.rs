use std::path::Path;

use lwv_model::{ModelConfig, expected_weights};
use serde_json::Value;

use crate::folder::{copy_folder, read_json, write_json};
use crate::random::Random;
use crate::safetensors::write_safetensors;

/// Inputs that share a scale in bundles of integers, where nothing else is said.
const BLOCK: usize = 32;

/// Writes a checkpoint of random weights: like that in `like`, but with `change` merged into its `config.json`.
pub fn random_checkpoint(like: &Path, change: &Value, folder: &Path) {
    checkpoint(like, change, folder, |_, _| ());
}

/// The same, with weights that four bits hold without loss.
pub fn coarse_checkpoint(like: &Path, change: &Value, folder: &Path) {
    checkpoint(like, change, folder, |shape, values| {
        if let [_, columns] = shape {
            // A power of two, so that products with small integers are exact.
            let step = (3.0 / *columns as f32).sqrt().log2().round().exp2() / 8.0;
            for block in values.chunks_mut(BLOCK) {
                block
                    .iter_mut()
                    .for_each(|value| *value = step * (*value / step).round().clamp(-7.0, 7.0));
                // The scale follows from the largest.
                block[0] = -8.0 * step;
            }
        }
    });
}

fn checkpoint(like: &Path, change: &Value, folder: &Path, round: impl Fn(&[usize], &mut [f32])) {
    copy_folder(like, folder);
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("model") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let path = folder.join("config.json");
    let mut config = read_json(&path);
    merge(&mut config, change);
    write_json(&path, &config);
    let mut random = Random::new(3);
    let mut tensors = Vec::new();
    for (name, shape) in expected_weights(&ModelConfig::from_dir(folder).unwrap()) {
        let columns: usize = shape[1..].iter().product();
        let value = |_| match (shape.len(), name.ends_with("bias")) {
            (1, true) => 0.1 * random.signed(),
            (1, false) => 1.0 + 0.1 * random.signed(),
            // What it makes is about as large as what it reads.
            _ => random.signed() * (3.0 / columns as f32).sqrt(),
        };
        let mut values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        round(&shape, &mut values);
        tensors.push((name, shape, values));
    }
    write_safetensors(&folder.join("model.safetensors"), &tensors);
}

/// Sets the fields of an object, and of the objects in it.
fn merge(object: &mut Value, change: &Value) {
    match change {
        Value::Object(fields) => {
            for (name, field) in fields {
                merge(&mut object[name], field);
            }
        }
        value => *object = value.clone(),
    }
}
