use crate::{Error, Grid, Result};

/// The sizes that decide how a vision tower groups patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisionLayout {
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Patches on a side of the square that becomes one token.
    pub spatial_merge_size: usize,
    /// Side of an attention window in pixels.
    pub window_size: usize,
}

impl From<&lwv_model::VisionConfig> for VisionLayout {
    fn from(config: &lwv_model::VisionConfig) -> Self {
        Self {
            patch_size: config.patch_size,
            spatial_merge_size: config.spatial_merge_size,
            window_size: config.window_size,
        }
    }
}

impl VisionLayout {
    /// Side of a window in merged squares.
    fn window_units(&self) -> Result<usize> {
        let unit = self.spatial_merge_size * self.patch_size;
        match self.window_size.checked_div(unit) {
            Some(units) if units > 0 => Ok(units),
            _ => Err(Error::WindowSize {
                window_size: self.window_size,
                merge: self.spatial_merge_size,
                patch_size: self.patch_size,
            }),
        }
    }
}

/// Groups of patches that attend to each other, as rectangular tensors: `count` segments of `length` slots each.
///
/// A segment with fewer patches is filled up at its end with its first row, to be masked by `lengths`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Segments {
    /// Number of segments.
    pub count: usize,
    /// Slots in a segment.
    pub length: usize,
    /// `[count, length]`: for each slot, the row of the patch in it.
    pub gather: Vec<i64>,
    /// `[count]`: how many slots at the start of each segment hold patches.
    pub lengths: Vec<i32>,
    /// `[patches]`: for each row, its slot in `[count · length]`; undoes `gather`.
    pub scatter: Vec<i64>,
}

impl Segments {
    /// Lays out segments, each a list of rows; together they hold every row from 0 to `patches` once.
    fn new(rows: &[Vec<usize>], length: usize, patches: usize) -> Self {
        let mut gather = Vec::with_capacity(rows.len() * length);
        let mut scatter = vec![0; patches];
        for segment in rows {
            for row in segment {
                scatter[*row] = gather.len() as i64;
                gather.push(*row as i64);
            }
            let filler = segment.first().map_or(0, |row| *row as i64);
            gather.extend(std::iter::repeat_n(filler, length - segment.len()));
        }
        let lengths = rows.iter().map(|segment| segment.len() as i32).collect();
        Self {
            count: rows.len(),
            length,
            gather,
            lengths,
            scatter,
        }
    }
}

/// What a vision tower must know about the images in one call, beside their pixels.
///
/// Rows are patches in the order of [`Patches`](crate::Patches), image after image: the patches of a merged square
/// are neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VisionGeometry {
    /// Number of patches of all images.
    pub patches: usize,
    /// `[patches, 2]`: the row and the column of each patch in its frame, for the rotary embedding
    /// (`get_vision_position_ids` in transformers `vision_utils.py`).
    pub rotary_positions: Vec<i64>,
    /// `[patches / merge²]`: merged squares in window order (`get_vision_window_index` in transformers
    /// `vision_utils.py`).
    pub window_index: Vec<i64>,
    /// Cumulative patch counts of the windows, from 0, in window order.
    pub cu_window_seqlens: Vec<i32>,
    /// Cumulative patch counts of the frames, from 0.
    pub cu_seqlens: Vec<i32>,
    /// One segment for each window that is not empty, in window order: image, frame, window row, window column;
    /// inside, squares row by row. The length is that of a whole window, whatever the images are.
    pub windows: Segments,
    /// One segment for each frame of each image. The length is that of the longest frame.
    pub frames: Segments,
}

impl VisionGeometry {
    /// Computes all of it for images with these grids.
    ///
    /// # Errors
    /// A grid that cannot be merged, or a layout whose window holds no merged square.
    pub fn new(grids: &[Grid], layout: &VisionLayout) -> Result<Self> {
        let merge = layout.spatial_merge_size;
        let units = layout.window_units()?;
        for grid in grids {
            grid.check(merge)?;
        }
        let windows = windows(grids, merge, units);
        let frames = frames(grids);
        let patches = grids.iter().map(Grid::patches).sum();
        let square = merge * merge;
        Ok(Self {
            patches,
            rotary_positions: grids
                .iter()
                .flat_map(|grid| rotary_positions(grid, merge))
                .collect(),
            window_index: windows
                .concat()
                .iter()
                .step_by(square)
                .map(|row| (row / square) as i64)
                .collect(),
            cu_window_seqlens: cumulative(&windows),
            cu_seqlens: cumulative(&frames),
            windows: Segments::new(&windows, units * units * square, patches),
            frames: Segments::new(&frames, frames.iter().map(Vec::len).max().unwrap_or(0), patches),
        })
    }
}

