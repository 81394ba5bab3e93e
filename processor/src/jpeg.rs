use std::io::Cursor;

use libjpeg_turbo_rs::{DecodeLimits, Decoder, JpegError, PixelFormat};
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::image::{MAX_MEMORY, MAX_PIXELS, check_size};
use crate::orientation::Orientation;
use crate::samples::zeros;
use crate::{Error, Result, RgbImage, jpeg_header};

/// What every JPEG file begins with.
pub(crate) const SIGNATURE: [u8; 3] = [0xFF, 0xD8, 0xFF];

/// The longest side that the format can say.
const SIDE: usize = u16::MAX as usize;

/// Decodes a JPEG image; the orientation is returned, not applied.
///
/// Not with zune-jpeg, which the `image` crate uses: that one differs from libjpeg-turbo, which Pillow uses, by up to 6 levels of
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
        // With four inks this decoder panics at odd sizes (0.9.0), so the other one takes over.
        return decode_four_inks(bytes, (width, height), name);
    }
    decoder.set_limits(DecodeLimits {
        max_pixels: MAX_PIXELS,
        max_memory: Some(MAX_MEMORY),
        ..header
    });
    decoder.set_output_format(PixelFormat::Rgb);
    let pixels = decoder
        .decode_image()
        .map_err(|error| describe(error, name))?
        .data;
    let image = whole((width, height), pixels, name)?;
    Ok((image, orientation(bytes, name)))
}

/// As the header is read for the size, since decoders do not agree on EXIF blocks that are not quite right.
fn orientation(bytes: &[u8], name: &str) -> Orientation {
    jpeg_header::read(&mut Cursor::new(bytes), name)
        .map_or(Orientation::UPRIGHT, |(.., orientation)| orientation)
}

fn decode_four_inks(
    bytes: &[u8],
    (width, height): (u32, u32),
    name: &str,
) -> Result<(RgbImage, Orientation)> {
    let fail = |error: DecodeErrors| Error::DamagedImage {
        name: name.to_owned(),
        message: error.to_string(),
    };
    let options = DecoderOptions::default()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_strict_mode(false)
        .set_max_width(SIDE)
        .set_max_height(SIDE);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(fail)?;
    let mut pixels = zeros(decoder.output_buffer_size().unwrap_or(0), name)?;
    decoder.decode_into(&mut pixels).map_err(fail)?;
    Ok((whole((width, height), pixels, name)?, orientation(bytes, name)))
}

fn whole((width, height): (u32, u32), pixels: Vec<u8>, name: &str) -> Result<RgbImage> {
    RgbImage::from_raw(width, height, pixels).ok_or_else(|| Error::DamagedImage {
        name: name.to_owned(),
        message: "it has too few pixels".to_owned(),
    })
}

