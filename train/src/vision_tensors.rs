use candle_core::{Device, Tensor};
use lwv_model::{Segments, TileVisionConfig, VisionConfig, VisionInputs};
use lwv_processor::{Patches, VisionGeometry, VisionLayout};

use crate::Result;

/// What the vision tower reads of `images`, as tensors on `device`.
///
/// # Errors
/// An image whose grid does not fit the tower, or what candle says.
pub(crate) fn vision_inputs(
    vision: &VisionConfig,
    images: &[Patches],
    device: &Device,
) -> Result<VisionInputs<Tensor>> {
    let grids: Vec<_> = images.iter().map(|image| image.grid).collect();
    let layout = VisionLayout {
        patch_size: vision.patch_size,
        spatial_merge_size: vision.spatial_merge_size,
        window_size: vision.window_size,
    };
    let geometry = VisionGeometry::new(&grids, &layout)?;
    Ok(VisionInputs {
        pixel_values: pixels(images, vision.patch_elements(), device)?,
        positions: Tensor::from_vec(geometry.rotary_positions, (geometry.patches, 2), device)?
            .t()?
            .contiguous()?,
        windows: segments(&geometry.windows, device)?,
        frames: segments(&geometry.frames, device)?,
    })
}

/// The patches of a tile, all that a tower of tiles reads, as a tensor on `device`.
///
/// # Errors
/// What candle says.
pub(crate) fn tile_pixels(vision: &TileVisionConfig, tile: &Patches, device: &Device) -> Result<Tensor> {
    pixels(std::slice::from_ref(tile), vision.patch_elements(), device)
}

/// All patches, one image after another: `[patches, patch_elements]`.
fn pixels(images: &[Patches], patch_elements: usize, device: &Device) -> Result<Tensor> {
    let values = images.iter().flat_map(|image| image.values.iter().copied());
    let values: Vec<f32> = values.collect();
    let shape = (values.len() / patch_elements, patch_elements);
    Ok(Tensor::from_vec(values, shape, device)?)
}

fn segments(host: &lwv_processor::Segments, device: &Device) -> Result<Segments<Tensor>> {
    Ok(Segments {
        gather: Tensor::from_slice(&host.gather, (host.count, host.length), device)?,
        lengths: Tensor::from_slice(&host.lengths, host.count, device)?,
        scatter: Tensor::from_slice(&host.scatter, host.scatter.len(), device)?,
    })
}
