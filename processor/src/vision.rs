use std::path::Path;

use lwv_model::{ModelConfig, TileVisionConfig, VisionConfig};

use crate::{Error, Grid, ImageProcessor, Patches, Result, RgbImage, Split, TileProcessor, Tokenizer};

/// The image side of a folder: how pictures are cut, and the token that stands for them.
#[derive(Debug, Clone)]
pub(crate) struct Vision {
    pub(crate) cutter: Cutter,
    image_token: String,
    pub(crate) image_token_id: u32,
}

/// How pictures are cut.
#[derive(Debug, Clone)]
pub(crate) enum Cutter {
    /// Into patches of one grid.
    Grid(ImageProcessor),
    /// Into tiles.
    Tiles(TileProcessor),
}

/// What stands for a picture in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// How the picture was split, where it was.
    pub(crate) split: Option<Split>,
    /// Its grids: one, or one a tile.
    pub(crate) grids: Vec<Grid>,
}

impl Place {
    /// The place of a picture that is one grid.
    pub(crate) fn of(grid: Grid) -> Self {
        Self {
            split: None,
            grids: vec![grid],
        }
    }
}

impl Cutter {
    fn find(dir: &Path, model: &lwv_model::Vision) -> Result<Option<Self>> {
        match model {
            lwv_model::Vision::Windows(model) => {
                let Some(processor) = ImageProcessor::find(dir)? else {
                    return Ok(None);
                };
                check_sizes(&sizes(&processor, model))?;
                Ok(Some(Self::Grid(processor)))
            }
            lwv_model::Vision::Tiles(model) => {
                let Some(processor) = TileProcessor::find(dir, model.patch_size, model.scale_factor)? else {
                    return Ok(None);
                };
                check_sizes(&[tile_size(&processor, model)])?;
                Ok(Some(Self::Tiles(processor)))
            }
        }
    }

    /// What the vision tower takes of a picture, and the picture's place in the text.
    pub(crate) fn process(&self, image: &RgbImage) -> Result<(Vec<Patches>, Place)> {
        let (patches, split) = match self {
            Self::Grid(processor) => (vec![processor.process(image)?], None),
            Self::Tiles(processor) => {
                let tiles = processor.process(image)?;
                (tiles.tiles, tiles.split)
            }
        };
        let grids = patches.iter().map(|patches| patches.grid).collect();
        Ok((patches, Place { split, grids }))
    }

    fn merge_size(&self) -> usize {
        match self {
            Self::Grid(processor) => processor.merge_size,
            Self::Tiles(processor) => processor.patches.merge_size,
        }
    }
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
        let Some(cutter) = Cutter::find(dir, &model)? else {
            return Ok(None);
        };
        let unknown = Error::UnknownToken {
            field: "image_token_id",
            id: image_token_id,
        };
        let image_token = tokenizer.id_to_token(image_token_id).ok_or(unknown)?;
        Ok(Some(Self {
            cutter,
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

    /// Puts in each image token's stead what stands for its image: as many of them as it has merged patches, and where it was cut
    /// into tiles what is around them.
    pub(crate) fn expand(&self, text: &str, places: &[Place]) -> String {
        let mut parts = text.split(&self.image_token);
        let mut expanded = parts.next().unwrap_or_default().to_owned();
        for (place, part) in places.iter().zip(parts) {
            match self.cutter {
                Cutter::Grid(_) => expanded.extend(place.grids.iter().map(|grid| self.tokens_of(grid))),
                Cutter::Tiles(_) => self.push_tiles(&mut expanded, place),
            }
            expanded.push_str(part);
        }
        expanded
    }

    /// As `replace_image_token` in transformers `processing_idefics3.py` and `processing_smolvlm.py`.
    fn push_tiles(&self, text: &mut String, place: &Place) {
        const AROUND: &str = "<fake_token_around_image>";
        let mut tiles = place.grids.iter().map(|grid| self.tokens_of(grid));
        let mut push = |text: &mut String, tag: &str| {
            text.push_str(AROUND);
            text.push_str(tag);
            text.push_str(&tiles.next().unwrap_or_default());
        };
        if let Some(Split { rows, columns }) = place.split {
            for row in 1..=rows {
                for column in 1..=columns {
                    push(text, &format!("<row_{row}_col_{column}>"));
                }
                text.push('\n');
            }
            text.push('\n');
        }
        push(text, "<global-img>");
        text.push_str(AROUND);
    }

    fn tokens_of(&self, grid: &Grid) -> String {
        self.image_token.repeat(self.tokens(grid))
    }

    fn tokens(&self, grid: &Grid) -> usize {
        grid.merged(self.cutter.merge_size())
    }

    pub(crate) fn check_tokens(&self, input_ids: &[u32], places: &[Place]) -> Result<()> {
        let found = input_ids.iter().filter(|id| **id == self.image_token_id).count();
        let grids = places.iter().flat_map(|place| &place.grids);
        let expected = grids.map(|grid| self.tokens(grid)).sum();
        if found == expected {
            Ok(())
        } else {
            Err(Error::ImageTokens {
                found,
                expected,
                images: places.len(),
            })
        }
    }
}

/// A size as image processor and model have it.
type SizePair = (&'static str, usize, usize);

fn sizes(processor: &ImageProcessor, model: &VisionConfig) -> [SizePair; 3] {
    [
        ("patch_size", processor.patch_size, model.patch_size),
        (
            "temporal_patch_size",
            processor.temporal_patch_size,
            model.temporal_patch_size,
        ),
        ("merge_size", processor.merge_size, model.spatial_merge_size),
    ]
}

fn tile_size(processor: &TileProcessor, model: &TileVisionConfig) -> SizePair {
    ("max_image_size", processor.tile_size, model.image_size)
}

fn check_sizes(sizes: &[SizePair]) -> Result<()> {
    match sizes.iter().find(|(_, processor, model)| processor != model) {
        Some(&(field, processor, model)) => Err(Error::SizeMismatch {
            field,
            processor,
            model,
        }),
        None => Ok(()),
    }
}
