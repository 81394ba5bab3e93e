use crate::lines::Line;
use crate::product::weight::BlockWeight;

/// Bytes of a vector.
pub(crate) const BYTES: usize = 64;

/// Its sums.
pub(crate) const LANES: usize = 16;

/// Bytes of a sum.
pub(crate) const WORD: usize = BYTES / LANES;

/// Scales that are read for a vector of codes.
pub(crate) const SCALES: usize = 4;

/// The vectors of codes that an output is read in. The last ends where the output ends; what it has in common with the one before
/// counts nothing there.
#[derive(Debug)]
pub(crate) struct Steps {
    row_bytes: usize,
    block_bytes: usize,
    pub(crate) steps: Vec<Step>,
}

/// A vector of codes of an output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Its first byte.
    pub(crate) start: usize,
    /// The first of the scales that are read for it.
    pub(crate) scale: usize,
    /// Which of them every sum takes.
    pub(crate) scale_of: Line<u32>,
    /// 1 for sums that the vector before does not have, else 0.
    pub(crate) counts: Line<f32>,
    /// All ones where a block begins, else zero.
    pub(crate) begins: Line<i32>,
}

impl Steps {
    /// Whether outputs of `weight` are long enough.
    pub(crate) fn suit(weight: &BlockWeight<'_>) -> bool {
        weight.row_bytes() >= BYTES && weight.blocks() >= SCALES
    }

    pub(crate) fn of(weight: &BlockWeight<'_>) -> Self {
        let starts = (0..weight.row_bytes()).step_by(BYTES);
        Self {
            row_bytes: weight.row_bytes(),
            block_bytes: weight.block_bytes(),
            steps: starts.map(|start| Step::of(weight, start)).collect(),
        }
    }

    pub(crate) fn are_of(&self, weight: &BlockWeight<'_>) -> bool {
        [self.row_bytes, self.block_bytes] == [weight.row_bytes(), weight.block_bytes()]
    }
}

impl Step {
    /// The vector at byte `wanted`, or that before the end.
    fn of(weight: &BlockWeight<'_>, wanted: usize) -> Self {
        let start = wanted.min(weight.row_bytes() - BYTES);
        let scale = (start / weight.block_bytes()).min(weight.blocks() - SCALES);
        let mut step = Self {
            start,
            scale,
            scale_of: Line::default(),
            counts: Line::default(),
            begins: Line::default(),
        };
        for lane in 0..LANES {
            let byte = start + WORD * lane;
            step.scale_of.0[lane] = (byte / weight.block_bytes() - scale) as u32;
            step.counts.0[lane] = if byte >= wanted { 1.0 } else { 0.0 };
            step.begins.0[lane] = -i32::from(byte.is_multiple_of(weight.block_bytes()));
        }
        step
    }
}
