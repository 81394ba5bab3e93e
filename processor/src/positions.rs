use lwv_model::ModelConfig;

use crate::{Error, Grid, Result};

/// Position ids of a growing conversation.
///
/// Text counts up by one on every axis. A merged image token stands at (start + frame, start + row, start + column),
/// and the text after the image goes on at start + max(rows, columns) (M-RoPE; `get_rope_index` in transformers
/// `modeling_qwen2_5_vl.py`, still images). All calls together give what transformers gives for all ids at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PositionBuilder {
    image: Option<ImageTokens>,
    axes: usize,
    next: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ImageTokens {
    token_id: u32,
    merge: usize,
}

impl PositionBuilder {
    /// Positions with three axes, for a model that reads pictures: `image_token_id` stands for one square of
    /// `spatial_merge_size`² patches.
    pub fn new(image_token_id: u32, spatial_merge_size: usize) -> Self {
        Self {
            axes: 3,
            ..Self::one_axis(image_token_id, spatial_merge_size)
        }
    }

    /// Positions with one axis, for a model that reads pictures and counts their tokens as those of text.
    pub fn one_axis(image_token_id: u32, merge_size: usize) -> Self {
        Self {
            image: Some(ImageTokens {
                token_id: image_token_id,
                merge: merge_size,
            }),
            ..Self::text_only()
        }
    }

    /// Positions with one axis, for a model that reads text only.
    pub fn text_only() -> Self {
        Self {
            image: None,
            axes: 1,
            next: 0,
        }
    }

    /// Positions as a model with `config` counts them.
    pub fn of(config: &ModelConfig) -> Self {
        match (&config.vision, config.image_token_id) {
            (Some(vision), Some(image)) => Self {
                axes: config.position_axes(),
                ..Self::one_axis(image, vision.merge_size())
            },
            _ => Self::text_only(),
        }
    }

    /// Number of axes: 3 (time, row, column), or 1 for text only.
    pub fn axes(&self) -> usize {
        self.axes
    }

    /// The position of the next text token.
    pub fn next_position(&self) -> i64 {
        self.next
    }

    /// Positions `[axes, n]`, row-major, of the next `n` ids, a prompt or a later turn, whose image tokens belong to
    /// `grids` in order.
    ///
    /// # Errors
    /// The image tokens do not match the grids, or grids were given to a text-only model. Nothing is consumed then.
    pub fn extend(&mut self, input_ids: &[u32], grids: &[Grid]) -> Result<Vec<i64>> {
        let Some(image) = self.image else {
            if !grids.is_empty() {
                return Err(Error::TextOnly { images: grids.len() });
            }
            return Ok(self.extend_text(input_ids.len()));
        };
        check_counts(image, input_ids, grids)?;
        let (rows, next) = place(image, input_ids, grids, self.next)?;
        if self.axes == 1 {
            return Ok(self.extend_text(input_ids.len()));
        }
        self.next = next;
        Ok(rows.concat())
    }

    /// Positions `[axes, n]`, row-major, of `count` more text tokens, whatever their ids are. For generated tokens:
    /// a model may write an image token, which then stands for itself and not for a picture.
    pub fn extend_text(&mut self, count: usize) -> Vec<i64> {
        let end = self.next + count as i64;
        let row: Vec<i64> = (self.next..end).collect();
        self.next = end;
        row.repeat(self.axes())
    }
}

fn check_counts(image: ImageTokens, input_ids: &[u32], grids: &[Grid]) -> Result<()> {
    for grid in grids {
        grid.check(image.merge)?;
    }
    let found = input_ids.iter().filter(|id| **id == image.token_id).count();
    let expected = grids.iter().map(|grid| grid.merged(image.merge)).sum();
    if found == expected {
        Ok(())
    } else {
        Err(Error::ImageTokens {
            found,
            expected,
            images: grids.len(),
        })
    }
}

/// The three rows, and the position after them.
fn place(image: ImageTokens, input_ids: &[u32], grids: &[Grid], start: i64) -> Result<([Vec<i64>; 3], i64)> {
    let mut rows = [const { Vec::new() }; 3];
    rows.iter_mut().for_each(|row| row.reserve(input_ids.len()));
    let mut next = start;
    let mut rest = input_ids;
    let mut grids = grids.iter().enumerate();
    while let Some(id) = rest.first() {
        let mut length = 1;
        match (*id == image.token_id).then(|| grids.next()).flatten() {
            Some((index, grid)) => {
                length = grid.merged(image.merge);
                let found = rest
                    .iter()
                    .take(length)
                    .take_while(|id| **id == image.token_id)
                    .count();
                if found < length {
                    return Err(Error::ImageRun {
                        image: index,
                        found,
                        expected: length,
                    });
                }
                next = place_image(&mut rows, grid, image.merge, next);
            }
            None => {
                rows.iter_mut().for_each(|row| row.push(next));
                next += 1;
            }
        }
        rest = &rest[length..];
    }
    Ok((rows, next))
}

