use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::{Map, Value};

use super::{EmitEngine, SftRecipe, SftSettings, fields};
use crate::Error;

/// The command line of `lwv-train sft`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SftArgs {
    /// TOML file with any of the settings below; the command line wins
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// Go on from this checkpoint of an interrupted training, or from the newest in --output-dir
    #[arg(long, value_name = "CHECKPOINT|auto", num_args = 0..=1, default_missing_value = "auto")]
    pub resume: Option<PathBuf>,
    /// Append one JSON object a step to this file
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// Print a JSON object as the last line of stdout
    #[arg(long)]
    pub json: bool,
    /// Write the files with which another trainer does the same, and train nothing (ENGINE: llamafactory)
    #[arg(long, num_args = 2, value_names = ["ENGINE", "DIR"])]
    pub emit: Option<Vec<String>>,
    /// Keep activations instead of computing them again in the backward pass
    #[arg(long, conflicts_with = "recompute")]
    pub no_recompute: bool,
    /// The settings.
    #[command(flatten)]
    pub settings: SftSettings,
}

impl SftArgs {
    /// Examples for the end of `--help`.
    pub const EXAMPLES: &str = "\
Examples:
  lwv-train sft --model ./Qwen2.5-VL-7B-Instruct --dataset sft.jsonl --output-dir ./out \\
    --recipe train/recipes/longwriter-v-7b-sft.toml
  lwv-train sft --model ./SmolLM2-135M --dataset a.jsonl,b.jsonl --output-dir ./out \\
    --finetuning-type lora --lora-rank 16 --learning-rate 1e-4 --max-steps 100 --metrics steps.jsonl \\
    --eval-dataset held-out.jsonl --eval-steps 20
  lwv-train sft --recipe my.toml --resume";

    /// The recipe: defaults, over them the recipe file, over them the command line.
    ///
    /// # Errors
    /// A recipe file that cannot be read or has an unknown setting, a required setting that is missing, a value that
    /// cannot be used; each names the setting, and file and line where it stands in one.
    pub fn resolve(&self) -> Result<SftRecipe, Error> {
        let file = self.recipe.as_deref().map(RecipeFile::read).transpose()?;
        let mut merged = fields(&SftRecipe::default())?;
        if let Some(file) = &file {
            lay_over(&mut merged, file.settings.clone());
        }
        lay_over(&mut merged, self.given()?);
        let recipe: SftRecipe =
            serde_json::from_value(Value::Object(merged)).map_err(|e| Error::RecipeFile {
                path: SftRecipe::FILE.into(),
                line: e.line(),
                message: e.to_string(),
            })?;
        if let Some(field) = recipe.missing() {
            return Err(Error::MissingSetting(field));
        }
        match recipe.refusal() {
            None => Ok(recipe),
            Some((field, reason)) => Err(self.refused(&recipe, file.as_ref(), field, reason)?),
        }
    }

    /// The trainer and the folder of `--emit`.
    ///
    /// # Errors
    /// A trainer that is not known.
    pub fn emit(&self) -> Result<Option<(EmitEngine, &Path)>, Error> {
        let Some([engine, dir]) = self.emit.as_deref() else {
            return Ok(None);
        };
        let known = EmitEngine::from_str(engine, false).map_err(|_| Error::Setting {
            field: "emit".into(),
            value: engine.clone(),
            origin: String::new(),
            reason: "known are `llamafactory`".into(),
        })?;
        Ok(Some((known, Path::new(dir))))
    }

    fn given(&self) -> Result<Map<String, Value>, Error> {
        let mut given = fields(&self.settings)?;
        if self.no_recompute {
            given.insert("recompute".into(), false.into());
        }
        Ok(given)
    }

    /// The error for the value of `field`, which says where the value was given.
    fn refused(
        &self,
        recipe: &SftRecipe,
        file: Option<&RecipeFile>,
        field: &str,
        reason: &str,
    ) -> Result<Error, Error> {
        let value = fields(recipe)?.remove(field).unwrap_or_default().to_string();
        let in_file = file.and_then(|file| Some((file, file.line(field)?)));
        let origin = match in_file {
            Some((file, line)) if !self.given()?.contains_key(field) => {
                format!(" in `{}`, line {line}", file.path.display())
            }
            _ => String::new(),
        };
        Ok(Error::Setting {
            field: field.to_owned(),
            value,
            origin,
            reason: reason.to_owned(),
        })
    }
}

/// Puts the settings of a higher layer over those of a lower one. Warm-up is one setting with two spellings: a layer
/// that gives the ratio takes the steps of the lower one away.
fn lay_over(lower: &mut Map<String, Value>, higher: Map<String, Value>) {
    if higher.contains_key("warmup-ratio") {
        lower.insert("warmup-steps".into(), Value::Null);
    }
    lower.extend(higher);
}

