use std::path::Path;

use image::RgbImage;
use serde_json::Value;

use crate::image::is_too_long;
use crate::json::{read_json, read_json_if_there};
use crate::resize::resize;
use crate::{Error, Filter, Grid, Result};

const CHANNELS: usize = 3;

/// One image as a vision tower takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Patches {
    /// How the image was cut.
    pub grid: Grid,
    /// `[grid.patches(), channels · temporal_patch_size · patch_size²]`, row-major. Rows go merged square by merged
    /// square; inside a row the order is channel, frame, line, column (`patchify` in transformers
    /// `image_processing_pil_qwen2_vl.py`).
    pub values: Vec<f32>,
}

/// Sizes, scales and normalises images as `preprocessor_config.json` says.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    /// Whether images are resized to fit the limits and the patches. If not, they must fit already.
    pub do_resize: bool,
    /// Whether pixels are multiplied by `rescale_factor`.
    pub do_rescale: bool,
    /// Whether the mean is subtracted and the result divided by the standard deviation.
    pub do_normalize: bool,
    /// How pixels are weighted when resizing.
    pub resample: Filter,
    /// Fewest pixels of a resized image.
    pub min_pixels: usize,
    /// Most pixels of a resized image.
    pub max_pixels: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Frames in a patch; a still image is repeated to fill them.
    pub temporal_patch_size: usize,
    /// Patches on a side of the square that becomes one token.
    pub merge_size: usize,
    /// What a pixel is multiplied by, usually 1/255.
    pub rescale_factor: f64,
    /// Mean of each channel, after rescaling.
    pub image_mean: [f64; CHANNELS],
    /// Standard deviation of each channel, after rescaling.
    pub image_std: [f64; CHANNELS],
}

impl Default for ImageProcessor {
    /// What transformers assumes where the file says nothing (`image_processing_qwen2_vl.py`): patches of 14 pixels,
    /// merged by 2, and the mean and deviation of CLIP.
    fn default() -> Self {
        Self {
            do_resize: true,
            do_rescale: true,
            do_normalize: true,
            resample: Filter::Bicubic,
            min_pixels: 56 * 56,
            max_pixels: 28 * 28 * 1280,
            patch_size: 14,
            temporal_patch_size: 2,
            merge_size: 2,
            rescale_factor: 1.0 / 255.0,
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
        }
    }
}