fn cumulative(segments: &[Vec<usize>]) -> Vec<i32> {
    let ends = segments.iter().scan(0, |end, segment| {
        *end += segment.len() as i32;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// Row and column of each patch of a grid, square by square.
fn rotary_positions(grid: &Grid, merge: usize) -> Vec<i64> {
    let mut positions = Vec::with_capacity(grid.patches() * 2);
    for _ in 0..grid.t {
        for top in (0..grid.h).step_by(merge) {
            for left in (0..grid.w).step_by(merge) {
                for y in top..top + merge {
                    for x in left..left + merge {
                        positions.extend([y as i64, x as i64]);
                    }
                }
            }
        }
    }
    positions
}

/// The rows of each frame.
fn frames(grids: &[Grid]) -> Vec<Vec<usize>> {
    let mut start = 0;
    let mut frames = Vec::new();
    for grid in grids {
        for _ in 0..grid.t {
            let end = start + grid.h * grid.w;
            frames.push((start..end).collect());
            start = end;
        }
    }
    frames
}

/// The rows of each window, `units` merged squares wide and high but at the right and lower edge.
fn windows(grids: &[Grid], merge: usize, units: usize) -> Vec<Vec<usize>> {
    let square = merge * merge;
    let mut first_square = 0;
    let mut windows = Vec::new();
    for grid in grids {
        let (height, width) = (grid.h / merge, grid.w / merge);
        for _ in 0..grid.t {
            for top in (0..height).step_by(units) {
                for left in (0..width).step_by(units) {
                    let (bottom, right) = ((top + units).min(height), (left + units).min(width));
                    let rows = (top..bottom).flat_map(|y| {
                        let line = first_square + y * width;
                        (line + left) * square..(line + right) * square
                    });
                    windows.push(rows.collect());
                }
            }
            first_square += height * width;
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of 2×2 squares of 2×2 patches.
    const SMALL: VisionLayout = VisionLayout {
        patch_size: 14,
        spatial_merge_size: 2,
        window_size: 56,
    };

    #[test]
    fn windows_at_the_edge_are_smaller() {
        // 3 rows of 2 squares: a whole window of squares 0 1 2 3 and one of squares 4 5.
        let geometry = VisionGeometry::new(&[Grid { t: 1, h: 6, w: 4 }], &SMALL).unwrap();
        assert_eq!(geometry.window_index, [0, 1, 2, 3, 4, 5]);
        assert_eq!(geometry.cu_window_seqlens, [0, 16, 24]);
        assert_eq!(geometry.cu_seqlens, [0, 24]);
        assert_eq!((geometry.windows.count, geometry.windows.length), (2, 16));
        assert_eq!(geometry.windows.lengths, [16, 8]);
        assert_eq!(
            geometry.windows.gather[16..],
            [16, 17, 18, 19, 20, 21, 22, 23, 16, 16, 16, 16, 16, 16, 16, 16]
        );
    }

    #[test]
    fn window_order_jumps_between_lines() {
        // 2 rows of 3 squares: the left window has squares 0 1 3 4, the right one 2 5.
        let geometry = VisionGeometry::new(&[Grid { t: 1, h: 4, w: 6 }], &SMALL).unwrap();
        assert_eq!(geometry.window_index, [0, 1, 3, 4, 2, 5]);
        assert_eq!(geometry.cu_window_seqlens, [0, 16, 24]);
        assert_eq!(geometry.windows.gather[8..12], [12, 13, 14, 15]);
    }

    #[test]
    fn several_images_and_frames_count_on() {
        let grids = [Grid { t: 2, h: 2, w: 2 }, Grid { t: 1, h: 2, w: 4 }];
        let geometry = VisionGeometry::new(&grids, &SMALL).unwrap();
        assert_eq!(geometry.cu_seqlens, [0, 4, 8, 16]);
        assert_eq!((geometry.frames.count, geometry.frames.length), (3, 8));
        assert_eq!(geometry.frames.gather[..8], [0, 1, 2, 3, 0, 0, 0, 0]);
        assert_eq!(geometry.frames.gather[16..], [8, 9, 10, 11, 12, 13, 14, 15]);
        assert_eq!(geometry.frames.lengths, [4, 4, 8]);
        assert_eq!(geometry.patches, 16);
    }

    #[test]
    fn scatter_undoes_gather() {
        let grids = [Grid { t: 1, h: 6, w: 10 }, Grid { t: 1, h: 2, w: 2 }];
        let geometry = VisionGeometry::new(&grids, &SMALL).unwrap();
        for segments in [&geometry.windows, &geometry.frames] {
            assert_eq!(segments.gather.len(), segments.count * segments.length);
            for (row, slot) in segments.scatter.iter().enumerate() {
                assert_eq!(segments.gather[*slot as usize], row as i64);
                let place = *slot as usize % segments.length;
                assert!(place < segments.lengths[*slot as usize / segments.length] as usize);
            }
        }
    }

    #[test]
    fn rotary_positions_follow_the_squares() {
        let geometry = VisionGeometry::new(&[Grid { t: 1, h: 2, w: 4 }], &SMALL).unwrap();
        assert_eq!(
            geometry.rotary_positions,
            [0, 0, 0, 1, 1, 0, 1, 1, 0, 2, 0, 3, 1, 2, 1, 3]
        );
    }

    #[test]
    fn impossible_layouts_are_named() {
        let layout = VisionLayout {
            window_size: 27,
            ..SMALL
        };
        assert!(matches!(
            VisionGeometry::new(&[], &layout),
            Err(Error::WindowSize { window_size: 27, .. })
        ));
        let layout = VisionLayout {
            spatial_merge_size: 0,
            ..SMALL
        };
        assert!(VisionGeometry::new(&[], &layout).is_err());
        assert!(VisionGeometry::new(&[Grid { t: 1, h: 3, w: 4 }], &SMALL).is_err());
        assert_eq!(VisionGeometry::new(&[], &SMALL).unwrap().windows.count, 0);
    }
}
