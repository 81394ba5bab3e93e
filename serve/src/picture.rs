use std::io::Cursor;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use lwv_processor::{MAX_PIXELS, RgbImage, decode_image, image_size};

use crate::refusal::Refusal;

/// A picture of a request, still as it was sent: pixels take much more memory than a request may, so they are made when
/// its turn comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Picture {
    path: String,
    /// What follows `data:`.
    data: String,
}

impl Picture {
    /// The picture in the `data:` address that stands at `path` of the request.
    pub(crate) fn new(path: String, url: &str) -> Result<Self, Refusal> {
        let Some(data) = url.strip_prefix("data:") else {
            let reason = "is an address, and nothing is fetched here; put the picture itself there, as \
                          `data:image/png;base64,…`";
            return Err(Refusal::field(path, reason).with_code("image_not_fetched"));
        };
        Ok(Self {
            path,
            data: data.to_owned(),
        })
    }

    fn bytes(&self) -> Result<Vec<u8>, Refusal> {
        let encoded = self
            .data
            .split_once(',')
            .filter(|(kind, _)| kind.ends_with(";base64"));
        let bytes = encoded.and_then(|(_, text)| STANDARD.decode(text.trim()).ok());
        bytes.ok_or_else(|| {
            let reason = "is no picture in base64; it must look like `data:image/png;base64,…`";
            Refusal::field(self.path.as_str(), reason).with_code("invalid_image")
        })
    }
}

/// Decodes pictures as files are decoded. All of a request together may have [`MAX_PIXELS`] pixels: small files can be
/// large pictures.
pub(crate) fn decode(pictures: &[Picture]) -> Result<Vec<RgbImage>, Refusal> {
    let mut pixels = 0;
    let decode_one = |picture: &Picture| {
        let bytes = picture.bytes()?;
        let (width, height) = image_size(Cursor::new(&bytes), &picture.path).map_err(invalid)?;
        pixels += u64::from(width) * u64::from(height);
        if pixels > MAX_PIXELS {
            let reason = format!("brings the pictures over {MAX_PIXELS} pixels; send fewer or smaller ones");
            return Err(Refusal::field(picture.path.as_str(), reason).with_code("invalid_image"));
        }
        decode_image(&bytes, &picture.path).map_err(invalid)
    };
    pictures.iter().map(decode_one).collect()
}

fn invalid(error: lwv_processor::Error) -> Refusal {
    Refusal::request(StatusCode::BAD_REQUEST, "invalid_image", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One red pixel.
    const PNG: &str =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC";

    fn picture(url: &str) -> Result<Picture, Refusal> {
        Picture::new("url".to_owned(), url)
    }

    fn code(refusal: &Refusal) -> serde_json::Value {
        refusal.body()["error"]["code"].clone()
    }

    #[test]
    fn pictures_come_inside_of_requests() {
        let red = picture(&format!("data:image/png;base64,{PNG}")).unwrap();
        let decoded = decode(&[red.clone(), red]).unwrap();
        assert_eq!(decoded.len(), 2);
        assert_eq!(decoded[0].as_raw(), &[255, 0, 0]);
    }

    #[test]
    fn nothing_is_fetched() {
        for url in [
            "https://example.com/a.png",
            "http://127.0.0.1/",
            "file:///etc/passwd",
            "a.png",
        ] {
            assert_eq!(code(&picture(url).unwrap_err()), "image_not_fetched", "{url}");
        }
    }

    #[test]
    fn what_is_no_picture_is_refused_with_its_place() {
        for data in [
            "image/png,abc",
            "image/png;base64,%%",
            "image/png;base64,AQID",
            "image/png;base64,",
        ] {
            let refusal = decode(&[picture(&format!("data:{data}")).unwrap()]).unwrap_err();
            assert_eq!(code(&refusal), "invalid_image", "{data}");
            let body = refusal.body();
            assert!(
                body["error"]["message"].as_str().unwrap().contains("url"),
                "{body}"
            );
        }
    }
}