impl ImageProcessor {
    /// Reads `preprocessor_config.json` in `dir`, or `image_processor` in its `processor_config.json`.
    ///
    /// # Errors
    /// Neither is there or can be read, or a field has a value that cannot be used.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        let advice = "save the image processor there (`processor.save_pretrained` in transformers)";
        Self::find(dir)?.ok_or_else(|| Error::MissingFile {
            path: dir.join("preprocessor_config.json"),
            advice,
        })
    }

    /// As [`from_dir`](Self::from_dir), but a folder without an image processor is no error.
    pub(crate) fn find(dir: &Path) -> Result<Option<Self>> {
        let own = dir.join("preprocessor_config.json");
        if own.exists() {
            return Fields {
                object: &read_json(&own)?,
                path: &own,
            }
            .image_processor()
            .map(Some);
        }
        let shared = dir.join("processor_config.json");
        let Some(config) = read_json_if_there(&shared)? else {
            return Ok(None);
        };
        match config.get("image_processor") {
            Some(object) => Fields {
                object,
                path: &shared,
            }
            .image_processor()
            .map(Some),
            None => Ok(None),
        }
    }

    /// Side of the square of pixels that becomes one token.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge_size
    }

    /// The grid that an image of this size will have.
    ///
    /// # Errors
    /// As for [`smart_resize`]; without `do_resize`, a size that cannot be cut into patches.
    pub fn grid(&self, width: u32, height: u32) -> Result<Grid> {
        let (width, height) = self.size(width, height)?;
        Ok(Grid {
            t: 1,
            h: height as usize / self.patch_size,
            w: width as usize / self.patch_size,
        })
    }

    /// Resizes, scales, normalises and cuts an image.
    ///
    /// # Errors
    /// As for [`grid`](Self::grid).
    pub fn process(&self, image: &RgbImage) -> Result<Patches> {
        let (width, height) = self.size(image.width(), image.height())?;
        let grid = self.grid(width, height)?;
        let values = if (width, height) == image.dimensions() {
            self.cut(image, grid)
        } else {
            self.cut(&resize(image, width, height, self.resample), grid)
        };
        Ok(Patches { grid, values })
    }

    /// Width and height after resizing.
    fn size(&self, width: u32, height: u32) -> Result<(u32, u32)> {
        let factor = self.factor();
        if self.do_resize {
            return smart_resize(width, height, factor, self.min_pixels, self.max_pixels);
        }
        let fits = |side: u32| side > 0 && (side as usize).is_multiple_of(factor);
        if fits(width) && fits(height) {
            Ok((width, height))
        } else {
            Err(Error::PatchSize {
                width,
                height,
                factor,
            })
        }
    }

    fn cut(&self, image: &RgbImage, grid: Grid) -> Vec<f32> {
        let scale = self.scale_tables();
        let (patch, merge) = (self.patch_size, self.merge_size);
        let row = image.width() as usize * CHANNELS;
        let mut values =
            Vec::with_capacity(grid.patches() * CHANNELS * self.temporal_patch_size * patch * patch);
        for top in (0..grid.h).step_by(merge) {
            for left in (0..grid.w).step_by(merge) {
                for square in 0..merge * merge {
                    let (y, x) = ((top + square / merge) * patch, (left + square % merge) * patch);
                    for (channel, scale) in scale.iter().enumerate() {
                        let start = values.len();
                        for line in image.as_raw().chunks_exact(row).skip(y).take(patch) {
                            let pixels = line[x * CHANNELS..][..patch * CHANNELS].chunks_exact(CHANNELS);
                            values.extend(pixels.map(|pixel| scale[usize::from(pixel[channel])]));
                        }
                        for _ in 1..self.temporal_patch_size {
                            values.extend_from_within(start..start + patch * patch);
                        }
                    }
                }
            }
        }
        values
    }

    /// What each 8-bit level becomes, for each channel. Rescaling is done in double precision and normalising in
    /// single, as in transformers `image_transforms.py`.
    fn scale_tables(&self) -> [[f32; 256]; CHANNELS] {
        std::array::from_fn(|channel| {
            let (mean, std) = (self.image_mean[channel] as f32, self.image_std[channel] as f32);
            std::array::from_fn(|level| {
                let level = level as f64;
                let value = if self.do_rescale {
                    (level * self.rescale_factor) as f32
                } else {
                    level as f32
                };
                if self.do_normalize {
                    (value - mean) / std
                } else {
                    value
                }
            })
        })
    }
}

