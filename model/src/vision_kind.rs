use crate::{TileVisionConfig, VisionConfig};

/// A vision tower, by how it takes pictures.
#[derive(Debug, Clone, PartialEq)]
pub enum Vision {
    /// Pictures of any size, whose patches attend in windows: Qwen2.5-VL.
    Windows(VisionConfig),
    /// Tiles of one size that pictures are split into: Idefics3 and SmolVLM.
    Tiles(TileVisionConfig),
}

impl Vision {
    /// The tower that attends in windows, where this is one.
    pub fn windows(&self) -> Option<&VisionConfig> {
        match self {
            Self::Windows(config) => Some(config),
            Self::Tiles(_) => None,
        }
    }

    /// The tower of tiles, where this is one.
    pub fn tiles(&self) -> Option<&TileVisionConfig> {
        match self {
            Self::Windows(_) => None,
            Self::Tiles(config) => Some(config),
        }
    }

    /// Numbers in one patch.
    pub fn patch_elements(&self) -> usize {
        match self {
            Self::Windows(config) => config.patch_elements(),
            Self::Tiles(config) => config.patch_elements(),
        }
    }

    /// Patches on a side of the square that becomes one token.
    pub fn merge_size(&self) -> usize {
        match self {
            Self::Windows(config) => config.spatial_merge_size,
            Self::Tiles(config) => config.scale_factor,
        }
    }

    /// Width of the features; the decoder's hidden size.
    pub fn out_hidden_size(&self) -> usize {
        match self {
            Self::Windows(config) => config.out_hidden_size,
            Self::Tiles(config) => config.out_hidden_size,
        }
    }
}
