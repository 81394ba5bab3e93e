use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;

/// Elements that are encoded at a time.
pub(super) const CHUNK: usize = 1 << 20;

/// Encodes `values` as little-endian elements of type `dtype`, rounded to nearest, ties to even; `bytes` is
/// overwritten. Returns whether a finite value became infinite.
pub(super) fn encode(values: &[f32], dtype: Dtype, bytes: &mut Vec<u8>) -> bool {
    bytes.clear();
    match dtype {
        Dtype::BF16 => {
            let mut halves = vec![bf16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            bytes.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
            overflows(values, halves.iter().map(|half| half.is_infinite()))
        }
        Dtype::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(values);
            bytes.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
            overflows(values, halves.iter().map(|half| half.is_infinite()))
        }
        _ => {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            false
        }
    }
}

fn overflows(values: &[f32], infinite: impl Iterator<Item = bool>) -> bool {
    values
        .iter()
        .zip(infinite)
        .any(|(value, infinite)| infinite && value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_even_and_overflow_is_told() {
        let mut bytes = Vec::new();
        let (down, up) = (f32::from_bits(0x3f80_8000), f32::from_bits(0x3f81_8000));
        assert!(!encode(&[down, up], Dtype::BF16, &mut bytes));
        assert_eq!(bytes, [0x80, 0x3f, 0x82, 0x3f]);
        assert!(encode(&[1e6], Dtype::F16, &mut bytes));
        assert!(!encode(&[f32::INFINITY], Dtype::F16, &mut bytes));
        assert!(!encode(&[1e6], Dtype::F32, &mut bytes));
        assert_eq!(bytes, 1e6f32.to_le_bytes());
    }
}
