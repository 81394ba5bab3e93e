use std::fs::File;
use std::io::{BufReader, Cursor};
use std::path::PathBuf;

use lwv_processor::{Error, RgbImage, decode_image, image_size, open_image};

/// What embedded pictures are called in messages.
const EMBEDDED: &str = "the embedded image";

/// Where a picture comes from. It is read when it is asked for, each time anew.
#[derive(Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// An image file.
    File(PathBuf),
    /// An encoded image that stands in the dataset itself.
    Bytes(Vec<u8>),
}

impl ImageSource {
    /// Reads and decodes the picture, see [`decode_image`].
    ///
    /// # Errors
    /// The file cannot be read, or as for [`decode_image`].
    pub fn open(&self) -> Result<RgbImage, Error> {
        match self {
            Self::File(path) => open_image(path),
            Self::Bytes(bytes) => decode_image(bytes, EMBEDDED),
        }
    }

    /// Width and height that [`open`](Self::open) will give, from the headers alone, see [`image_size`].
    ///
    /// # Errors
    /// The file cannot be read, or as for [`image_size`].
    pub fn dimensions(&self) -> Result<(u32, u32), Error> {
        match self {
            Self::File(path) => {
                let file = File::open(path).map_err(|source| Error::Read {
                    path: path.clone(),
                    source,
                })?;
                image_size(BufReader::new(file), &path.display().to_string())
            }
            Self::Bytes(bytes) => image_size(Cursor::new(bytes), EMBEDDED),
        }
    }
}

impl std::fmt::Debug for ImageSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::png;

    #[test]
    fn files_and_bytes_are_the_same_picture() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        std::fs::write(&path, png(3, 2)).unwrap();
        for source in [ImageSource::File(path), ImageSource::Bytes(png(3, 2))] {
            assert_eq!(source.dimensions().unwrap(), (3, 2));
            assert_eq!(source.open().unwrap().dimensions(), (3, 2));
        }
    }

    #[test]
    fn what_is_missing_or_damaged_is_named() {
        let missing = ImageSource::File("/nonexistent/a.png".into());
        for error in [missing.open().unwrap_err(), missing.dimensions().unwrap_err()] {
            assert!(
                error.to_string().starts_with("cannot read `/nonexistent/a.png`"),
                "{error}"
            );
        }
        let text = ImageSource::Bytes(b"some text".to_vec());
        let error = text.open().unwrap_err().to_string();
        assert!(
            error.starts_with("`the embedded image` is not an image"),
            "{error}"
        );
        assert_eq!(format!("{text:?}"), "Bytes(9 bytes)");
    }
}
