use std::io::{Cursor, ErrorKind};
use std::path::Path;

use image::error::LimitErrorKind;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbImage};

use crate::{Error, Result, jpeg};

/// More pixels than this are taken for a decompression bomb: twice Pillow's `MAX_IMAGE_PIXELS`, where it refuses too.
pub const MAX_PIXELS: u64 = 2 * (1024 * 1024 * 1024 / 4 / 3);

/// An image may be this many times longer than wide, or wider than long (`smart_resize` in transformers
/// `image_processing_qwen2_vl.py`).
pub const MAX_ASPECT_RATIO: u32 = 200;

/// Most bytes that decoding one image may take: 16-bit colour with alpha of [`MAX_PIXELS`] pixels, and some more.
pub(crate) const MAX_MEMORY: u64 = 2 << 30;

/// Reads and decodes an image file, see [`decode_image`].
///
/// # Errors
/// The file cannot be read, or as for [`decode_image`].
pub fn open_image(path: &Path) -> Result<RgbImage> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    decode_image(&bytes, &path.display().to_string())
}

/// Decodes a JPEG, PNG or WebP image, told by its content, to 8-bit RGB. `name` stands in error messages.
///
/// Like transformers' `load_image`: the EXIF orientation is applied; alpha is dropped, not blended with a background;
/// grey, palettes and CMYK become RGB; of 16 bits the upper 8 are kept; of an animation the first frame is taken.
///
/// # Errors
/// Nothing in it, not an image, of another format, truncated, damaged, more than [`MAX_PIXELS`] pixels, longer than
/// [`MAX_ASPECT_RATIO`] times its width.
pub fn decode_image(bytes: &[u8], name: &str) -> Result<RgbImage> {
    if bytes.is_empty() {
        return Err(Error::EmptyImage {
            name: name.to_owned(),
        });
    }
    let (image, orientation) = if bytes.starts_with(&jpeg::SIGNATURE) {
        jpeg::decode(bytes, name)?
    } else {
        decode_with_image_crate(bytes, format_of(bytes, name)?, name)?
    };
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// Refuses a size, before any memory for pixels is taken.
pub(crate) fn check_size(width: u32, height: u32, name: &str) -> Result<()> {
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(Error::ImageTooLarge {
            name: name.to_owned(),
            width,
            height,
            limit: MAX_PIXELS,
        });
    }
    if is_too_long(width, height) {
        return Err(Error::AspectRatio {
            name: name.to_owned(),
            width,
            height,
        });
    }
    Ok(())
}

/// Whether one side is over [`MAX_ASPECT_RATIO`] times the other.
pub(crate) fn is_too_long(width: u32, height: u32) -> bool {
    let (long, short) = (width.max(height), width.min(height));
    u64::from(long) > u64::from(short) * u64::from(MAX_ASPECT_RATIO)
}

fn format_of(bytes: &[u8], name: &str) -> Result<ImageFormat> {
    let found = match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::WebP)) => return Ok(format),
        Ok(other) => format!(
            "a {} image",
            other
                .extensions_str()
                .first()
                .unwrap_or(&"foreign")
                .to_uppercase()
        ),
        // What phones write as `.heic`; the `image` crate does not know it.
        Err(_) if bytes.get(4..8) == Some(b"ftyp") => "a HEIF image or a video".to_owned(),
        Err(_) => {
            return Err(Error::NotAnImage {
                name: name.to_owned(),
            });
        }
    };
    Err(Error::UnsupportedImage {
        name: name.to_owned(),
        found,
    })
}

/// Decodes an image with the `image` crate; the orientation is returned, not applied.
pub(crate) fn decode_with_image_crate(
    bytes: &[u8],
    format: ImageFormat,
    name: &str,
) -> Result<(RgbImage, Orientation)> {
    let fail = |error| describe(error, bytes, name);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits());
    let mut decoder = reader.into_decoder().map_err(fail)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, name)?;
    // Broken metadata does not spoil the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let color = decoder.color_type();
    let mut samples = zeros(decoder.total_bytes(), name)?;
    decoder.read_image(&mut samples).map_err(fail)?;
    let pixels = to_rgb(samples, color).ok_or_else(|| Error::UnsupportedImage {
        name: name.to_owned(),
        found: format!("an image with pixels of type {color:?}"),
    })?;
    let image = RgbImage::from_raw(width, height, pixels).ok_or_else(|| Error::DamagedImage {
        name: name.to_owned(),
        message: "it has too few pixels".to_owned(),
    })?;
    Ok((image, orientation))
}

fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_MEMORY);
    limits
}

/// Memory for decoded samples; not to be had is an error here, not the end of the process.
fn zeros(bytes: u64, name: &str) -> Result<Vec<u8>> {
    let refused = || Error::ImageMemory {
        name: name.to_owned(),
        bytes,
    };
    let length = usize::try_from(bytes)
        .ok()
        .filter(|_| bytes <= MAX_MEMORY)
        .ok_or_else(refused)?;
    let mut samples = Vec::new();
    samples.try_reserve_exact(length).map_err(|_| refused())?;
    samples.resize(length, 0);
    Ok(samples)
}

/// Makes decoded samples RGB, as Pillow's `convert("RGB")` does.
fn to_rgb(samples: Vec<u8>, color: ColorType) -> Option<Vec<u8>> {
    Some(match color {
        ColorType::Rgb8 => samples,
        ColorType::Rgba8 => samples
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|[r, g, b, _]| [*r, *g, *b])
            .collect(),
        ColorType::L8 => samples.iter().flat_map(|grey| [*grey; 3]).collect(),
        ColorType::La8 => samples
            .as_chunks::<2>()
            .0
            .iter()
            .flat_map(|[grey, _]| [*grey; 3])
            .collect(),
        ColorType::Rgb16 => to_rgb(upper_halves(&samples), ColorType::Rgb8)?,
        ColorType::Rgba16 => to_rgb(upper_halves(&samples), ColorType::Rgba8)?,
        ColorType::L16 => to_rgb(upper_halves(&samples), ColorType::L8)?,
        ColorType::La16 => to_rgb(upper_halves(&samples), ColorType::La8)?,
        _ => return None,
    })
}

/// The upper 8 bits of 16-bit samples in the machine's byte order.
fn upper_halves(samples: &[u8]) -> Vec<u8> {
    samples
        .as_chunks::<2>()
        .0
        .iter()
        .map(|sample| (u16::from_ne_bytes(*sample) >> 8) as u8)
        .collect()
}

fn describe(error: ImageError, bytes: &[u8], name: &str) -> Error {
    let name = name.to_owned();
    match &error {
        ImageError::Unsupported(unsupported) => Error::UnsupportedImage {
            name,
            found: format!("an image with {:?}", unsupported.kind()),
        },
        ImageError::Limits(limit) if matches!(limit.kind(), LimitErrorKind::InsufficientMemory) => {
            Error::ImageMemory {
                name,
                bytes: MAX_MEMORY,
            }
        }
        ImageError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => Error::TruncatedImage {
            name,
            message: error.to_string(),
        },
        _ if is_cut_webp(bytes) => Error::TruncatedImage {
            name,
            message: error.to_string(),
        },
        _ => Error::DamagedImage {
            name,
            message: error.to_string(),
        },
    }
}

/// Whether a WebP file is shorter than its first lines say; its decoder only calls that corrupt.
fn is_cut_webp(bytes: &[u8]) -> bool {
    match bytes.first_chunk::<8>() {
        Some([b'R', b'I', b'F', b'F', length @ ..]) => bytes.len() < u32::from_le_bytes(*length) as usize + 8,
        _ => false,
    }
}
