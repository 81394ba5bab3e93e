mod chat;
mod pictures;
mod records;
mod refusal;
mod settings;
mod yaml;

use std::path::Path;

use lwv_model::ModelConfig;

use crate::recipe::{EmitEngine, Recipe, Stage};
use crate::staging::Staging;
use crate::{Error, Result, Samples};

use chat::Chat;
use records::{Records, Table};
use settings::Surroundings;

/// Name of the settings of DeepSpeed, which shares weights, gradients and moments among cards (ZeRO, stage 3).
const DEEPSPEED: &str = "ds_z3_config.json";

/// Name of LLaMA-Factory's list of the datasets in a folder.
const DATASET_INFO: &str = "dataset_info.json";

/// Writes a folder from which another trainer trains with the settings of `recipe` over the same samples, as a whole or
/// not at all. An older such folder is replaced.
///
/// For LLaMA-Factory 0.9.5 these are `sft.yaml`, `sft.jsonl` with `dataset_info.json` (and `sft_eval.jsonl` where samples
/// are held out), pictures of Parquet files under `images`, `ds_z3_config.json`, and `README.md`, which says how to run
/// it and where it differs. For IterDPO they are named `dpo` instead. Samples longer than `max-length` are not in it:
/// LLaMA-Factory would cut them.
///
/// # Errors
/// A setting, a chat template, a conversation or a pair that the other trainer has no equivalent of; a place that is taken
/// by something else, a file that cannot be read or written.
pub fn emit(engine: EmitEngine, recipe: &Recipe, samples: &Samples, dir: &Path) -> Result<()> {
    match engine {
        EmitEngine::LlamaFactory => llamafactory(recipe, samples, dir),
    }
}

fn llamafactory(recipe: &Recipe, samples: &Samples, dir: &Path) -> Result<()> {
    let config = ModelConfig::from_dir(&recipe.training.model)?;
    refusal::check(recipe, &config, dir)?;
    let chat = Chat::new(&config, samples.encoder.processor())?;
    let staging = Staging::create(dir)?;
    let records = Records {
        chat: &chat,
        samples,
        folder: staging.folder(),
    };
    let stage = stage_name(recipe.stage());
    let train = records.write(stage, &samples.train)?;
    let held_out = records.write(&format!("{stage}_eval"), &samples.held_out)?;
    let surroundings = Surroundings {
        chat: &chat,
        has_vision: config.vision.is_some(),
        cutoff_len: pictures::longest(&recipe.training, samples)?,
        dataset: names(&train),
        eval_dataset: (!held_out.is_empty()).then(|| names(&held_out)),
    };
    let info: serde_json::Map<_, _> = train.iter().chain(&held_out).map(Table::info).collect();
    let write = |name: &str, text: &str| {
        let path = staging.folder().join(name);
        std::fs::write(&path, text).map_err(Error::io(&path))
    };
    write(
        &format!("{stage}.yaml"),
        &settings::settings(recipe, &surroundings)?,
    )?;
    write(DATASET_INFO, &format!("{:#}\n", serde_json::Value::Object(info)))?;
    write(DEEPSPEED, include_str!("emit/ds_z3_config.json"))?;
    write("README.md", &readme(recipe, samples))?;
    staging.commit()
}

/// What LLaMA-Factory calls a training, and what its files are named.
fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Sft => "sft",
        Stage::IterDpo => "dpo",
    }
}

fn names(tables: &[Table]) -> String {
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    names.join(",")
}

