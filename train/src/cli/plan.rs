use std::process::ExitCode;

use anyhow::Result;
use lwv_model::ModelConfig;
use lwv_train::recipe::{DeviceType, PlanArgs};
use lwv_train::{Load, MemoryPlan};
use serde_json::json;

use super::desk::Desk;
use super::{memory, say};

/// Prints what a training needs in memory.
pub(crate) fn run(args: &PlanArgs) -> Result<ExitCode> {
    let recipe = args.resolve()?;
    let desk = Desk::training();
    let samples = desk.open_samples(&recipe)?;
    let config = ModelConfig::from_dir(&recipe.training.model)?;
    let load = Load::of(&recipe, &samples)?;
    let recipe = recipe.training;
    let plan = MemoryPlan::new(&recipe, &config, load);
    let advice = MemoryPlan::advice(&recipe, &config, load);
    let available = memory::available().filter(|_| recipe.device != DeviceType::Cuda);
    for line in table(&plan) {
        say(&line);
    }
    if let Some(available) = available {
        let fits = if plan.peak <= available {
            "it fits"
        } else {
            "it does not fit"
        };
        say(&format!(
            "{:<28}{:>12}  {fits}",
            "available",
            gibibytes(available)
        ));
    }
    for (setting, peak) in advice.iter().filter(|(_, peak)| *peak < plan.peak) {
        say(&format!("  with {setting:<40} {:>12}", gibibytes(*peak)));
    }
    let left_out = samples.shortage.describe();
    if !left_out.is_empty() {
        say(&format!("left out: {left_out}"));
    }
    if args.of.run.json {
        say(
            &json!({"plan": plan, "available": available, "samples": samples.train.len(),
            "held_out": samples.held_out.len(), "left_out": samples.shortage})
            .to_string(),
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn table(plan: &MemoryPlan) -> Vec<String> {
    let row = |name: &str, value: String| format!("{name:<28}{value:>12}");
    vec![
        row("trained parameters", plan.trained_parameters.to_string()),
        row("all parameters", plan.all_parameters.to_string()),
        row("tokens of longest batch", plan.longest_batch.to_string()),
        row("patches of its images", plan.patches.to_string()),
        row("weights", gibibytes(plan.weights)),
        row("gradients", gibibytes(plan.gradients)),
        row("moments in memory", gibibytes(plan.moments)),
        row("moments on disk", gibibytes(plan.moments_on_disk)),
        row("activations", gibibytes(plan.activations)),
        row("working memory", gibibytes(plan.working)),
        row("buffers", gibibytes(plan.buffers)),
        row("peak", gibibytes(plan.peak)),
    ]
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1u32 << 30))
}
