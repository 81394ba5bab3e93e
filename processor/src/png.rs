use std::io::{BufRead, Cursor, ErrorKind, Seek};

use png::{BitDepth, ColorType, Decoder, DecodingError, Info, Limits, Reader, Transformations};

use crate::image::{MAX_MEMORY, check_size};
use crate::orientation::Orientation;
use crate::samples::{to_rgb, upper_halves, zeros};
use crate::{Error, Result, RgbImage};

/// Decodes a PNG image, of an animation what is shown where there are none; the orientation is returned, not applied.
pub(crate) fn decode(bytes: &[u8], name: &str) -> Result<(RgbImage, Orientation)> {
    let mut reader = open(Cursor::new(bytes), name)?;
    let orientation = orientation(&reader);
    let (width, height) = reader.info().size();
    let refused = || Error::ImageMemory {
        name: name.to_owned(),
        bytes: MAX_MEMORY,
    };
    let mut samples = zeros(reader.output_buffer_size().ok_or_else(refused)?, name)?;
    reader
        .next_frame(&mut samples)
        .map_err(|error| describe(error, name))?;
    let (color, depth) = reader.output_color_type();
    if depth == BitDepth::Sixteen {
        samples = upper_halves(&samples);
    }
    let pixels = to_rgb(samples, color.samples());
    let image = RgbImage::from_raw(width, height, pixels).ok_or_else(|| Error::DamagedImage {
        name: name.to_owned(),
        message: "it has too few pixels".to_owned(),
    })?;
    Ok((image, orientation))
}

/// Width, height and orientation, without reading pixels.
pub(crate) fn read_header(reader: impl BufRead + Seek, name: &str) -> Result<(u32, u32, Orientation)> {
    let reader = open(reader, name)?;
    let (width, height) = reader.info().size();
    Ok((width, height, orientation(&reader)))
}

fn open<R: BufRead + Seek>(reader: R, name: &str) -> Result<Reader<R>> {
    let limits = Limits {
        bytes: usize::try_from(MAX_MEMORY).unwrap_or(usize::MAX),
    };
    let mut decoder = Decoder::new_with_limits(reader, limits);
    let header = decoder
        .read_header_info()
        .map_err(|error| describe(error, name))?;
    check_size(header.width, header.height, name)?;
    // Palettes and few bits become 8 bits, a transparent colour becomes alpha.
    decoder.set_transformations(Transformations::EXPAND);
    let reader = decoder.read_info().map_err(|error| describe(error, name))?;
    check_palette(reader.info(), name)?;
    Ok(reader)
}

/// The decoder takes palettes of whole colours for granted, and no more transparencies than colours.
fn check_palette(info: &Info<'_>, name: &str) -> Result<()> {
    let palette = info.palette.as_deref().unwrap_or_default();
    let transparencies = info.trns.as_deref().unwrap_or_default();
    let whole = palette.len().is_multiple_of(3) && transparencies.len() <= palette.len() / 3;
    if info.color_type == ColorType::Indexed && !whole {
        return Err(Error::DamagedImage {
            name: name.to_owned(),
            message: format!(
                "a palette of {} bytes has {} transparencies",
                palette.len(),
                transparencies.len()
            ),
        });
    }
    Ok(())
}

fn orientation<R: BufRead + Seek>(reader: &Reader<R>) -> Orientation {
    let exif = reader.info().exif_metadata.as_deref();
    exif.map_or(Orientation::UPRIGHT, Orientation::of_exif)
}

fn describe(error: DecodingError, name: &str) -> Error {
    let name = name.to_owned();
    match error {
        DecodingError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => Error::TruncatedImage { name },
        DecodingError::LimitsExceeded => Error::ImageMemory {
            name,
            bytes: MAX_MEMORY,
        },
        other => Error::DamagedImage {
            name,
            message: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use png::Encoder;

    use super::*;
    use crate::decode_image;

    /// A picture of noise, in rows that fill whole bytes.
    fn noise(color: ColorType, depth: BitDepth, width: u32, height: u32) -> Vec<u8> {
        let row = (width as usize * color.samples() * depth as usize).div_ceil(8);
        let mut state = 7_u32;
        let samples: Vec<u8> = (0..row * height as usize)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette((0..=255).flat_map(|i| [i, 255 - i, i / 2]).collect::<Vec<u8>>());
            encoder.set_trns((0..=255).rev().collect::<Vec<u8>>());
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(&samples).unwrap();
        drop(writer);
        bytes
    }

    #[test]
    fn palettes_of_parts_of_colours_are_refused() {
        for (palette, transparencies) in [(49, 4), (50, 0), (48, 17)] {
            let mut bytes = Vec::new();
            let mut encoder = Encoder::new(&mut bytes, 4, 4);
            encoder.set_color(ColorType::Indexed);
            encoder.set_depth(BitDepth::Four);
            encoder.set_palette(vec![7; palette]);
            if transparencies > 0 {
                encoder.set_trns(vec![9; transparencies]);
            }
            let mut writer = encoder.write_header().unwrap();
            writer.write_image_data(&[0; 8]).unwrap();
            drop(writer);
            let error = decode_image(&bytes, "palette").unwrap_err();
            assert!(
                matches!(error, Error::DamagedImage { .. }),
                "{palette} {transparencies}: {error}"
            );
        }
    }

    /// The `image` crate stands on the same decoder, and makes colours of its samples in its own way.
    #[test]
    fn every_kind_of_pixel_is_read_as_the_image_crate_reads_it() {
        use BitDepth::{Eight, Four, One, Sixteen, Two};
        use ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
        let kinds = [
            (Grayscale, [One, Two, Four, Eight, Sixteen].as_slice()),
            (Indexed, &[One, Two, Four, Eight]),
            (GrayscaleAlpha, &[Eight, Sixteen]),
            (Rgb, &[Eight, Sixteen]),
            (Rgba, &[Eight, Sixteen]),
        ];
        for (color, depths) in kinds {
            for depth in depths {
                let bytes = noise(color, *depth, 13, 7);
                let reference = image::load_from_memory(&bytes).unwrap();
                let (pixels, opaque) = (reference.to_rgba16(), !reference.color().has_alpha());
                let got = decode_image(&bytes, "noise").unwrap();
                for (x, y, pixel) in pixels.enumerate_pixels() {
                    let [r, g, b, a] = pixel.0.map(|value| value >> 8);
                    let expected = [r, g, b].map(|value| match opaque {
                        true => value as u8,
                        false => (f64::from(value * a + 255 * (255 - a)) / 255.0).round() as u8,
                    });
                    assert_eq!(got.pixel(x, y), expected, "{color:?} {depth:?} at {x}, {y}");
                }
            }
        }
    }
}
