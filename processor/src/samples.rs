use crate::image::MAX_MEMORY;
use crate::{Error, Result};

/// Memory for decoded samples; not to be had is an error here, not the end of the process.
pub(crate) fn zeros(bytes: usize, name: &str) -> Result<Vec<u8>> {
    let refused = || Error::ImageMemory {
        name: name.to_owned(),
        bytes: bytes as u64,
    };
    if bytes as u64 > MAX_MEMORY {
        return Err(refused());
    }
    let mut samples = Vec::new();
    samples.try_reserve_exact(bytes).map_err(|_| refused())?;
    samples.resize(bytes, 0);
    Ok(samples)
}

/// Makes RGB of samples of grey, grey with alpha, RGB, or RGB with alpha, as `convert_to_rgb` in transformers
/// `image_transforms.py` does.
pub(crate) fn to_rgb(samples: Vec<u8>, channels: usize) -> Vec<u8> {
    match channels {
        1 => samples.iter().flat_map(|grey| [*grey; 3]).collect(),
        2 => samples
            .as_chunks::<2>()
            .0
            .iter()
            .flat_map(|[grey, a]| on_white([*grey; 3], *a))
            .collect(),
        4 => samples
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|[r, g, b, a]| on_white([*r, *g, *b], *a))
            .collect(),
        _ => samples,
    }
}

/// The upper 8 bits of 16-bit samples whose upper byte comes first.
pub(crate) fn upper_halves(samples: &[u8]) -> Vec<u8> {
    samples.iter().step_by(2).copied().collect()
}

/// A pixel of some opacity in front of white, in the fixed-point arithmetic of Pillow's `AlphaComposite.c`.
fn on_white(pixel: [u8; 3], alpha: u8) -> [u8; 3] {
    const BITS: u32 = 7;
    let (front, back) = (u32::from(alpha), 255 - u32::from(alpha));
    pixel.map(|channel| {
        let sum = (u32::from(channel) * front + 255 * back + 128) << BITS;
        ((((sum >> 8) + sum) >> 8) >> BITS) as u8
    })
}