fn place_image(rows: &mut [Vec<i64>; 3], grid: &Grid, merge: usize, start: i64) -> i64 {
    let [frames, height, width] = Grid {
        t: grid.t,
        h: grid.h / merge,
        w: grid.w / merge,
    }
    .thw();
    let [time, row, column] = rows;
    for t in 0..frames {
        for y in 0..height {
            for x in 0..width {
                time.push(start + t);
                row.push(start + y);
                column.push(start + x);
            }
        }
    }
    start + height.max(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: u32 = 9;

    #[test]
    fn text_counts_up_on_every_axis() {
        let mut positions = PositionBuilder::new(IMAGE, 2);
        assert_eq!(positions.extend(&[1, 2], &[]).unwrap(), [0, 1, 0, 1, 0, 1]);
        assert_eq!(positions.extend_text(1), [2, 2, 2]);
        let mut positions = PositionBuilder::text_only();
        assert_eq!(positions.extend(&[1, IMAGE, 2], &[]).unwrap(), [0, 1, 2]);
        assert_eq!((positions.next_position(), positions.axes()), (3, 1));
    }

    #[test]
    fn an_image_spans_rows_and_columns() {
        let mut positions = PositionBuilder::new(IMAGE, 2);
        // Two rows of three tokens after one text token, then text at 1 + max(2, 3).
        let got = positions.extend(
            &[1, IMAGE, IMAGE, IMAGE, IMAGE, IMAGE, IMAGE, 2],
            &[Grid { t: 1, h: 4, w: 6 }],
        );
        let want = [
            [0, 1, 1, 1, 1, 1, 1, 4], // time
            [0, 1, 1, 1, 2, 2, 2, 4], // row
            [0, 1, 2, 3, 1, 2, 3, 4], // column
        ];
        assert_eq!(got.unwrap(), want.concat());
        assert_eq!(positions.next_position(), 5);
    }

    #[test]
    fn a_later_turn_goes_on_where_the_first_ended() {
        let ids = [1, IMAGE, IMAGE, 2, 3, IMAGE, 4];
        let grids = [Grid { t: 1, h: 2, w: 4 }, Grid { t: 1, h: 2, w: 2 }];
        let whole = PositionBuilder::new(IMAGE, 2).extend(&ids, &grids).unwrap();
        let mut parts = PositionBuilder::new(IMAGE, 2);
        let first = parts.extend(&ids[..4], &grids[..1]).unwrap();
        let second = parts.extend(&ids[4..], &grids[1..]).unwrap();
        for axis in 0..3 {
            let joined = [&first[axis * 4..][..4], &second[axis * 3..][..3]].concat();
            assert_eq!(joined, whole[axis * 7..][..7], "axis {axis}");
        }
    }

    #[test]
    fn on_one_axis_images_are_counted_and_checked() {
        let mut positions = PositionBuilder::one_axis(IMAGE, 2);
        let grids = [Grid { t: 1, h: 2, w: 4 }, Grid { t: 1, h: 2, w: 2 }];
        let ids = [1, IMAGE, IMAGE, 2, IMAGE];
        assert_eq!(positions.extend(&ids, &grids).unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!((positions.axes(), positions.next_position()), (1, 5));
        assert!(positions.extend(&[IMAGE], &[]).is_err());
        assert!(positions.extend(&[IMAGE, 1, IMAGE], &grids[..1]).is_err());
        assert_eq!(positions.extend_text(1), [5]);
    }

    #[test]
    fn a_wrong_count_names_both_numbers_and_changes_nothing() {
        let mut positions = PositionBuilder::new(IMAGE, 2);
        let error = positions
            .extend(&[1, IMAGE], &[Grid { t: 1, h: 4, w: 4 }])
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::ImageTokens {
                    found: 1,
                    expected: 4,
                    images: 1
                }
            ),
            "{error}"
        );
        assert_eq!(
            error.to_string(),
            "the prompt has `1` image tokens, but its `1` images need `4`"
        );
        let error = positions
            .extend(&[IMAGE, 1, IMAGE], &[Grid { t: 1, h: 2, w: 4 }])
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::ImageRun {
                    image: 0,
                    found: 1,
                    expected: 2
                }
            ),
            "{error}"
        );
        assert_eq!(positions.next_position(), 0);
        assert!(
            PositionBuilder::text_only()
                .extend(&[1], &[Grid { t: 1, h: 2, w: 2 }])
                .is_err()
        );
    }
}