fn describe(error: JpegError, name: &str) -> Error {
    let name = name.to_owned();
    match error {
        JpegError::UnexpectedEof => Error::TruncatedImage { name },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::decode_image;

    /// A blend of colours of 10×6 pixels with halved colour planes (4:2:0), written by Pillow at quality 75.
    const BLEND: &[u8] =
        b"\xff\xd8\xff\xe0\x00\x10\x4a\x46\x49\x46\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xdb\x00\x43\
        \x00\x08\x06\x06\x07\x06\x05\x08\x07\x07\x07\x09\x09\x08\x0a\x0c\x14\x0d\x0c\x0b\x0b\x0c\x19\x12\
        \x13\x0f\x14\x1d\x1a\x1f\x1e\x1d\x1a\x1c\x1c\x20\x24\x2e\x27\x20\x22\x2c\x23\x1c\x1c\x28\x37\x29\
        \x2c\x30\x31\x34\x34\x34\x1f\x27\x39\x3d\x38\x32\x3c\x2e\x33\x34\x32\xff\xdb\x00\x43\x01\x09\x09\
        \x09\x0c\x0b\x0c\x18\x0d\x0d\x18\x32\x21\x1c\x21\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\
        \x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\
        \x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\x32\xff\xc0\x00\x11\x08\x00\x06\x00\x0a\x03\
        \x01\x22\x00\x02\x11\x01\x03\x11\x01\xff\xc4\x00\x16\x00\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x02\x05\xff\xc4\x00\x1c\x10\x00\x01\x04\x03\x01\x00\x00\x00\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x01\x02\x04\x21\x05\x06\x91\x11\xff\xc4\x00\x15\x01\x01\x01\x00\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x04\xff\xc4\x00\x1a\x11\x00\x01\x05\x01\x00\
        \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x04\x00\x01\x06\x14\x32\x05\xff\xda\x00\x0c\x03\x01\
        \x00\x02\x11\x03\x11\x00\x3f\x00\xac\x7e\x81\x0e\xad\x9c\x37\x13\x40\x87\xe2\x5b\x38\x01\x04\x94\
        \xd2\x2d\x6d\xd1\xc6\xba\x25\x55\xdb\xaf\xff\xd9";

    /// Its first and fourth line as Pillow reads them.
    const LINES: [[u8; 30]; 2] = [
        [
            2, 4, 229, 13, 6, 224, 33, 8, 213, 58, 9, 196, 86, 8, 172, 114, 7, 149, 144, 6, 125, 167, 5, 104,
            190, 8, 91, 200, 8, 83,
        ],
        [
            12, 132, 227, 23, 134, 223, 43, 137, 211, 66, 137, 193, 93, 136, 170, 123, 136, 145, 152, 136,
            123, 174, 135, 102, 198, 137, 90, 208, 137, 81,
        ],
    ];

    /// The picture with an EXIF block that holds only an orientation.
    fn oriented(orientation: u8) -> Vec<u8> {
        let exif = [
            b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(),
            &[orientation],
            b"\0\0\0\0\0\0".as_slice(),
        ];
        [&BLEND[..2], &exif.concat(), &BLEND[2..]].concat()
    }

    #[test]
    fn pixels_are_those_of_pillow() {
        let image = decode_image(BLEND, "blend.jpg").unwrap();
        assert_eq!(image.dimensions(), (10, 6));
        assert_eq!(image.as_raw()[..30], LINES[0]);
        assert_eq!(image.as_raw()[90..120], LINES[1]);
    }

    #[test]
    fn the_orientation_is_applied() {
        let upright = decode_image(BLEND, "blend.jpg").unwrap();
        // 3 is upside down, 6 lies on its left side.
        assert_eq!(
            decode_image(&oriented(3), "3.jpg").unwrap(),
            RgbImage::from_fn(10, 6, |x, y| upright.pixel(9 - x, 5 - y))
        );
        assert_eq!(
            decode_image(&oriented(6), "6.jpg").unwrap(),
            RgbImage::from_fn(6, 10, |x, y| upright.pixel(y, 5 - x))
        );
        assert_eq!(decode_image(&oriented(9), "9.jpg").unwrap(), upright);
    }

    #[test]
    fn what_is_cut_off_is_called_truncated() {
        for length in [3, 20, 200, BLEND.len() - 12] {
            let error = decode_image(&BLEND[..length], "cut.jpg").unwrap_err();
            assert!(matches!(error, Error::TruncatedImage { .. }), "{length}: {error}");
        }
    }

    #[test]
    fn sizes_are_refused_by_the_header_alone() {
        let with_size = |height: u16, width: u16| {
            let mut bytes = BLEND.to_vec();
            let frame = bytes
                .windows(2)
                .position(|marker| marker == [0xFF, 0xC0])
                .unwrap()
                + 5;
            bytes[frame..frame + 2].copy_from_slice(&height.to_be_bytes());
            bytes[frame + 2..frame + 4].copy_from_slice(&width.to_be_bytes());
            decode_image(&bytes, "big.jpg").unwrap_err()
        };
        let error = with_size(65_000, 60_000);
        assert!(
            matches!(
                error,
                Error::ImageTooLarge {
                    width: 60_000,
                    height: 65_000,
                    ..
                }
            ),
            "{error}"
        );
        let error = with_size(1, 50_000);
        assert_eq!(
            error.to_string(),
            "`big.jpg` of `50000`×`1` pixels is over `200` times longer than wide; crop it"
        );
    }

    #[test]
    fn four_inks_become_rgb() {
        // Inks are stored inverted: 255 is none. No black, so the other three are the colour itself.
        let inks: Vec<u8> = [200, 100, 50, 255].repeat(9 * 7);
        let subsampling = libjpeg_turbo_rs::Subsampling::S444;
        let bytes = libjpeg_turbo_rs::compress(&inks, 9, 7, PixelFormat::Cmyk, 100, subsampling).unwrap();
        let image = decode_image(&bytes, "inks.jpg").unwrap();
        for pixel in image.as_raw().as_chunks::<3>().0 {
            assert!(
                pixel
                    .iter()
                    .zip([200, 100, 50])
                    .all(|(got, want)| got.abs_diff(want) <= 2),
                "{pixel:?}"
            );
        }
    }
}
