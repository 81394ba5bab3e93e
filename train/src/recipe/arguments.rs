use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::{Map, Value};

use super::layers::Layers;
use super::{EmitEngine, PreferenceSettings, Recipe, Stage, TrainingSettings, fields};
use crate::Error;

/// What a training command takes beside its settings.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RunArgs {
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
}

/// The command line of `lwv-train sft`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SftArgs {
    /// What is asked for beside the settings.
    #[command(flatten)]
    pub run: RunArgs,
    /// The settings.
    #[command(flatten)]
    pub settings: TrainingSettings,
}

/// The command line of `lwv-train iter-dpo`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct IterDpoArgs {
    /// What is asked for beside the settings.
    #[command(flatten)]
    pub run: RunArgs,
    /// The settings of any training.
    #[command(flatten)]
    pub settings: TrainingSettings,
    /// The settings of IterDPO.
    #[command(flatten)]
    pub preference: PreferenceSettings,
}

/// The command line of `lwv-train plan`, which takes that of either training.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PlanArgs {
    /// The training [default: iter-dpo where a setting of it is given, else sft]
    #[arg(long, value_enum)]
    pub stage: Option<Stage>,
    /// Both trainings' settings.
    #[command(flatten)]
    pub of: IterDpoArgs,
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
    pub fn resolve(&self) -> Result<Recipe, Error> {
        Layers::new(&self.run, Stage::Sft, fields(&self.settings)?)?.resolve()
    }
}

impl IterDpoArgs {
    /// Examples for the end of `--help`.
    pub const EXAMPLES: &str = "\
Examples:
  lwv-data pairs corrections.jsonl --out pairs.jsonl
  lwv-train iter-dpo --model ./LongWriter-V-7B --dataset pairs.jsonl --output-dir ./out \\
    --recipe train/recipes/longwriter-v-7b-dpo.toml
  lwv-train iter-dpo --model ./SmolLM2-135M --dataset pairs.jsonl --output-dir ./out --finetuning-type lora \\
    --learning-rate 1e-4 --pref-beta 0.1 --pref-loss sigmoid --pref-ftx 0.1 --metrics steps.jsonl
  lwv-train iter-dpo --recipe my.toml --pref-loss sigmoid,bco_pair,sft --pref-loss-weights 0.8,0.2,1

Defaults are those of sft, but for the learning rate, which is 1e-6.";

    /// The recipe, as [`SftArgs::resolve`] makes it.
    ///
    /// # Errors
    /// As for [`SftArgs::resolve`].
    pub fn resolve(&self) -> Result<Recipe, Error> {
        Layers::new(&self.run, Stage::IterDpo, self.given()?)?.resolve()
    }

    fn given(&self) -> Result<Map<String, Value>, Error> {
        let mut given = fields(&self.settings)?;
        given.extend(fields(&self.preference)?);
        Ok(given)
    }
}

impl PlanArgs {
    /// The recipe, as [`SftArgs::resolve`] makes it.
    ///
    /// # Errors
    /// As for [`SftArgs::resolve`].
    pub fn resolve(&self) -> Result<Recipe, Error> {
        let (run, given) = (&self.of.run, self.of.given()?);
        let stage = match self.stage {
            Some(stage) => stage,
            None => {
                let layers = Layers::new(run, Stage::IterDpo, given.clone())?;
                layers.stage()?
            }
        };
        Layers::new(run, stage, given)?.resolve()
    }
}

impl RunArgs {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    use crate::SchedulerType;
    use crate::recipe::{FinetuningType, TrainingRecipe};

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

    #[derive(Parser)]
    struct IterDpoCli {
        #[command(flatten)]
        args: IterDpoArgs,
    }

    fn iter_dpo(more: &[&str]) -> IterDpoArgs {
        IterDpoCli::parse_from(["iter-dpo"].iter().chain(&REQUIRED).chain(more)).args
    }

    #[derive(Parser)]
    struct PlanCli {
        #[command(flatten)]
        args: PlanArgs,
    }

    fn plan(more: &[&str]) -> PlanArgs {
        PlanCli::parse_from(["plan"].iter().chain(&REQUIRED).chain(more)).args
    }

    fn with_file(text: &str, more: &[&str]) -> Result<TrainingRecipe, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my.toml");
        std::fs::write(&path, text).unwrap();
        let mut args = parse(more);
        args.run.recipe = Some(path);
        let recipe = args.resolve().map_err(|e| e.to_string())?;
        Ok(recipe.training)
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
        assert_eq!(args.run.resume.as_deref(), Some(Path::new("auto")));
        let recipe = args.resolve().unwrap().training;
        assert!(recipe.no_shuffle && !recipe.freeze_vision_tower && !recipe.recompute);
        assert!(recipe.freeze_multi_modal_projector);
        let scheduled = parse(&["--lr-scheduler-type", "constant_with_warmup"]).resolve();
        assert_eq!(
            scheduled.unwrap().training.lr_scheduler_type,
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
            let path = entry.unwrap().path();
            let is_dpo = path.to_string_lossy().contains("-dpo");
            let args = plan(&["--recipe", path.to_str().unwrap()]);
            let recipe = args.resolve().unwrap();
            assert_eq!(recipe.training.lr_scheduler_type, SchedulerType::Cosine);
            assert!(recipe.training.freeze_vision_tower);
            assert_eq!(recipe.preference.is_some(), is_dpo);
        }
    }

    #[test]
    fn preferences_have_settings_of_their_own() {
        let args = iter_dpo(&[
            "--pref-loss",
            "sigmoid,bco_pair,sft",
            "--pref-loss-weights",
            "0.8,0.2,1",
        ]);
        let recipe = args.resolve().unwrap();
        let preference = recipe.preference.unwrap();
        assert_eq!(preference.pref_loss_weights, [0.8, 0.2, 1.0]);
        assert_eq!((preference.pref_beta, recipe.training.learning_rate), (0.1, 1e-6));
        let refused = iter_dpo(&["--pref-beta", "0"]).resolve().unwrap_err().to_string();
        assert!(refused.starts_with("`pref-beta` is `0.0`:"), "{refused}");
        let foreign = with_file("pref-beta = 0.2\n", &[]).unwrap_err();
        assert!(
            foreign.contains("my.toml`, line 1") && foreign.contains("pref-beta"),
            "{foreign}"
        );
    }

    #[test]
    fn a_plan_is_of_the_training_whose_settings_it_has() {
        let stage = |more: &[&str]| plan(more).resolve().map(|recipe| recipe.preference.is_some());
        assert!(!stage(&[]).unwrap());
        assert!(stage(&["--stage", "iter-dpo"]).unwrap());
        assert!(stage(&["--pref-beta", "0.2"]).unwrap());
        assert!(stage(&["--stage", "sft", "--pref-beta", "0.2"]).is_err());
    }

    #[test]
    fn emit_takes_an_engine_and_a_folder() {
        let args = parse(&["--emit", "llamafactory", "dir"]);
        assert_eq!(
            args.run.emit().unwrap(),
            Some((EmitEngine::LlamaFactory, Path::new("dir")))
        );
        assert!(parse(&["--emit", "trl", "dir"]).run.emit().is_err());
    }
}
