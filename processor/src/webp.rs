use std::io::{BufRead, Cursor, ErrorKind, Seek};

use image_webp::{DecodingError, WebPDecoder};

use crate::image::{MAX_MEMORY, check_size};
use crate::orientation::Orientation;
use crate::samples::{to_rgb, zeros};
use crate::{Error, Result, RgbImage};

/// Decodes a WebP image, of an animation the first frame; the orientation is returned, not applied.
pub(crate) fn decode(bytes: &[u8], name: &str) -> Result<(RgbImage, Orientation)> {
    let fail = |error| describe(error, bytes, name);
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(fail)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, name)?;
    let orientation = orientation(&mut decoder);
    let refused = || Error::ImageMemory {
        name: name.to_owned(),
        bytes: MAX_MEMORY,
    };
    let mut samples = zeros(decoder.output_buffer_size().ok_or_else(refused)?, name)?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    decoder.read_image(&mut samples).map_err(fail)?;
    let image =
        RgbImage::from_raw(width, height, to_rgb(samples, channels)).ok_or_else(|| Error::DamagedImage {
            name: name.to_owned(),
            message: "it has too few pixels".to_owned(),
        })?;
    Ok((image, orientation))
}

/// Width, height and orientation, without reading pixels. `head` are the first bytes.
pub(crate) fn read_header(
    reader: impl BufRead + Seek,
    head: &[u8],
    name: &str,
) -> Result<(u32, u32, Orientation)> {
    let mut decoder = WebPDecoder::new(reader).map_err(|error| describe(error, head, name))?;
    let (width, height) = decoder.dimensions();
    Ok((width, height, orientation(&mut decoder)))
}

/// Broken metadata does not spoil the pixels.
fn orientation<R: BufRead + Seek>(decoder: &mut WebPDecoder<R>) -> Orientation {
    let exif = decoder.exif_metadata().ok().flatten();
    exif.map_or(Orientation::UPRIGHT, |block| Orientation::of_exif(&block))
}

fn describe(error: DecodingError, bytes: &[u8], name: &str) -> Error {
    let name = name.to_owned();
    match error {
        DecodingError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => Error::TruncatedImage { name },
        _ if is_cut(bytes) => Error::TruncatedImage { name },
        other => Error::DamagedImage {
            name,
            message: other.to_string(),
        },
    }
}

/// Whether a file is shorter than its first lines say; its decoder only calls that corrupt.
fn is_cut(bytes: &[u8]) -> bool {
    match bytes.first_chunk::<8>() {
        Some([b'R', b'I', b'F', b'F', length @ ..]) => bytes.len() < u32::from_le_bytes(*length) as usize + 8,
        _ => false,
    }
}
