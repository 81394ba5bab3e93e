use std::path::Path;

use lwv_model::{ModelConfig, VisionConfig};

use crate::{Error, Grid, ImageProcessor, Result, Tokenizer};

/// The image side of a folder: how pictures are cut, and the token that stands for them.
#[derive(Debug, Clone)]
pub(crate) struct Vision {
    pub(crate) processor: ImageProcessor,
    image_token: String,
    pub(crate) image_token_id: u32,
}

impl Vision {
    /// The image side of a folder, where it has one.
    pub(crate) fn find(dir: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>> {
        if !dir.join("config.json").exists() {
            return Ok(None);
        }
        let config = ModelConfig::from_dir(dir)?;
        let (Some(model), Some(image_token_id)) = (config.vision, config.image_token_id) else {
            return Ok(None);
        };
        let Some(processor) = ImageProcessor::find(dir)? else {
            return Ok(None);
        };
        check_sizes(&processor, &model)?;
        let unknown = Error::UnknownToken {
            field: "image_token_id",
            id: image_token_id,
        };
        let image_token = tokenizer.id_to_token(image_token_id).ok_or(unknown)?;
        Ok(Some(Self {
            processor,
            image_token,
            image_token_id,
        }))
    }

    /// How many places for an image the text has.
    pub(crate) fn places(&self, text: &str) -> usize {
        text.matches(&self.image_token).count()
    }

    pub(crate) fn check_count(&self, text: &str, images: usize) -> Result<()> {
        let placeholders = self.places(text);
        if placeholders == images {
            Ok(())
        } else {
            Err(Error::ImageCount {
                images,
                placeholders,
                token: self.image_token.clone(),
            })
        }
    }

    /// Repeats each image token as often as its image has merged patches.
    pub(crate) fn expand(&self, text: &str, grids: &[Grid]) -> String {
        let mut parts = text.split(&self.image_token);
        let mut expanded = parts.next().unwrap_or_default().to_owned();
        for (grid, part) in grids.iter().zip(parts) {
            expanded.push_str(&self.image_token.repeat(self.tokens(grid)));
            expanded.push_str(part);
        }
        expanded
    }

    fn tokens(&self, grid: &Grid) -> usize {
        grid.merged(self.processor.merge_size)
    }

    pub(crate) fn check_tokens(&self, input_ids: &[u32], grids: &[Grid]) -> Result<()> {
        let found = input_ids.iter().filter(|id| **id == self.image_token_id).count();
        let expected = grids.iter().map(|grid| self.tokens(grid)).sum();
        if found == expected {
            Ok(())
        } else {
            Err(Error::ImageTokens {
                found,
                expected,
                images: grids.len(),
            })
        }
    }
}

fn check_sizes(processor: &ImageProcessor, model: &VisionConfig) -> Result<()> {
    let sizes = [
        ("patch_size", processor.patch_size, model.patch_size),
        (
            "temporal_patch_size",
            processor.temporal_patch_size,
            model.temporal_patch_size,
        ),
        ("merge_size", processor.merge_size, model.spatial_merge_size),
    ];
    match sizes.into_iter().find(|(_, processor, model)| processor != model) {
        Some((field, processor, model)) => Err(Error::SizeMismatch {
            field,
            processor,
            model,
        }),
        None => Ok(()),
    }
}
