use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::{ImageSource, Problem};

/// The folder that relative paths of pictures start from.
#[derive(Debug, Clone)]
pub(crate) struct MediaDir(pub(crate) PathBuf);

impl MediaDir {
    /// The pictures of a field: nothing, a path, or a list of paths. A path may be a `file:` or `data:` address.
    pub(crate) fn sources(&self, field: &str, value: Option<&Value>) -> Result<Vec<ImageSource>, Problem> {
        let expected = || Problem::field(field, "is no list of paths");
        match value {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(path)) => Ok(vec![self.source(field, path)?]),
            Some(Value::Array(paths)) => paths
                .iter()
                .map(|path| self.source(field, path.as_str().ok_or_else(expected)?))
                .collect(),
            Some(_) => Err(expected()),
        }
    }

    /// One picture.
    pub(crate) fn source(&self, field: &str, path: &str) -> Result<ImageSource, Problem> {
        if let Some(data) = path.strip_prefix("data:") {
            return embedded(data)
                .map(ImageSource::Bytes)
                .ok_or_else(|| Problem::field(field, "has a `data:` address that is not in base64"));
        }
        if path.starts_with("http://") || path.starts_with("https://") {
            return Err(Problem::Remote { url: path.to_owned() });
        }
        let path = path.strip_prefix("file://").unwrap_or(path);
        Ok(ImageSource::File(self.0.join(path)))
    }
}

/// The bytes of `image/png;base64,…`.
fn embedded(data: &str) -> Option<Vec<u8>> {
    let (kind, content) = data.split_once(',')?;
    kind.ends_with(";base64")
        .then(|| STANDARD.decode(content).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sources(value: &Value) -> Result<Vec<ImageSource>, Problem> {
        MediaDir("media".into()).sources("images", Some(value))
    }

    #[test]
    fn paths_start_from_the_folder() {
        let file = |path: &str| ImageSource::File(path.into());
        let list = json!(["a.png", "/b.png", "file:///c.png", "data:image/png;base64,AQID"]);
        let expected = [
            file("media/a.png"),
            file("/b.png"),
            file("/c.png"),
            ImageSource::Bytes(vec![1, 2, 3]),
        ];
        assert_eq!(sources(&list).unwrap(), expected);
        assert_eq!(sources(&json!("a.png")).unwrap(), expected[..1]);
        assert_eq!(sources(&Value::Null).unwrap(), []);
    }

    #[test]
    fn what_is_no_path_is_an_error() {
        let error = |value| sources(&value).unwrap_err().to_string();
        assert_eq!(error(json!([1])), "`images` is no list of paths");
        assert_eq!(
            error(json!("https://x/a.png")),
            "image `https://x/a.png` is not a file; download it and give its path"
        );
        let broken = "`images` has a `data:` address that is not in base64";
        assert_eq!(error(json!("data:image/png;base64,%")), broken);
        assert_eq!(error(json!("data:image/svg,<svg>")), broken);
    }
}
