use crate::resize::resize;
use crate::{Grid, ImageProcessor, Patches, Result, RgbImage};

/// No side is resized to more pixels than this (`MAX_IMAGE_SIZE` in transformers `image_processing_pil_idefics3.py`).
const MAX_SIDE: usize = 4096;

/// Splits pictures into square tiles as Idefics3 and SmolVLM take them: resized to a longest edge, then to whole tiles, cut line by
/// line, and after them the whole picture as one more tile.
///
/// transformers resizes with Pillow in its image processor of that name and with torchvision in its fast one; this is Pillow, bit for
/// bit.
#[derive(Debug, Clone, PartialEq)]
pub struct TileProcessor {
    /// Whether pictures are resized to `longest_edge` first.
    pub do_resize: bool,
    /// Whether pictures are split. If not, the whole picture becomes one tile.
    pub do_image_splitting: bool,
    /// Longest edge that pictures are resized to, in pixels.
    pub longest_edge: usize,
    /// Side of a tile in pixels.
    pub tile_size: usize,
    /// Scales, normalises and cuts a tile, which fits already.
    pub patches: ImageProcessor,
}

/// Rows and columns of tiles that a picture is split into, the whole picture after them not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Rows of tiles.
    pub rows: usize,
    /// Tiles in a row.
    pub columns: usize,
}

/// A picture as a tower of tiles takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiles {
    /// How it was split; `None` where the whole picture is its only tile.
    pub split: Option<Split>,
    /// Line by line, the whole picture last.
    pub tiles: Vec<Patches>,
}

impl TileProcessor {
    /// The grid of patches that every tile has.
    pub fn grid(&self) -> Grid {
        let side = self.tile_size / self.patches.patch_size;
        Grid {
            t: 1,
            h: side,
            w: side,
        }
    }

    /// How a picture of this size is split; `None` where it stays whole.
    pub fn split(&self, width: u32, height: u32) -> Option<Split> {
        let (width, height) = self.whole_tiles(self.resized(width, height));
        let tile = self.tile_size as u32;
        let split = Split {
            rows: (height / tile) as usize,
            columns: (width / tile) as usize,
        };
        (self.do_image_splitting && split.rows * split.columns > 1).then_some(split)
    }

    /// Most pixels of all tiles of a picture but the last.
    pub fn max_pixels(&self) -> usize {
        let sides = match self.do_image_splitting {
            true => self.longest_edge.min(MAX_SIDE).div_ceil(self.tile_size),
            false => 1,
        };
        (sides * self.tile_size).pow(2)
    }

    /// Resizes, splits, scales and normalises a picture.
    ///
    /// # Errors
    /// A tile that is no whole number of tokens.
    pub fn process(&self, image: &RgbImage) -> Result<Tiles> {
        let resized = self.resize(image, self.resized(image.width(), image.height()));
        let tile = self.tile_size as u32;
        let split = self.split(image.width(), image.height());
        let mut tiles = Vec::new();
        let whole = match split {
            None => self.resize(&resized, (tile, tile)),
            Some(split) => {
                let whole = self.resize(&resized, self.whole_tiles(resized.dimensions()));
                for place in 0..split.rows * split.columns {
                    let (top, left) = (place / split.columns, place % split.columns);
                    let cut = cut(&whole, left as u32 * tile, top as u32 * tile, tile);
                    tiles.push(self.patches.process(&cut)?);
                }
                self.resize(&whole, (tile, tile))
            }
        };
        tiles.push(self.patches.process(&whole)?);
        Ok(Tiles { split, tiles })
    }

    fn resize(&self, image: &RgbImage, (width, height): (u32, u32)) -> RgbImage {
        resize(image, width, height, self.patches.resample)
    }

    /// Width and height at the longest edge (`get_resize_output_image_size`).
    fn resized(&self, width: u32, height: u32) -> (u32, u32) {
        if !self.do_resize {
            return (width, height);
        }
        let ratio = ratio(width, height);
        let (edge, limit) = (self.longest_edge as u32, MAX_SIDE as u32);
        let (width, height) = if width >= height {
            (edge, even(f64::from(edge) / ratio))
        } else {
            (even(f64::from(edge) * ratio), edge)
        };
        let (width, height) = (width.max(1), height.max(1));
        let ratio = self::ratio(width, height);
        if width >= height && width > limit {
            (limit, ((f64::from(limit) / ratio) as u32).max(1))
        } else if height > width && height > limit {
            (((f64::from(limit) * ratio) as u32).max(1), limit)
        } else {
            (width, height)
        }
    }

