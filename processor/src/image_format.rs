use crate::{Error, Result};

/// Formats that are read, apart from JPEG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageFormat {
    Png,
    WebP,
}

/// What files of other formats begin with, so that they can be told by name.
const OTHERS: [(&[u8], &str); 15] = [
    (b"GIF8", "GIF"),
    (b"MM\0*", "TIFF"),
    (b"II*\0", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\x01\0", "ICO"),
    (b"DDS ", "DDS"),
    (b"#?RADIANCE", "HDR"),
    (b"\x76\x2f\x31\x01", "EXR"),
    (b"qoif", "QOI"),
    (b"farbfeld", "FF"),
    (b"P3", "PNM"),
    (b"P4", "PNM"),
    (b"P5", "PNM"),
    (b"P6", "PNM"),
    (b"P7", "PNM"),
];

impl ImageFormat {
    /// Tells the format by the first bytes.
    ///
    /// # Errors
    /// Another format, or none.
    pub(crate) fn of(bytes: &[u8], name: &str) -> Result<Self> {
        if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            return Ok(Self::Png);
        }
        if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            return Ok(Self::WebP);
        }
        let name = name.to_owned();
        match foreign(bytes) {
            Some(found) => Err(Error::UnsupportedImage { name, found }),
            None => Err(Error::NotAnImage { name }),
        }
    }
}

fn foreign(bytes: &[u8]) -> Option<String> {
    if bytes.get(4..12) == Some(b"ftypavif") {
        return Some("a AVIF image".to_owned());
    }
    // What phones write as `.heic`.
    if bytes.get(4..8) == Some(b"ftyp") {
        return Some("a HEIF image or a video".to_owned());
    }
    let known = OTHERS.iter().find(|(start, _)| bytes.starts_with(start));
    known.map(|(_, format)| format!("a {format} image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        let of = |bytes: &[u8]| ImageFormat::of(bytes, "x").map_err(|error| error.to_string());
        assert_eq!(of(b"\x89PNG\r\n\x1a\n..."), Ok(ImageFormat::Png));
        assert_eq!(of(b"RIFF....WEBPVP8 "), Ok(ImageFormat::WebP));
        assert!(of(b"RIFF....WAVE").unwrap_err().contains("is not an image"));
        assert!(of(b"\0\0\0\x1cftypavif").unwrap_err().contains("a AVIF image"));
        assert!(of(b"II*\0").unwrap_err().contains("a TIFF image"));
    }
}
