use crate::Tasks;
use crate::product::PackedWeight;

/// There is none for this kind of processor.
#[derive(Debug, Clone, Copy)]
pub enum Multiplier {}

/// Memory that is kept from one call to the next.
#[derive(Debug, Default)]
pub struct Scratch;

impl Multiplier {
    /// `None`.
    pub fn new(_threads: usize) -> Option<Self> {
        None
    }

    /// Cannot be called.
    pub fn multiply(
        &self,
        _weight: &PackedWeight<'_>,
        _rows: &[f32],
        _bias: Option<&[f32]>,
        _out: &mut [f32],
        _scratch: &mut Scratch,
        _tasks: &mut Tasks<'_>,
    ) {
        match *self {}
    }
}
