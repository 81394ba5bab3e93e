mod chat;
mod pictures;
mod records;
mod refusal;
mod settings;
mod yaml;

use std::path::Path;

use lwv_model::ModelConfig;

use crate::recipe::{EmitEngine, Recipe, TrainingRecipe};
use crate::staging::Staging;
use crate::{Error, Result, Samples};

use chat::Chat;
use records::{Records, Table};
use settings::{SETTINGS, Surroundings};

/// Name of the settings of DeepSpeed, which shares weights, gradients and moments among cards (ZeRO, stage 3).
const DEEPSPEED: &str = "ds_z3_config.json";

/// Name of LLaMA-Factory's list of the datasets in a folder.
const DATASET_INFO: &str = "dataset_info.json";

/// Writes a folder from which another trainer trains with the settings of `recipe` over the same samples, as a whole or
/// not at all. An older such folder is replaced.
///
/// For LLaMA-Factory 0.9.5 these are `sft.yaml`, `sft.jsonl` with `dataset_info.json` (and `sft_eval.jsonl` where samples
/// are held out), pictures of Parquet files under `images`, `ds_z3_config.json`, and `README.md`, which says how to run
/// it and where it differs. Samples longer than `max-length` are not in it: LLaMA-Factory would cut them.
///
/// # Errors
/// A setting, a chat template or a conversation that the other trainer has no equivalent of; a place that is taken by
/// something else, a file that cannot be read or written.
pub fn emit(engine: EmitEngine, recipe: &Recipe, samples: &Samples, dir: &Path) -> Result<()> {
    match engine {
        EmitEngine::LlamaFactory => llamafactory(&recipe.training, samples, dir),
    }
}

fn llamafactory(recipe: &TrainingRecipe, samples: &Samples, dir: &Path) -> Result<()> {
    let config = ModelConfig::from_dir(&recipe.model)?;
    refusal::check(recipe, &config, dir)?;
    let chat = Chat::new(&config, samples.encoder.processor())?;
    let staging = Staging::create(dir)?;
    let records = Records {
        chat: &chat,
        samples,
        folder: staging.folder(),
    };
    let train = records.write("sft", &samples.train)?;
    let held_out = records.write("sft_eval", &samples.held_out)?;
    let surroundings = Surroundings {
        chat: &chat,
        has_vision: config.vision.is_some(),
        cutoff_len: pictures::longest(recipe, samples)?,
        dataset: names(&train),
        eval_dataset: (!held_out.is_empty()).then(|| names(&held_out)),
    };
    let info: serde_json::Map<_, _> = train.iter().chain(&held_out).map(Table::info).collect();
    let write = |name: &str, text: &str| {
        let path = staging.folder().join(name);
        std::fs::write(&path, text).map_err(Error::io(&path))
    };
    write(SETTINGS, &settings::settings(recipe, &surroundings)?)?;
    write(DATASET_INFO, &format!("{:#}\n", serde_json::Value::Object(info)))?;
    write(DEEPSPEED, include_str!("emit/ds_z3_config.json"))?;
    write("README.md", &readme(recipe, samples))?;
    staging.commit()
}

fn names(tables: &[Table]) -> String {
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    names.join(",")
}

fn readme(recipe: &TrainingRecipe, samples: &Samples) -> String {
    format!(
        include_str!("emit/readme.md"),
        train = samples.train.len(),
        held_out = samples.held_out.len(),
        too_long = samples.shortage.too_long.len(),
        unusable = samples.shortage.unusable.len(),
        micro = recipe.per_device_train_batch_size,
        accumulation = recipe.gradient_accumulation_steps,
        step = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps,
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::AtomicBool;

    use serde_json::{Value, json};

    use super::*;
    use crate::recipe::Stage;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
    }

    fn recipe(model: &str) -> TrainingRecipe {
        TrainingRecipe {
            model: fixtures().join("tiny").join(model),
            dataset: vec![fixtures().join("sft/tiny.jsonl")],
            media_dir: Some(fixtures()),
            output_dir: "trained".into(),
            ..TrainingRecipe::default()
        }
    }

    fn emitted(recipe: &TrainingRecipe) -> Result<tempfile::TempDir> {
        let dir = tempfile::tempdir().unwrap();
        let samples = Samples::open(recipe, Stage::Sft, &AtomicBool::new(false), &|_, _| {})?;
        llamafactory(recipe, &samples, &dir.path().join("emitted"))?;
        Ok(dir)
    }

    fn read(dir: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(dir.path().join("emitted").join(name)).unwrap()
    }

    #[test]
    fn every_sample_is_there_with_its_pictures() {
        let recipe = recipe("nested_f32");
        let samples = Samples::open(&recipe, Stage::Sft, &AtomicBool::new(false), &|_, _| {}).unwrap();
        let dir = emitted(&recipe).unwrap();
        let lines: Vec<Value> = read(&dir, "sft.jsonl")
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), samples.train.len());
        let first = lines[0]["images"][0].as_str().unwrap();
        assert!(Path::new(first).is_absolute() && Path::new(first).is_file());
        assert!(
            lines[0]["conversations"][0]["value"]
                .as_str()
                .unwrap()
                .starts_with("<image><image>Compare")
        );
        assert_eq!(lines[2]["conversations"][0]["from"], "system");
        let info: Value = serde_json::from_str(&read(&dir, DATASET_INFO)).unwrap();
        assert_eq!(
            info["sft"]["columns"],
            json!({"messages": "conversations", "images": "images"})
        );
        for name in [SETTINGS, DEEPSPEED, "README.md"] {
            assert!(!read(&dir, name).is_empty());
        }
        assert!(!dir.path().join("emitted/sft_eval.jsonl").exists());
    }

    #[test]
    fn held_out_samples_are_a_dataset_of_their_own() {
        let held_out = TrainingRecipe {
            dataset: vec![fixtures().join("sft/text.jsonl")],
            val_size: 2.0,
            ..recipe("qwen2")
        };
        let dir = emitted(&held_out).unwrap();
        assert_eq!(read(&dir, "sft_eval.jsonl").lines().count(), 2);
        let info: Value = serde_json::from_str(&read(&dir, DATASET_INFO)).unwrap();
        assert_eq!(info["sft_eval"]["columns"], json!({"messages": "conversations"}));
        assert!(read(&dir, SETTINGS).contains("\neval_dataset: \"sft_eval\"\n"));
    }

    #[test]
    fn an_older_folder_is_replaced_and_nothing_else() {
        let text = TrainingRecipe {
            dataset: vec![fixtures().join("sft/text.jsonl")],
            ..recipe("qwen2")
        };
        let dir = emitted(&text).unwrap();
        let samples = Samples::open(&text, Stage::Sft, &AtomicBool::new(false), &|_, _| {}).unwrap();
        let again = |place: &str| llamafactory(&text, &samples, &dir.path().join(place));
        again("emitted").unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data").join(DATASET_INFO), "{}").unwrap();
        assert!(matches!(again("data"), Err(Error::Occupied(_))));
    }
}
