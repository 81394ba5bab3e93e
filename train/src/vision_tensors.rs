use candle_core::{Device, Tensor};
use lwv_model::{Segments, VisionConfig, VisionInputs};
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
    let values: Vec<f32> = images
        .iter()
        .flat_map(|image| image.values.iter().copied())
        .collect();
    Ok(VisionInputs {
        pixel_values: Tensor::from_vec(values, (geometry.patches, vision.patch_elements()), device)?,
        positions: Tensor::from_vec(geometry.rotary_positions, (geometry.patches, 2), device)?
            .t()?
            .contiguous()?,
        windows: segments(&geometry.windows, device)?,
        frames: segments(&geometry.frames, device)?,
    })
}

fn segments(host: &lwv_processor::Segments, device: &Device) -> Result<Segments<Tensor>> {
    Ok(Segments {
        gather: Tensor::from_slice(&host.gather, (host.count, host.length), device)?,
        lengths: Tensor::from_slice(&host.lengths, host.count, device)?,
        scatter: Tensor::from_slice(&host.scatter, host.scatter.len(), device)?,
    })
}