/// A parsed recipe file.
struct RecipeFile {
    path: PathBuf,
    text: String,
    settings: Map<String, Value>,
}

impl RecipeFile {
    fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let parsed: SftSettings = toml::from_str(&text).map_err(|e| Error::RecipeFile {
            path: path.to_owned(),
            line: line_at(&text, e.span().map_or(0, |span| span.start)),
            message: e.message().to_owned(),
        })?;
        let settings = fields(&parsed)?;
        Ok(Self {
            path: path.to_owned(),
            text,
            settings,
        })
    }

    /// Line, from 1, in which `field` is set. Recipes have no tables, so that a setting begins its line.
    fn line(&self, field: &str) -> Option<usize> {
        let sets = |line: &str| {
            line.trim_start()
                .strip_prefix(field)
                .is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        Some(self.text.lines().position(sets)? + 1)
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::SchedulerType;
    use crate::recipe::FinetuningType;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SftArgs,
    }

    const REQUIRED: [&str; 6] = [
        "--model",
        "m",
        "--dataset",
        "a.jsonl,b.jsonl",
        "--output-dir",
        "o",
    ];

    fn parse(more: &[&str]) -> SftArgs {
        Cli::parse_from(["sft"].iter().chain(&REQUIRED).chain(more)).args
    }

    fn with_file(text: &str, more: &[&str]) -> Result<SftRecipe, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        std::fs::write(&path, text).unwrap();
        let mut args = parse(more);
        args.recipe = Some(path);
        args.resolve().map_err(|e| e.to_string())
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_defaults() {
        let text = "learning-rate = 1e-5\nseed = 7\nfinetuning-type = \"lora\"\nwarmup-steps = 5\n";
        let recipe = with_file(text, &["--seed", "8", "--warmup-ratio", "0.2"]).unwrap();
        assert_eq!((recipe.learning_rate, recipe.seed), (1e-5, 8));
        assert_eq!(recipe.finetuning_type, FinetuningType::Lora);
        assert_eq!((recipe.warmup_steps, recipe.warmup_ratio), (None, 0.2));
        assert_eq!(recipe.num_train_epochs, 3.0);
        assert_eq!(recipe.dataset, [Path::new("a.jsonl"), Path::new("b.jsonl")]);
    }

    #[test]
    fn flags_are_true_alone_and_take_a_value() {
        let args = parse(&[
            "--no-shuffle",
            "--freeze-vision-tower",
            "false",
            "--no-recompute",
            "--resume",
        ]);
        assert_eq!(args.resume.as_deref(), Some(Path::new("auto")));
        let recipe = args.resolve().unwrap();
        assert!(recipe.no_shuffle && !recipe.freeze_vision_tower && !recipe.recompute);
        assert!(recipe.freeze_multi_modal_projector);
        let scheduled = parse(&["--lr-scheduler-type", "constant_with_warmup"]).resolve();
        assert_eq!(
            scheduled.unwrap().lr_scheduler_type,
            SchedulerType::ConstantWithWarmup
        );
    }

    #[test]
    fn errors_name_field_file_and_line() {
        let unknown = with_file("seed = 1\nlerning-rate = 1\n", &[]).unwrap_err();
        assert!(unknown.contains("my.toml`, line 2"), "{unknown}");
        assert!(unknown.contains("lerning-rate"), "{unknown}");
        let wrong_type = with_file("\n\nseed = \"x\"\n", &[]).unwrap_err();
        assert!(wrong_type.contains("my.toml`, line 3"), "{wrong_type}");
        let value = with_file("# rate\nlearning-rate = -1.0\n", &[]).unwrap_err();
        assert!(value.contains("`learning-rate` is `-1.0` in "), "{value}");
        assert!(value.contains("my.toml`, line 2"), "{value}");
        let given = with_file("learning-rate = 1.0\n", &["--learning-rate", "0"]).unwrap_err();
        assert!(given.starts_with("`learning-rate` is `0.0`:"), "{given}");
        let missing = SftArgs::default().resolve().unwrap_err().to_string();
        assert!(missing.contains("--model"), "{missing}");
    }

    #[test]
    fn shipped_recipes_resolve() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        for entry in std::fs::read_dir(folder).unwrap() {
            let mut args = parse(&[]);
            args.recipe = Some(entry.unwrap().path());
            let recipe = args.resolve().unwrap();
            assert_eq!(recipe.lr_scheduler_type, SchedulerType::Cosine);
            assert!(recipe.freeze_vision_tower);
        }
    }

    #[test]
    fn emit_takes_an_engine_and_a_folder() {
        let args = parse(&["--emit", "llamafactory", "dir"]);
        assert_eq!(
            args.emit().unwrap(),
            Some((EmitEngine::LlamaFactory, Path::new("dir")))
        );
        assert!(parse(&["--emit", "trl", "dir"]).emit().is_err());
    }
}
