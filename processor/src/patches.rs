use crate::resize::resize;
use crate::{Error, Filter, Grid, Result, RgbImage, smart_resize};

/// Colour channels.
pub(crate) const CHANNELS: usize = 3;

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

    #[test]
    fn patches_go_square_by_square() {
        // 8×4 pixels: two squares of four patches. Red is x, green is y, blue is 100.
        let image = RgbImage::from_fn(8, 4, |x, y| [x as u8, y as u8, 100]);
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
            .process(&RgbImage::from_pixel(4, 4, [0, 128, 255]))
            .unwrap();
        // (x / 255 − mean) / deviation, by numpy in single precision.
        let want = [-1.792_262_6, 0.168_897_32, 2.145_897];
        for (channel, want) in want.into_iter().enumerate() {
            assert_eq!(patches.values[channel * 8], want, "channel {channel}");
        }
    }

    #[test]
    fn without_resizing_the_size_must_fit() {
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
}
