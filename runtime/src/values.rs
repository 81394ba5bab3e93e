use std::ops::{Deref, DerefMut};

use crate::error::{Inner, Result};
use crate::huge_pages::{HugePages, Number, Piece};

/// Numbers in memory that stays in place when its owner is moved.
pub(crate) enum Values<T> {
    Heap(Vec<T>),
    Pages(Piece<T>),
}

impl<T: Number + Default> Values<T> {
    /// Zeroed memory that is not touched yet, or an error where there is none.
    pub(crate) fn zeroed(length: usize, pages: Option<&HugePages>) -> Result<Self> {
        if let Some(piece) = pages.and_then(|pages| pages.zeroed(length)) {
            return Ok(Self::Pages(piece));
        }
        let bytes = (length as u64).saturating_mul(size_of::<T>() as u64);
        // An absurd size is refused here. Below it, `vec!` of zeros takes pages that the system commits when written.
        let mut probe = Vec::<T>::new();
        probe
            .try_reserve_exact(length)
            .map_err(|_| Inner::OutOfMemory { bytes })?;
        drop(probe);
        Ok(Self::Heap(vec![T::default(); length]))
    }
}

impl<T: Number> Deref for Values<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Heap(values) => values,
            Self::Pages(values) => values,
        }
    }
}

impl<T: Number> DerefMut for Values<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::Heap(values) => values,
            Self::Pages(values) => values,
        }
    }
}
