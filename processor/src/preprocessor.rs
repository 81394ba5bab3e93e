use std::path::Path;

use serde_json::Value;

use crate::json::{read_json, read_json_if_there};
use crate::patches::CHANNELS;
use crate::{Error, Filter, ImageProcessor, Result, TileProcessor};

impl ImageProcessor {
    /// Reads `preprocessor_config.json` in `dir`, or `image_processor` in its `processor_config.json`.
    ///
    /// # Errors
    /// Neither is there or can be read, or a field has a value that cannot be used.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        Self::find(dir)?.ok_or_else(|| missing(dir))
    }

    /// As [`from_dir`](Self::from_dir), but a folder without an image processor is no error.
    pub(crate) fn find(dir: &Path) -> Result<Option<Self>> {
        with_fields(dir, |fields| fields.image_processor())
    }
}

impl TileProcessor {
    /// Reads `preprocessor_config.json` in `dir`, or `image_processor` in its `processor_config.json`, for a tower that makes a
    /// token of `merge_size`² patches of `patch_size` pixels a side.
    ///
    /// # Errors
    /// Neither is there or can be read, or a field has a value that cannot be used.
    pub fn from_dir(dir: &Path, patch_size: usize, merge_size: usize) -> Result<Self> {
        let found = with_fields(dir, |fields| fields.tile_processor(patch_size, merge_size))?;
        found.ok_or_else(|| missing(dir))
    }

    /// As [`from_dir`](Self::from_dir), but a folder without an image processor is no error.
    pub(crate) fn find(dir: &Path, patch_size: usize, merge_size: usize) -> Result<Option<Self>> {
        with_fields(dir, |fields| fields.tile_processor(patch_size, merge_size))
    }
}

fn missing(dir: &Path) -> Error {
    Error::MissingFile {
        path: dir.join("preprocessor_config.json"),
        advice: "save the image processor there (`processor.save_pretrained` in transformers)",
    }
}

/// What `read` makes of the image processor's configuration in `dir`, where there is one.
fn with_fields<T>(dir: &Path, read: impl FnOnce(&Fields<'_>) -> Result<T>) -> Result<Option<T>> {
    let own = dir.join("preprocessor_config.json");
    if own.exists() {
        let fields = Fields {
            object: &read_json(&own)?,
            path: &own,
        };
        return read(&fields).map(Some);
    }
    let shared = dir.join("processor_config.json");
    let config = read_json_if_there(&shared)?.unwrap_or_default();
    let Some(object) = config.get("image_processor") else {
        return Ok(None);
    };
    let fields = Fields {
        object,
        path: &shared,
    };
    read(&fields).map(Some)
}

/// The fields of an image processor's configuration.
struct Fields<'a> {
    object: &'a Value,
    path: &'a Path,
}

