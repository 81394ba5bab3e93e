use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// Type in which a checkpoint stores a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 16-bit brain float.
    BF16,
}

impl StoredType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        if self == Self::F32 { 4 } else { 2 }
    }
}

impl StoredType {
    /// Widens little-endian elements to f32; `floats` is overwritten.
    pub(crate) fn widen(self, bytes: &[u8], floats: &mut Vec<f32>) {
        floats.resize(bytes.len() / self.size(), 0.0);
        match self {
            StoredType::F32 => {
                for (float, bytes) in floats.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *float = f32::from_le_bytes(*bytes);
                }
            }
            StoredType::BF16 => {
                for (float, bytes) in floats.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *float = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            StoredType::F16 => {
                let halves: Vec<f16> = bytes
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|bytes| f16::from_le_bytes(*bytes))
                    .collect();
                halves.convert_to_f32_slice(floats);
            }
        }
    }
}
