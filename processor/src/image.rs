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
/// Like transformers' `load_image` and `convert_to_rgb`: the EXIF orientation is applied; what is transparent lies on
/// white; grey, palettes and CMYK become RGB; of 16 bits the upper 8 are kept; of an animation the first frame is taken.
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

pub(crate) fn format_of(bytes: &[u8], name: &str) -> Result<ImageFormat> {
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

pub(crate) fn limits() -> Limits {
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

/// Makes decoded samples RGB, as `convert_to_rgb` in transformers `image_transforms.py` does.
fn to_rgb(samples: Vec<u8>, color: ColorType) -> Option<Vec<u8>> {
    Some(match color {
        ColorType::Rgb8 => samples,
        ColorType::Rgba8 => samples
            .as_chunks::<4>()
            .0
            .iter()
            .flat_map(|[r, g, b, a]| on_white([*r, *g, *b], *a))
            .collect(),
        ColorType::L8 => samples.iter().flat_map(|grey| [*grey; 3]).collect(),
        ColorType::La8 => samples
            .as_chunks::<2>()
            .0
            .iter()
            .flat_map(|[grey, a]| on_white([*grey; 3], *a))
            .collect(),
        ColorType::Rgb16 => to_rgb(upper_halves(&samples), ColorType::Rgb8)?,
        ColorType::Rgba16 => to_rgb(upper_halves(&samples), ColorType::Rgba8)?,
        ColorType::L16 => to_rgb(upper_halves(&samples), ColorType::L8)?,
        ColorType::La16 => to_rgb(upper_halves(&samples), ColorType::La8)?,
        _ => return None,
    })
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

/// The upper 8 bits of 16-bit samples in the machine's byte order.
fn upper_halves(samples: &[u8]) -> Vec<u8> {
    samples
        .as_chunks::<2>()
        .0
        .iter()
        .map(|sample| (u16::from_ne_bytes(*sample) >> 8) as u8)
        .collect()
}

pub(crate) fn describe(error: ImageError, bytes: &[u8], name: &str) -> Error {
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
        ImageError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => Error::TruncatedImage { name },
        _ if is_cut_webp(bytes) => Error::TruncatedImage { name },
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

#[cfg(test)]
mod tests {
    use image::codecs::{png::PngEncoder, webp::WebPEncoder};
    use image::{ExtendedColorType, ImageEncoder};

    use super::*;

    /// Orientation 8 (turned to the left) as a TIFF block.
    const TURNED: &[u8] = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x08\0\0\0\0\0\0";

    fn png(samples: &[u8], width: u32, height: u32, color: ExtendedColorType) -> Vec<u8> {
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes)
            .write_image(samples, width, height, color)
            .unwrap();
        bytes
    }

    fn pixels(bytes: &[u8]) -> Vec<u8> {
        decode_image(bytes, "test").unwrap().into_raw()
    }

    #[test]
    fn grey_and_alpha_become_plain_colour() {
        assert_eq!(
            pixels(&png(&[7, 9], 2, 1, ExtendedColorType::L8)),
            [7, 7, 7, 9, 9, 9]
        );
        // Nothing, half and all of a pixel in front of white.
        assert_eq!(
            pixels(&png(
                &[1, 2, 3, 0, 0, 100, 255, 128, 1, 2, 3, 255],
                3,
                1,
                ExtendedColorType::Rgba8
            )),
            [255, 255, 255, 127, 177, 255, 1, 2, 3]
        );
        assert_eq!(
            pixels(&png(&[7, 0], 1, 1, ExtendedColorType::La8)),
            [255, 255, 255]
        );
    }

    #[test]
    fn of_16_bits_the_upper_8_are_kept() {
        // 0x12FF would be 0x13 if it were rounded.
        let samples: Vec<u8> = [0x12FF_u16, 0x8000, 0x00FF]
            .iter()
            .flat_map(|sample| sample.to_ne_bytes())
            .collect();
        assert_eq!(
            pixels(&png(&samples, 1, 1, ExtendedColorType::Rgb16)),
            [0x12, 0x80, 0x00]
        );
        assert_eq!(
            pixels(&png(&samples[..2], 1, 1, ExtendedColorType::L16)),
            [0x12; 3]
        );
    }

    #[test]
    fn webp_is_read_and_orientation_applied() {
        let samples = [1, 2, 3, 4, 5, 6];
        let mut bytes = Vec::new();
        let mut encoder = WebPEncoder::new_lossless(&mut bytes);
        encoder.set_exif_metadata(TURNED.to_vec()).unwrap();
        encoder
            .write_image(&samples, 2, 1, ExtendedColorType::Rgb8)
            .unwrap();
        let image = decode_image(&bytes, "turned.webp").unwrap();
        assert_eq!(image.dimensions(), (1, 2));
        assert_eq!(image.into_raw(), [4, 5, 6, 1, 2, 3]);
    }

    #[test]
    fn png_orientation_is_applied() {
        let mut bytes = Vec::new();
        let mut encoder = PngEncoder::new(&mut bytes);
        encoder.set_exif_metadata(TURNED.to_vec()).unwrap();
        encoder
            .write_image(&[1, 2, 3, 4, 5, 6], 2, 1, ExtendedColorType::Rgb8)
            .unwrap();
        assert_eq!(pixels(&bytes), [4, 5, 6, 1, 2, 3]);
    }

    #[test]
    fn what_is_no_image_is_told_apart() {
        let error = |bytes: &[u8]| decode_image(bytes, "x").unwrap_err().to_string();
        assert_eq!(
            error(b""),
            "`x` is empty (0 bytes); give a JPEG, PNG or WebP file"
        );
        assert_eq!(
            error(b"some text"),
            "`x` is not an image; give a JPEG, PNG or WebP file"
        );
        assert_eq!(
            error(b"GIF89a..."),
            "`x` is a GIF image, which is not supported; save it as JPEG, PNG or WebP"
        );
        assert!(error(b"\0\0\0\x18ftypheic").starts_with("`x` is a HEIF image or a video"));
        let path = Path::new("/nonexistent/a.png");
        assert!(
            open_image(path)
                .unwrap_err()
                .to_string()
                .starts_with("cannot read `/nonexistent/a.png`: ")
        );
    }

    #[test]
    fn what_is_cut_off_is_called_truncated() {
        let samples: Vec<u8> = (0..30 * 30 * 3).map(|i| (i * i % 251) as u8).collect();
        let png = png(&samples, 30, 30, ExtendedColorType::Rgb8);
        let mut webp = Vec::new();
        WebPEncoder::new_lossless(&mut webp)
            .write_image(&samples, 30, 30, ExtendedColorType::Rgb8)
            .unwrap();
        for bytes in [png, webp] {
            for length in [16, 40, bytes.len() / 2, bytes.len() - 30] {
                let error = decode_image(&bytes[..length], "x").unwrap_err();
                assert!(matches!(error, Error::TruncatedImage { .. }), "{length}: {error}");
            }
        }
    }

    #[test]
    fn long_and_huge_images_are_refused() {
        let line = png(&[0; 201], 201, 1, ExtendedColorType::L8);
        let error = decode_image(&line, "line.png").unwrap_err();
        assert!(
            matches!(
                error,
                Error::AspectRatio {
                    width: 201,
                    height: 1,
                    ..
                }
            ),
            "{error}"
        );
        assert!(decode_image(&png(&[0; 200], 200, 1, ExtendedColorType::L8), "line.png").is_ok());
        assert!(matches!(
            check_size(13_378, 13_378, "x"),
            Err(Error::ImageTooLarge {
                limit: 178_956_970,
                ..
            })
        ));
        assert!(check_size(13_377, 13_377, "x").is_ok());
    }
}
