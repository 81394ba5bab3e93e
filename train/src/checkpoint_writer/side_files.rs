use std::path::Path;

use serde_json::Value;

use crate::Error;
use crate::recipe::SaveType;

/// Endings of weights, indexes, exports and what trainers keep to go on.
const LEFT_OUT_ENDINGS: &[&str] = &[
    ".safetensors",
    ".index.json",
    ".bin",
    ".pt",
    ".pth",
    ".gguf",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx_data",
    ".jsonl",
    ".partial",
];

/// Beginnings of what trainers and adapters leave in a folder.
const LEFT_OUT_BEGINNINGS: &[&str] = &[
    ".",
    "adapter_",
    "optimizer",
    "scheduler",
    "rng_state",
    "trainer_",
    "training_",
    "recipe.",
    "events.out.tfevents",
];

/// Folders of side files that processors of transformers write.
const COPIED_FOLDERS: &[&str] = &["additional_chat_templates"];

/// Copies what makes the checkpoint `base` usable beside its weights.
pub(super) fn copy(base: &Path, out: &Path) -> Result<(), Error> {
    for entry in std::fs::read_dir(base).map_err(Error::io(base))? {
        let path = entry.map_err(Error::io(base))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_file() && !is_left_out(&name) {
            copy_file(&path, &out.join(name.as_ref()))?;
        } else if COPIED_FOLDERS.contains(&name.as_ref()) {
            let folder = out.join(name.as_ref());
            std::fs::create_dir(&folder).map_err(Error::io(&folder))?;
            copy(&path, &folder)?;
        }
    }
    Ok(())
}

/// Writes the bytes, not the permissions: a read-only cache must not make read-only checkpoints.
fn copy_file(from: &Path, to: &Path) -> Result<(), Error> {
    let mut source = std::fs::File::open(from).map_err(Error::io(from))?;
    let mut copy = std::fs::File::create(to).map_err(Error::io(to))?;
    std::io::copy(&mut source, &mut copy)
        .map(drop)
        .map_err(Error::io(to))
}

fn is_left_out(name: &str) -> bool {
    LEFT_OUT_ENDINGS.iter().any(|ending| name.ends_with(ending))
        || LEFT_OUT_BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning))
}

/// Names the type of the weights in `config.json` where it is not the base's.
pub(super) fn write_config(base: &Path, out: &Path, save_type: SaveType) -> Result<(), Error> {
    let name = match save_type {
        SaveType::Auto => return Ok(()),
        SaveType::F32 => "float32",
        SaveType::Bf16 => "bfloat16",
        SaveType::F16 => "float16",
    };
    let path = base.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let mut config: Value = serde_json::from_str(&text).map_err(|e| Error::Json {
        path: path.clone(),
        message: e.to_string(),
    })?;
    if !set_type(&mut config, name) {
        config["torch_dtype"] = name.into();
    }
    let path = out.join("config.json");
    std::fs::write(&path, format!("{config:#}\n")).map_err(Error::io(&path))
}

/// Sets every spelling of the type in the configuration and its parts, and says whether there was one at the top.
fn set_type(config: &mut Value, name: &str) -> bool {
    let Some(fields) = config.as_object_mut() else {
        return false;
    };
    for part in ["text_config", "vision_config"] {
        if let Some(part) = fields.get_mut(part) {
            set_type(part, name);
        }
    }
    let mut found = false;
    for spelling in ["dtype", "torch_dtype"] {
        if let Some(value) = fields.get_mut(spelling) {
            *value = name.into();
            found = true;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_files_are_copied_and_state_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (base, out) = (dir.path().join("base"), dir.path().join("out"));
        std::fs::create_dir_all(base.join("onnx")).unwrap();
        std::fs::create_dir_all(&out).unwrap();
        let copied = ["README.md", "config.json", "merges.txt", "tokenizer.json"];
        let left_out = [
            ".gitattributes",
            "model.safetensors",
            "model.safetensors.index.json",
            "optimizer.pt",
            "trainer_state.json",
            "recipe.json",
        ];
        for name in copied.iter().chain(&left_out) {
            std::fs::write(base.join(name), "{}").unwrap();
        }
        copy(&base, &out).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        assert_eq!(names, copied);
        write_config(&base, &out, SaveType::F16).unwrap();
        let text = std::fs::read_to_string(out.join("config.json")).unwrap();
        assert!(text.contains("\"torch_dtype\": \"float16\""), "{text}");
    }
}
