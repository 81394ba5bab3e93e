//! Tensors whose elements are stored in the ONNX file itself.

use half::{bf16, f16};
use onnx_protobuf::TensorProto;

use crate::{DataType, Error};

/// A tensor held in memory: an inline constant, or an attribute's value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tensor {
    dtype: DataType,
    dims: Vec<i64>,
    bytes: Vec<u8>,
}

impl Tensor {
    /// A tensor from its elements as ONNX stores them: little-endian, row-major, 4-bit types packed.
    ///
    /// # Errors
    ///
    /// [`Error::DataLength`] when `bytes` is not as long as `dtype` and `dims` say, [`Error::Shape`] when
    /// `dims` is no shape.
    pub fn new(dtype: DataType, dims: &[i64], bytes: Vec<u8>) -> Result<Self, Error> {
        check_length("tensor", dtype, dims, bytes.len() as u64)?;
        Ok(Self {
            dtype,
            dims: dims.to_vec(),
            bytes,
        })
    }

    /// A [`DataType::Int64`] tensor.
    ///
    /// # Errors
    ///
    /// As [`Tensor::new`].
    pub fn i64(values: &[i64], dims: &[i64]) -> Result<Self, Error> {
        Self::new(
            DataType::Int64,
            dims,
            values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        )
    }

    /// A [`DataType::Int32`] tensor.
    ///
    /// # Errors
    ///
    /// As [`Tensor::new`].
    pub fn i32(values: &[i32], dims: &[i64]) -> Result<Self, Error> {
        Self::new(
            DataType::Int32,
            dims,
            values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        )
    }

    /// A [`DataType::Float32`] tensor.
    ///
    /// # Errors
    ///
    /// As [`Tensor::new`].
    pub fn f32(values: &[f32], dims: &[i64]) -> Result<Self, Error> {
        Self::floats(DataType::Float32, values, dims)
    }

    /// A tensor of any floating-point type, each value rounded to the nearest that `dtype` can hold.
    ///
    /// # Errors
    ///
    /// As [`Tensor::new`], and [`Error::NotFloat`] when `dtype` is not a floating-point type.
    pub fn floats(dtype: DataType, values: &[f32], dims: &[i64]) -> Result<Self, Error> {
        let bytes = match dtype {
            DataType::Float16 => values
                .iter()
                .flat_map(|&value| f16::from_f32(value).to_le_bytes())
                .collect(),
            DataType::BFloat16 => values
                .iter()
                .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
                .collect(),
            DataType::Float32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            DataType::Float64 => values
                .iter()
                .flat_map(|&value| f64::from(value).to_le_bytes())
                .collect(),
            _ => return Err(Error::NotFloat { dtype }),
        };
        Self::new(dtype, dims, bytes)
    }

    /// A [`DataType::Bool`] tensor.
    ///
    /// # Errors
    ///
    /// As [`Tensor::new`].
    pub fn bools(values: &[bool], dims: &[i64]) -> Result<Self, Error> {
        Self::new(
            DataType::Bool,
            dims,
            values.iter().map(|&value| u8::from(value)).collect(),
        )
    }

    /// The type of the elements.
    #[must_use]
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// The shape, outermost dimension first; empty for a scalar.
    #[must_use]
    pub fn dims(&self) -> &[i64] {
        &self.dims
    }

    /// The elements as ONNX stores them; as long as type and shape say.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn scalar(dtype: DataType, bytes: Vec<u8>) -> Self {
        Self {
            dtype,
            dims: Vec::new(),
            bytes,
        }
    }

    pub(crate) fn into_proto(self, name: &str) -> TensorProto {
        TensorProto {
            name: name.to_owned(),
            data_type: self.dtype.onnx_code(),
            dims: self.dims,
            raw_data: self.bytes,
            ..Default::default()
        }
    }
}

impl From<i64> for Tensor {
    /// A scalar.
    fn from(value: i64) -> Self {
        Self::scalar(DataType::Int64, value.to_le_bytes().to_vec())
    }
}

impl From<i32> for Tensor {
    /// A scalar.
    fn from(value: i32) -> Self {
        Self::scalar(DataType::Int32, value.to_le_bytes().to_vec())
    }
}

impl From<f32> for Tensor {
    /// A scalar.
    fn from(value: f32) -> Self {
        Self::scalar(DataType::Float32, value.to_le_bytes().to_vec())
    }
}

impl From<bool> for Tensor {
    /// A scalar.
    fn from(value: bool) -> Self {
        Self::scalar(DataType::Bool, vec![value.into()])
    }
}

/// Checks that `actual` bytes hold exactly a tensor of this type and shape.
pub(crate) fn check_length(name: &str, dtype: DataType, dims: &[i64], actual: u64) -> Result<(), Error> {
    let shape = || Error::Shape {
        name: name.to_owned(),
        dims: dims.to_vec(),
    };
    let expected = dtype.byte_length(dims).ok_or_else(shape)?;
    if expected == actual {
        return Ok(());
    }
    Err(Error::DataLength {
        name: name.to_owned(),
        dtype,
        dims: dims.to_vec(),
        expected,
        actual,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_little_endian() {
        assert_eq!(Tensor::i64(&[-2], &[]).unwrap().bytes(), (-2_i64).to_le_bytes());
        assert_eq!(Tensor::i32(&[258], &[1]).unwrap().bytes(), [2, 1, 0, 0]);
        assert_eq!(Tensor::bools(&[true, false], &[2]).unwrap().bytes(), [1, 0]);
    }

    #[test]
    fn scalars_are_tensors_without_dimensions() {
        assert_eq!(Tensor::from(-2_i64), Tensor::i64(&[-2], &[]).unwrap());
        assert_eq!(Tensor::from(-2_i32), Tensor::i32(&[-2], &[]).unwrap());
        assert_eq!(Tensor::from(0.5_f32), Tensor::f32(&[0.5], &[]).unwrap());
        assert_eq!(Tensor::from(true), Tensor::bools(&[true], &[]).unwrap());
    }

    #[test]
    fn floats_are_rounded_to_the_type_asked_for() {
        let bytes = |dtype| Tensor::floats(dtype, &[1.5], &[]).unwrap().bytes().to_vec();
        assert_eq!(bytes(DataType::Float16), 0x3e00_u16.to_le_bytes());
        assert_eq!(bytes(DataType::BFloat16), 0x3fc0_u16.to_le_bytes());
        assert_eq!(bytes(DataType::Float32), 1.5_f32.to_le_bytes());
        assert_eq!(bytes(DataType::Float64), 1.5_f64.to_le_bytes());
        let error = Tensor::floats(DataType::Int8, &[1.5], &[]).unwrap_err();
        assert!(matches!(
            error,
            Error::NotFloat {
                dtype: DataType::Int8
            }
        ));
    }

    #[test]
    fn length_and_shape_must_agree() {
        let error = Tensor::i64(&[1, 2, 3], &[2]).unwrap_err();
        assert!(
            matches!(
                error,
                Error::DataLength {
                    expected: 16,
                    actual: 24,
                    ..
                }
            ),
            "{error}"
        );
        assert!(matches!(Tensor::f32(&[], &[-1]), Err(Error::Shape { .. })));
    }
}
