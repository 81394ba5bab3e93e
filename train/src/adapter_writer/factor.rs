use std::borrow::Cow;

use safetensors::{Dtype, View};

/// A or B, in f32.
pub(super) struct Factor<'a> {
    pub(super) shape: [usize; 2],
    pub(super) values: &'a [f32],
}

impl View for Factor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
    fn data_len(&self) -> usize {
        self.values.len() * 4
    }
}
