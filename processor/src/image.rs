use std::path::Path;

use crate::image_format::ImageFormat;
use crate::{Error, Result, RgbImage, jpeg, png, webp};

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
        match ImageFormat::of(bytes, name)? {
            ImageFormat::Png => png::decode(bytes, name)?,
            ImageFormat::WebP => webp::decode(bytes, name)?,
        }
    };
    Ok(orientation.apply(image))
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
