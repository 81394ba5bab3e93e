use image::metadata::Orientation;
use image::{ImageFormat, RgbImage};
use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};

use crate::image::{MAX_MEMORY, MAX_PIXELS, check_size, decode_with_image_crate};
use crate::{Error, Result};

/// What every JPEG file begins with.
pub(crate) const SIGNATURE: [u8; 3] = [0xFF, 0xD8, 0xFF];

/// The longest side that the format can say.
const SIDE: usize = u16::MAX as usize;

/// Decodes a JPEG image; the orientation is returned, not applied.
///
/// Not with the `image` crate's decoder: that one differs from libjpeg-turbo, which Pillow uses, by up to 6 levels of
/// 255 on photos with 4:2:0 colour. This one gave the same bytes.
pub(crate) fn decode(bytes: &[u8], name: &str) -> Result<(RgbImage, Orientation)> {
    // The pixel limit is checked below, where the error can name the size.
    let header = DecodeLimits {
        max_width: SIDE,
        max_height: SIDE,
        max_pixels: u64::MAX,
        ..Default::default()
    };
    let mut decoder = Decoder::new_with_limits(bytes, header).map_err(|error| describe(error, name))?;
    let frame = decoder.header();
    let (width, height) = (u32::from(frame.width), u32::from(frame.height));
    check_size(width, height, name)?;
    if frame.components.len() > 3 {
        // With four inks this decoder panics at odd sizes (0.9.0), so the `image` crate takes over.
        return decode_with_image_crate(bytes, ImageFormat::Jpeg, name);
    }
    decoder.set_limits(DecodeLimits {
        max_pixels: MAX_PIXELS,
        max_memory: Some(MAX_MEMORY),
        ..header
    });
    decoder.set_output_format(PixelFormat::Rgb);
    let orientation = decoder.exif_orientation().and_then(Orientation::from_exif);
    let pixels = decoder
        .decode_image()
        .map_err(|error| describe(error, name))?
        .data;
    let image = RgbImage::from_raw(width, height, pixels).ok_or_else(|| Error::DamagedImage {
        name: name.to_owned(),
        message: "it has too few pixels".to_owned(),
    })?;
    Ok((image, orientation.unwrap_or(Orientation::NoTransforms)))
}

fn describe(error: JpegError, name: &str) -> Error {
    let name = name.to_owned();
    match error {
        JpegError::UnexpectedEof => Error::TruncatedImage {
            name,
            message: "the data ends too early".to_owned(),
        },
        JpegError::Unsupported(feature) => Error::UnsupportedImage {
            name,
            found: format!("a JPEG with {feature}"),
        },
        JpegError::LimitExceeded { what, actual, .. } if what.contains("memory") => {
            Error::ImageMemory { name, bytes: actual }
        }
        JpegError::AllocationFailed { bytes, .. } => Error::ImageMemory { name, bytes },
        other => Error::DamagedImage {
            name,
            message: other.to_string(),
        },
    }
}