    /// The next larger size of whole tiles (`resize_for_vision_encoder`).
    fn whole_tiles(&self, (width, height): (u32, u32)) -> (u32, u32) {
        let ratio = ratio(width, height);
        let whole = |side: u32| side.div_ceil(self.tile_size as u32).max(1) * self.tile_size as u32;
        if width >= height {
            let width = whole(width);
            (width, whole((f64::from(width) / ratio) as u32))
        } else {
            let height = whole(height);
            (whole((f64::from(height) * ratio) as u32), height)
        }
    }
}

fn ratio(width: u32, height: u32) -> f64 {
    f64::from(width) / f64::from(height.max(1))
}

/// A side without its fraction, and one pixel more where that is odd.
fn even(side: f64) -> u32 {
    (side as u32).next_multiple_of(2)
}

/// The square of `side` pixels a side whose upper left pixel is at `left`, `top`.
fn cut(image: &RgbImage, left: u32, top: u32, side: u32) -> RgbImage {
    RgbImage::from_fn(side, side, |x, y| image.pixel(left + x, top + y))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Filter;

    fn processor(longest_edge: usize, tile_size: usize) -> TileProcessor {
        TileProcessor {
            do_resize: true,
            do_image_splitting: true,
            longest_edge,
            tile_size,
            patches: ImageProcessor {
                do_resize: false,
                do_rescale: false,
                do_normalize: false,
                resample: Filter::Lanczos,
                patch_size: 2,
                temporal_patch_size: 1,
                ..ImageProcessor::default()
            },
        }
    }

    #[test]
    fn sizes_are_those_of_transformers() {
        let published = processor(2048, 512);
        let split = |width, height| {
            let split = published.split(width, height).unwrap();
            (split.rows, split.columns)
        };
        assert_eq!(split(640, 480), (3, 4));
        assert_eq!(split(480, 640), (4, 3));
        assert_eq!(split(10, 10), (4, 4));
        assert_eq!(split(4000, 20), (1, 4));
        // 2048 × 300 is odd nowhere, 2048 × 299.4 becomes 300; either is one row.
        assert_eq!(published.resized(684, 100), (2048, 300));
        assert_eq!(processor(8192, 512).resized(200, 100), (4096, 2048));
        assert_eq!(processor(512, 512).split(300, 200), None);
    }

    #[test]
    fn tiles_go_line_by_line_and_the_whole_comes_last() {
        // Twice as wide as high, so two tiles; red tells the tile.
        let image = RgbImage::from_fn(16, 8, |x, _| [(x / 8 * 200) as u8, 7, 9]);
        let processor = TileProcessor {
            do_resize: false,
            ..processor(16, 8)
        };
        let tiles = processor.process(&image).unwrap();
        assert_eq!(tiles.split, Some(Split { rows: 1, columns: 2 }));
        let reds: Vec<f32> = tiles.tiles.iter().map(|tile| tile.values[0]).collect();
        assert_eq!(reds[..2], [0.0, 200.0]);
        assert_eq!(tiles.tiles.len(), 3);
        assert!(tiles.tiles.iter().all(|tile| tile.grid == processor.grid()));
        // A patch is two lines of two pixels of red, then green, then blue.
        assert_eq!(
            tiles.tiles[1].values[..12],
            [200., 200., 200., 200., 7., 7., 7., 7., 9., 9., 9., 9.]
        );
        let whole = TileProcessor {
            do_image_splitting: false,
            ..processor.clone()
        };
        let one = whole.process(&image).unwrap();
        assert_eq!((one.split, one.tiles.len()), (None, 1));
        assert_eq!(one.tiles[0], tiles.tiles[2]);
        assert_eq!((whole.max_pixels(), processor.max_pixels()), (64, 256));
    }
}
