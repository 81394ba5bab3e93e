use std::path::Path;

use lwv_model::{ModelConfig, expected_weights};
use serde_json::{Map, Value, json};

use crate::folder::{copy_folder, read_json, write_json};
use crate::random::Random;

/// Writes a checkpoint of random weights: like that in `like`, but with `change` merged into its `config.json`.
pub fn random_checkpoint(like: &Path, change: &Value, folder: &Path) {
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
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in expected_weights(&ModelConfig::from_dir(folder).unwrap()) {
        let start = data.len();
        let columns: usize = shape[1..].iter().product();
        for _ in 0..shape.iter().product() {
            let value = match (shape.len(), name.ends_with("bias")) {
                (1, true) => 0.1 * random.signed(),
                (1, false) => 1.0 + 0.1 * random.signed(),
                // What it makes is about as large as what it reads.
                _ => random.signed() * (3.0 / columns as f32).sqrt(),
            };
            data.extend(value.to_le_bytes());
        }
        let place = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name, place);
    }
    let header = Value::Object(header).to_string().into_bytes();
    let length = (header.len() as u64).to_le_bytes();
    let file = [&length[..], &header, &data].concat();
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
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
