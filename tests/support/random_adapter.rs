use std::path::Path;

use lwv_model::{ModelConfig, expected_weights};
use serde_json::json;

use crate::folder::write_json;
use crate::random::Random;
use crate::safetensors::write_safetensors;

/// Writes a LoRA of random factors in PEFT layout, of rank 3, for those linear layers of a checkpoint's decoder whose last name is
/// among `modules`.
pub fn random_adapter(checkpoint: &Path, modules: &[&str], seed: u64, folder: &Path) {
    const RANK: usize = 3;
    std::fs::create_dir_all(folder).unwrap();
    let config =
        json!({"peft_type": "LORA", "r": RANK, "lora_alpha": 6, "target_modules": modules, "bias": "none"});
    write_json(&folder.join("adapter_config.json"), &config);
    let mut random = Random::new(seed);
    let mut tensors = Vec::new();
    for (name, shape) in expected_weights(&ModelConfig::from_dir(checkpoint).unwrap()) {
        let Some(module) = name
            .strip_suffix(".weight")
            .filter(|name| name.starts_with("model.layers."))
        else {
            continue;
        };
        if !modules.iter().any(|wanted| module.ends_with(wanted)) {
            continue;
        }
        let [outputs, inputs] = [shape[0], shape[1]];
        let mut factor = |part: &str, shape: [usize; 2]| {
            // The update is about a third as large as the weight.
            let size = (1.0 / inputs as f32).sqrt() / RANK as f32 / 2.0;
            let size = if part == "lora_A" { 1.0 } else { size };
            let values = (0..shape[0] * shape[1]).map(|_| size * random.signed()).collect();
            tensors.push((
                format!("base_model.model.{module}.{part}.weight"),
                shape.to_vec(),
                values,
            ));
        };
        factor("lora_A", [RANK, inputs]);
        factor("lora_B", [outputs, RANK]);
    }
    assert!(!tensors.is_empty(), "no module is one of {modules:?}");
    write_safetensors(&folder.join("adapter_model.safetensors"), &tensors);
}