impl Fields<'_> {
    fn image_processor(&self) -> Result<ImageProcessor> {
        let default = ImageProcessor::default();
        Ok(ImageProcessor {
            do_resize: self.flag("do_resize", default.do_resize)?,
            do_rescale: self.flag("do_rescale", default.do_rescale)?,
            do_normalize: self.flag("do_normalize", default.do_normalize)?,
            resample: self.filter(default.resample)?,
            min_pixels: self.pixels("min_pixels", "shortest_edge", default.min_pixels)?,
            max_pixels: self.pixels("max_pixels", "longest_edge", default.max_pixels)?,
            patch_size: self.size("patch_size", default.patch_size)?,
            temporal_patch_size: self.size("temporal_patch_size", default.temporal_patch_size)?,
            merge_size: self.size("merge_size", default.merge_size)?,
            rescale_factor: self.number("rescale_factor", default.rescale_factor)?,
            image_mean: self.channels("image_mean", default.image_mean)?,
            image_std: self.channels("image_std", default.image_std)?,
        })
    }

    /// The defaults are those of transformers (`image_processing_pil_idefics3.py`).
    fn tile_processor(&self, patch_size: usize, merge_size: usize) -> Result<TileProcessor> {
        let half = [0.5; CHANNELS];
        let default = ImageProcessor::default();
        Ok(TileProcessor {
            do_resize: self.flag("do_resize", true)?,
            do_image_splitting: self.flag("do_image_splitting", true)?,
            longest_edge: self.edge("size", 4 * 364)?,
            tile_size: self.edge("max_image_size", 364)?,
            patches: ImageProcessor {
                do_resize: false,
                do_rescale: self.flag("do_rescale", default.do_rescale)?,
                do_normalize: self.flag("do_normalize", default.do_normalize)?,
                resample: self.filter(Filter::Lanczos)?,
                rescale_factor: self.number("rescale_factor", default.rescale_factor)?,
                image_mean: self.channels("image_mean", half)?,
                image_std: self.channels("image_std", half)?,
                patch_size,
                merge_size,
                temporal_patch_size: 1,
                ..default
            },
        })
    }

    /// `longest_edge` of an object of sizes; other ways to tell a size are refused.
    fn edge(&self, field: &str, default: usize) -> Result<usize> {
        let Some(value) = self.get(field) else {
            return Ok(default);
        };
        let edge = value.get("longest_edge").and_then(positive);
        // Sides beyond this no picture has, and a product of two fits everywhere.
        edge.filter(|edge| *edge <= usize::from(u16::MAX)).ok_or_else(|| {
            let expected = format!(
                "is `{value}`; expected `{{\"longest_edge\": …}}` of at most {}",
                u16::MAX
            );
            Error::field(self.path, field, expected)
        })
    }

    /// A field that is there and not null.
    fn get(&self, field: &str) -> Option<&Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    fn parse<T>(
        &self,
        field: &str,
        default: T,
        kind: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Result<T> {
        let Some(value) = self.get(field) else {
            return Ok(default);
        };
        parse(value).ok_or_else(|| Error::field(self.path, field, format!("is `{value}`; expected {kind}")))
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool> {
        self.parse(field, default, "`true` or `false`", Value::as_bool)
    }

    fn number(&self, field: &str, default: f64) -> Result<f64> {
        self.parse(field, default, "a number", Value::as_f64)
    }

    fn size(&self, field: &str, default: usize) -> Result<usize> {
        self.parse(field, default, "a positive whole number", positive)
    }

    fn filter(&self, default: Filter) -> Result<Filter> {
        let expected = "`1` (Lanczos), `2` (bilinear) or `3` (bicubic)";
        self.parse("resample", default, expected, |value| {
            value.as_u64().and_then(Filter::from_number)
        })
    }

    fn channels(&self, field: &str, default: [f64; CHANNELS]) -> Result<[f64; CHANNELS]> {
        self.parse(field, default, "three numbers", |value| {
            let numbers: Option<Vec<f64>> = value.as_array()?.iter().map(Value::as_f64).collect();
            numbers?.try_into().ok()
        })
    }

    /// A pixel limit. The older spelling wins over the one inside `size`, as in transformers.
    fn pixels(&self, field: &str, edge: &str, default: usize) -> Result<usize> {
        if self.get(field).is_some() {
            return self.size(field, default);
        }
        let Some(value) = self.get("size").and_then(|size| size.get(edge)) else {
            return Ok(default);
        };
        let message = || format!("is `{value}`; expected a positive whole number");
        positive(value).ok_or_else(|| Error::field(self.path, &format!("size.{edge}"), message()))
    }
}

fn positive(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
        .filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(name: &str, content: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), content).unwrap();
        folder
    }

    #[test]
    fn both_spellings_of_the_limits_are_read() {
        let old = write(
            "preprocessor_config.json",
            r#"{"min_pixels": 100, "max_pixels": 200, "patch_size": 16, "size": {"longest_edge": 9}}"#,
        );
        let old = ImageProcessor::from_dir(old.path()).unwrap();
        assert_eq!(
            (old.min_pixels, old.max_pixels, old.patch_size, old.merge_size),
            (100, 200, 16, 2)
        );
        let new = r#"{"image_processor": {"size": {"shortest_edge": 300, "longest_edge": 400}, "resample": 2, "image_std": [1, 1, 1]}}"#;
        let new = ImageProcessor::from_dir(write("processor_config.json", new).path()).unwrap();
        assert_eq!(
            (new.min_pixels, new.max_pixels, new.resample),
            (300, 400, Filter::Bilinear)
        );
        assert_eq!(new.image_std, [1.0; 3]);
    }

    #[test]
    fn bad_fields_are_named() {
        let folder = write("preprocessor_config.json", r#"{"resample": 0}"#);
        let path = folder.path().join("preprocessor_config.json");
        let error = ImageProcessor::from_dir(folder.path()).unwrap_err().to_string();
        let want = "is `0`; expected `1` (Lanczos), `2` (bilinear) or `3` (bicubic)";
        assert_eq!(error, format!("`resample` in `{}` {want}", path.display()));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(
            ImageProcessor::from_dir(empty.path()),
            Err(Error::MissingFile { .. })
        ));
    }
}