fn readme(recipe: &Recipe, samples: &Samples) -> String {
    let (title, command, differences) = match recipe.stage() {
        Stage::Sft => ("Fine-tuning", "sft", include_str!("emit/differences_sft.md")),
        Stage::IterDpo => ("IterDPO", "iter-dpo", include_str!("emit/differences_dpo.md")),
    };
    let recipe = &recipe.training;
    format!(
        include_str!("emit/readme.md"),
        stage = stage_name(samples.stage),
        title = title,
        command = command,
        differences = differences.trim_end(),
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
    use crate::recipe::TrainingRecipe;

    fn fixtures() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
    }

    fn recipe(stage: Stage, model: &str, dataset: PathBuf) -> Recipe {
        let defaults = Recipe::of(stage);
        Recipe {
            training: TrainingRecipe {
                model: fixtures().join("tiny").join(model),
                dataset: vec![dataset],
                media_dir: Some(fixtures()),
                output_dir: "trained".into(),
                ..defaults.training
            },
            ..defaults
        }
    }

    fn open(recipe: &Recipe) -> Samples {
        Samples::open(
            &recipe.training,
            recipe.stage(),
            &AtomicBool::new(false),
            &|_, _| {},
        )
        .unwrap()
    }

    fn emitted(recipe: &Recipe) -> Result<tempfile::TempDir> {
        let dir = tempfile::tempdir().unwrap();
        llamafactory(recipe, &open(recipe), &dir.path().join("emitted"))?;
        Ok(dir)
    }

    fn read(dir: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(dir.path().join("emitted").join(name)).unwrap()
    }

    fn lines(dir: &tempfile::TempDir, name: &str) -> Vec<Value> {
        let text = read(dir, name);
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn info(dir: &tempfile::TempDir) -> Value {
        serde_json::from_str(&read(dir, DATASET_INFO)).unwrap()
    }

    #[test]
    fn every_sample_is_there_with_its_pictures() {
        let recipe = recipe(Stage::Sft, "nested_f32", fixtures().join("sft/tiny.jsonl"));
        let dir = emitted(&recipe).unwrap();
        let lines = lines(&dir, "sft.jsonl");
        assert_eq!(lines.len(), open(&recipe).train.len());
        let first = lines[0]["images"][0].as_str().unwrap();
        assert!(Path::new(first).is_absolute() && Path::new(first).is_file());
        assert!(
            lines[0]["conversations"][0]["value"]
                .as_str()
                .unwrap()
                .starts_with("<image><image>Compare")
        );
        assert_eq!(lines[2]["conversations"][0]["from"], "system");
        let info = &info(&dir)["sft"];
        assert_eq!(
            info["columns"],
            json!({"messages": "conversations", "images": "images"})
        );
        assert!(info.get("ranking").is_none());
        for name in ["sft.yaml", DEEPSPEED, "README.md"] {
            assert!(!read(&dir, name).is_empty());
        }
        assert!(!dir.path().join("emitted/sft_eval.jsonl").exists());
    }

    #[test]
    fn every_pair_is_there_with_both_answers() {
        let recipe = recipe(Stage::IterDpo, "nested_f32", fixtures().join("dpo/tiny.jsonl"));
        let dir = emitted(&recipe).unwrap();
        let lines = lines(&dir, "dpo.jsonl");
        assert_eq!(lines.len(), open(&recipe).train.len());
        let second = &lines[1];
        assert_eq!(
            second["conversations"],
            json!([{"from": "human", "value": "<image><image>Write about these pictures."}])
        );
        assert_eq!(second["images"].as_array().unwrap().len(), 2);
        let begins = |answer: &str| second[answer]["value"].as_str().unwrap()[..27].to_owned();
        assert_eq!(begins("chosen"), "The first picture shows a h");
        assert_eq!(begins("rejected"), "The first picture shows a g");
        assert_eq!(second["rejected"]["from"], "gpt");
        let info = &info(&dir)["dpo"];
        assert_eq!(
            (&info["ranking"], &info["file_name"]),
            (&json!(true), &json!("dpo.jsonl"))
        );
        assert_eq!(
            info["columns"],
            json!({"messages": "conversations", "images": "images", "chosen": "chosen", "rejected": "rejected"})
        );
        assert!(read(&dir, "dpo.yaml").contains("\nstage: \"dpo\"\n"));
        let readme = read(&dir, "README.md");
        for said in [
            "lwv-train iter-dpo",
            "llamafactory-cli train dpo.yaml",
            "reference",
        ] {
            assert!(readme.contains(said), "{said} is not in {readme}");
        }
        assert!(!readme.contains("sft"), "{readme}");
    }

    #[test]
    fn a_pair_unlike_others_is_told() {
        let of = |more: [&str; 3]| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("pairs.jsonl");
            let record =
                |more: &str| format!(r#"{{"instruction": "q", "chosen": "a", "rejected": ""{more}}}"#);
            std::fs::write(&path, more.map(record).join("\n")).unwrap();
            match emitted(&recipe(Stage::IterDpo, "qwen2", path)) {
                Ok(dir) => Ok(read(&dir, "dpo.jsonl")),
                Err(error) => Err(error.to_string()),
            }
        };
        // A worse answer may be empty, and all pairs may have one weight.
        let same = of([r#", "weight": 0.5"#; 3]).unwrap();
        assert!(same.contains(r#""rejected":{"from":"gpt","value":""}"#), "{same}");
        let weight = of(["", r#", "weight": 0.5"#, ""]).unwrap_err();
        assert!(
            weight.contains("pairs.jsonl:2") && weight.contains("`weight` is `0.5`"),
            "{weight}"
        );
        let open = of(["", "", r#", "open": true"#]).unwrap_err();
        assert!(
            open.contains("pairs.jsonl:3") && open.contains("`open`"),
            "{open}"
        );
    }

    #[test]
    fn held_out_samples_are_a_dataset_of_their_own() {
        for (stage, name) in [(Stage::Sft, "sft"), (Stage::IterDpo, "dpo")] {
            let mut held_out = recipe(stage, "qwen2", fixtures().join(name).join("text.jsonl"));
            held_out.training.val_size = 2.0;
            let dir = emitted(&held_out).unwrap();
            let set = format!("{name}_eval");
            assert_eq!(lines(&dir, &format!("{set}.jsonl")).len(), 2);
            let columns = &info(&dir)[&set]["columns"];
            assert_eq!(columns["messages"], "conversations");
            assert!(columns.get("images").is_none());
            assert_eq!(columns.get("chosen").is_some(), stage == Stage::IterDpo);
            let settings = read(&dir, &format!("{name}.yaml"));
            assert!(
                settings.contains(&format!("\neval_dataset: \"{set}\"\n")),
                "{settings}"
            );
        }
    }

    #[test]
    fn an_older_folder_is_replaced_and_nothing_else() {
        let [sft, pairs] = [(Stage::Sft, "sft"), (Stage::IterDpo, "dpo")]
            .map(|(stage, name)| recipe(stage, "qwen2", fixtures().join(name).join("text.jsonl")));
        let dir = emitted(&sft).unwrap();
        let again =
            |recipe: &Recipe, place: &str| llamafactory(recipe, &open(recipe), &dir.path().join(place));
        again(&sft, "emitted").unwrap();
        again(&pairs, "emitted").unwrap();
        assert!(!dir.path().join("emitted/sft.yaml").exists());
        again(&sft, "emitted").unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::fs::write(dir.path().join("data").join(DATASET_INFO), "{}").unwrap();
        assert!(matches!(again(&pairs, "data"), Err(Error::Occupied(_))));
    }
}