/// The width and height that an image is resized to: both multiples of `factor`, the pixels within the limits, the
/// proportions about as before (`smart_resize` in transformers `image_processing_qwen2_vl.py`).
///
/// Rounding is to even at a half, as Python's, so a side of 70 with a factor of 28 becomes 56, not 84.
///
/// # Errors
/// One side is over [`MAX_ASPECT_RATIO`](crate::MAX_ASPECT_RATIO) times the other, or the limits leave no size.
pub fn smart_resize(
    width: u32,
    height: u32,
    factor: usize,
    min_pixels: usize,
    max_pixels: usize,
) -> Result<(u32, u32)> {
    let limits = Error::PixelLimits {
        min_pixels,
        max_pixels,
        factor,
    };
    if factor == 0 || min_pixels == 0 || max_pixels == 0 {
        return Err(limits);
    }
    if width == 0 || height == 0 || is_too_long(width, height) {
        return Err(Error::AspectRatio {
            name: "the image".to_owned(),
            width,
            height,
        });
    }
    let (sides, factor) = ([f64::from(width), f64::from(height)], factor as f64);
    let [w, h] = sides.map(|side| (side / factor).round_ties_even() * factor);
    let pixels = sides[0] * sides[1];
    let sides = if w * h > max_pixels as f64 {
        let shrink = (pixels / max_pixels as f64).sqrt();
        sides.map(|side| ((side / shrink / factor).floor() * factor).max(factor))
    } else if w * h < min_pixels as f64 {
        let grow = (min_pixels as f64 / pixels).sqrt();
        sides.map(|side| (side * grow / factor).ceil() * factor)
    } else {
        [w, h]
    };
    if sides
        .iter()
        .all(|side| (1.0..=f64::from(u32::MAX)).contains(side))
    {
        Ok((sides[0] as u32, sides[1] as u32))
    } else {
        Err(limits)
    }
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

    /// Patches of 2×2 pixels, merged by 2; pixels as they are.
    fn plain() -> ImageProcessor {
        ImageProcessor {
            do_resize: false,
            do_rescale: false,
            do_normalize: false,
            patch_size: 2,
            temporal_patch_size: 2,
            ..ImageProcessor::default()
        }
    }

    fn write(name: &str, content: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(name), content).unwrap();
        folder
    }

    #[test]
    fn sizes_are_rounded_as_in_python() {
        let size = |width, height| smart_resize(width, height, 28, 56 * 56, 28 * 28 * 1280).unwrap();
        assert_eq!(size(640, 480), (644, 476));
        // 2.5 and 4.5 squares round to even: 2 and 4. Rounding up would give 84×140.
        assert_eq!(size(70, 126), (56, 112));
        assert_eq!(size(640, 60), (644, 56));
        // 0.7 × 10.7 squares are over the fewest pixels.
        assert_eq!(size(20, 300), (28, 308));
        // Enlarged to the fewest pixels, shrunk to the most.
        assert_eq!(size(9, 7), (84, 56));
        assert_eq!(size(4000, 3000), (1148, 840));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let size = |width, height, max| smart_resize(width, height, 28, 56 * 56, max);
        assert!(matches!(
            size(201, 1, 9999),
            Err(Error::AspectRatio {
                width: 201,
                height: 1,
                ..
            })
        ));
        assert!(size(200, 1, 9999).is_ok());
        assert!(size(0, 0, 9999).is_err());
        assert!(matches!(
            size(10, 10, 0),
            Err(Error::PixelLimits { max_pixels: 0, .. })
        ));
        let error = plain().process(&RgbImage::new(6, 4)).unwrap_err();
        assert!(
            matches!(
                error,
                Error::PatchSize {
                    width: 6,
                    height: 4,
                    factor: 4
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn patches_go_square_by_square() {
        // 8×4 pixels: two squares of four patches. Red is x, green is y, blue is 100.
        let image = RgbImage::from_fn(8, 4, |x, y| image::Rgb([x as u8, y as u8, 100]));
        let patches = plain().process(&image).unwrap();
        assert_eq!(patches.grid, Grid { t: 1, h: 2, w: 4 });
        let rows: Vec<&[f32]> = patches.values.chunks_exact(3 * 2 * 4).collect();
        // Channel, then frame (the still image twice), then line, then column.
        assert_eq!(rows[0][..8], [0., 1., 0., 1., 0., 1., 0., 1.]);
        assert_eq!(rows[0][8..16], [0., 0., 1., 1., 0., 0., 1., 1.]);
        assert_eq!(rows[0][16..], [100.; 8]);
        // The upper left pixel of each patch: right, down, then the next square.
        let corners: Vec<(f32, f32)> = rows.iter().map(|row| (row[0], row[8])).collect();
        let want = [
            (0., 0.),
            (2., 0.),
            (0., 2.),
            (2., 2.),
            (4., 0.),
            (6., 0.),
            (4., 2.),
            (6., 2.),
        ];
        assert_eq!(corners, want);
    }

    #[test]
    fn pixels_are_rescaled_and_normalised() {
        let processor = ImageProcessor {
            do_rescale: true,
            do_normalize: true,
            ..plain()
        };
        let patches = processor
            .process(&RgbImage::from_pixel(4, 4, image::Rgb([0, 128, 255])))
            .unwrap();
        // (x / 255 − mean) / deviation, by numpy in single precision.
        let want = [-1.792_262_6, 0.168_897_32, 2.145_897];
        for (channel, want) in want.into_iter().enumerate() {
            assert_eq!(patches.values[channel * 8], want, "channel {channel}");
        }
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
