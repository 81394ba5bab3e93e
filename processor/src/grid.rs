use crate::{Error, Result};

/// How an image is cut into patches: `t` frames of `h` rows of `w` patches (`image_grid_thw` of transformers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Frames; 1 for a still image.
    pub t: usize,
    /// Rows of patches.
    pub h: usize,
    /// Patches in a row.
    pub w: usize,
}

impl Grid {
    /// Number of patches: the rows of its pixel values.
    pub fn patches(&self) -> usize {
        self.t * self.h * self.w
    }

    /// Number of tokens, where squares of `merge`×`merge` patches become one token each.
    pub fn merged(&self, merge: usize) -> usize {
        self.patches() / (merge * merge).max(1)
    }

    /// The grid as `[t, h, w]`, a row of `image_grid_thw`.
    pub fn thw(&self) -> [i64; 3] {
        // A grid counts patches that lie in memory, so its sides are far below 2^63.
        [self.t as i64, self.h as i64, self.w as i64]
    }

    /// Checks that the grid has patches and can be merged.
    pub(crate) fn check(&self, merge: usize) -> Result<()> {
        let mergeable = merge > 0 && self.h.is_multiple_of(merge) && self.w.is_multiple_of(merge);
        if self.patches() > 0 && mergeable {
            Ok(())
        } else {
            Err(Error::Grid { grid: *self, merge })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_patches_and_tokens() {
        let grid = Grid { t: 1, h: 4, w: 6 };
        assert_eq!((grid.patches(), grid.merged(2), grid.thw()), (24, 6, [1, 4, 6]));
    }

    #[test]
    fn refuses_what_cannot_be_merged() {
        assert!(Grid { t: 1, h: 4, w: 6 }.check(2).is_ok());
        assert!(Grid { t: 1, h: 4, w: 5 }.check(2).is_err());
        assert!(Grid { t: 0, h: 4, w: 4 }.check(2).is_err());
        assert!(Grid { t: 1, h: 4, w: 4 }.check(0).is_err());
    }
}
