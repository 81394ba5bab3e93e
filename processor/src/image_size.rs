use std::io::{BufRead, Read, Seek};

use crate::image::check_size;
use crate::image_format::ImageFormat;
use crate::{Error, Result, jpeg, jpeg_header, png, webp};

/// Bytes that tell the formats apart.
const HEAD: u64 = 16;

/// Width and height that [`decode_image`](crate::decode_image) will give a JPEG, PNG or WebP image, orientation
/// included. Reads only the headers, so that what follows them may be damaged. `name` stands in error messages.
///
/// # Errors
/// As for [`decode_image`](crate::decode_image), as far as the headers show it.
pub fn image_size(mut reader: impl BufRead + Seek, name: &str) -> Result<(u32, u32)> {
    let head = read_head(&mut reader).map_err(|source| Error::Read {
        path: name.into(),
        source,
    })?;
    if head.is_empty() {
        return Err(Error::EmptyImage {
            name: name.to_owned(),
        });
    }
    let (width, height, orientation) = if head.starts_with(&jpeg::SIGNATURE) {
        jpeg_header::read(&mut reader, name)?
    } else {
        match ImageFormat::of(&head, name)? {
            ImageFormat::Png => png::read_header(reader, name)?,
            ImageFormat::WebP => webp::read_header(reader, &head, name)?,
        }
    };
    check_size(width, height, name)?;
    Ok(if orientation.swaps_sides() {
        (height, width)
    } else {
        (width, height)
    })
}

/// The first bytes; the reader stands at the start again afterwards.
fn read_head(reader: &mut (impl BufRead + Seek)) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    reader.by_ref().take(HEAD).read_to_end(&mut head)?;
    reader.rewind()?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::codecs::webp::WebPEncoder;
    use image::{ExtendedColorType, ImageEncoder};
    use libjpeg_turbo_rs::{PixelFormat, Subsampling, compress};

    use super::*;
    use crate::decode_image;

    fn jpeg() -> Vec<u8> {
        compress(&[90; 10 * 6 * 3], 10, 6, PixelFormat::Rgb, 75, Subsampling::S420).unwrap()
    }

    fn oriented(orientation: u8) -> Vec<u8> {
        let exif = [
            b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(),
            &[orientation],
            b"\0\0\0\0\0\0".as_slice(),
        ];
        [&jpeg()[..2], &exif.concat(), &jpeg()[2..]].concat()
    }

    fn size(bytes: &[u8]) -> Result<(u32, u32)> {
        image_size(Cursor::new(bytes), "x")
    }

    #[test]
    fn the_size_is_that_of_the_decoded_picture() {
        assert_eq!(size(&jpeg()).unwrap(), (10, 6));
        for orientation in 1..=9 {
            let bytes = oriented(orientation);
            let decoded = decode_image(&bytes, "x").unwrap().dimensions();
            assert_eq!(size(&bytes).unwrap(), decoded, "orientation {orientation}");
        }
        // Found by fuzzing: an entry that says that it has 65,537 values.
        let mut bytes = oriented(6);
        bytes[27] = 1;
        assert_eq!(bytes[26..30], [0, 1, 0, 1]);
        let decoded = decode_image(&bytes, "x").unwrap().dimensions();
        assert_eq!((size(&bytes).unwrap(), decoded), ((10, 6), (10, 6)));
        let mut webp = Vec::new();
        WebPEncoder::new_lossless(&mut webp)
            .write_image(&[0; 18], 3, 2, ExtendedColorType::Rgb8)
            .unwrap();
        assert_eq!(size(&webp).unwrap(), (3, 2));
    }

    #[test]
    fn pixels_are_not_read() {
        let bytes = jpeg();
        let scan = bytes
            .windows(2)
            .position(|marker| marker == [0xFF, 0xDA])
            .unwrap();
        assert_eq!(size(&bytes[..scan + 2]).unwrap(), (10, 6));
        assert!(decode_image(&bytes[..scan + 2], "x").is_err());
    }

    #[test]
    fn what_has_no_size_is_an_error() {
        let error = |bytes: &[u8]| size(bytes).unwrap_err().to_string();
        assert!(error(b"").contains("is empty"));
        assert!(error(b"some text").contains("is not an image"));
        assert!(error(b"GIF89a..").contains("a GIF image"));
        assert!(error(&jpeg()[..20]).contains("is truncated"));
        assert!(error(b"\xff\xd8\xff\xe0\0\0").contains("a segment has no length"));
        assert!(error(b"\x89PNG\r\n\x1a\n\0\0").contains("is truncated"));
    }
}
