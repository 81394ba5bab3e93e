use lwv_processor::{ImageProcessor, Processor};

use crate::recipe::TrainingRecipe;
use crate::{Result, Samples};

/// Sides below this are stretched to it, as is the plugin's way for Qwen2-VL (`data/mm_plugin.py`).
const SHORTEST_SIDE: u32 = 28;

/// Tokens of the longest sample as LLaMA-Factory counts them, or `max-length` where that is more: with this limit it cuts
/// no sample. Its pictures may be larger than ours, see [`Limits::resized`].
///
/// # Errors
/// A sample or the checkpoint's processor that cannot be read.
pub(super) fn longest(recipe: &TrainingRecipe, samples: &Samples) -> Result<usize> {
    let used = samples.train.iter().chain(&samples.held_out);
    let mut longest = recipe.max_length.unwrap_or(0);
    let checkpoint = Processor::from_dir(&recipe.model)?;
    let processors = samples
        .encoder
        .processor()
        .image_processor()
        .zip(checkpoint.image_processor());
    let limits = Limits {
        min: recipe.image_min_pixels,
        max: recipe.image_max_pixels,
    };
    for &sample in used {
        let mut tokens = samples.measures[sample].longest;
        if let Some((ours, theirs)) = processors {
            for (width, height) in samples.conversation(sample)?.image_sizes()? {
                let (resized_width, resized_height) = limits.resized(width, height);
                tokens += tokens_of(theirs, resized_width, resized_height)?;
                tokens -= tokens_of(ours, width, height)?;
            }
        }
        longest = longest.max(tokens);
    }
    Ok(longest)
}

fn tokens_of(processor: &ImageProcessor, width: u32, height: u32) -> Result<usize> {
    Ok(processor.grid(width, height)?.merged(processor.merge_size))
}

/// Fewest and most pixels of a recipe.
struct Limits {
    min: Option<usize>,
    max: Option<usize>,
}

impl Limits {
    /// Width and height that LLaMA-Factory hands the checkpoint's processor, which rounds them to patches afterwards
    /// (`MMPluginMixin._preprocess_image` and `Qwen2VLPlugin._preprocess_image` in `data/mm_plugin.py`).
    fn resized(&self, width: u32, height: u32) -> (u32, u32) {
        let mut size = (width, height);
        if let Some(max) = self.max.filter(|max| pixels(size) > *max as u64) {
            size = scaled(size, max);
        }
        if let Some(min) = self.min.filter(|min| pixels(size) < *min as u64) {
            size = scaled(size, min);
        }
        (size.0.max(SHORTEST_SIDE), size.1.max(SHORTEST_SIDE))
    }
}

fn pixels((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}

fn scaled(size: (u32, u32), pixels_wanted: usize) -> (u32, u32) {
    let factor = (pixels_wanted as f64 / pixels(size) as f64).sqrt();
    let scale = |side: u32| (f64::from(side) * factor) as u32;
    (scale(size.0), scale(size.1))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::recipe::Stage;

    #[test]
    fn sizes_are_cut_to_whole_pixels() {
        let limits = Limits {
            min: Some(784),
            max: Some(78_400),
        };
        assert_eq!(limits.resized(280, 280), (280, 280));
        assert_eq!(limits.resized(1000, 700), (334, 234));
        assert_eq!(limits.resized(40, 7), (66, 28));
        let none = Limits { min: None, max: None };
        assert_eq!(none.resized(1000, 10), (1000, 28));
    }

    #[test]
    fn the_longest_sample_is_counted_with_its_larger_pictures() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let mut recipe = TrainingRecipe {
            model: fixtures.join("tiny/nested_f32"),
            dataset: vec![fixtures.join("sft/tiny.jsonl")],
            media_dir: Some(fixtures),
            output_dir: "out".into(),
            ..TrainingRecipe::default()
        };
        let count = |recipe: &TrainingRecipe| {
            let samples = Samples::open(recipe, Stage::Sft, &AtomicBool::new(false), &|_, _| {}).unwrap();
            (longest(recipe, &samples).unwrap(), samples.longest())
        };
        let (theirs, ours) = count(&recipe);
        assert_eq!(theirs, ours);
        recipe.image_max_pixels = Some(5000);
        let (theirs, ours) = count(&recipe);
        assert!(theirs > ours, "{theirs} {ours}");
        recipe.max_length = Some(4096);
        assert_eq!(count(&recipe).0, 4096);
    }
}
