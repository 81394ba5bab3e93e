//! The element types of ONNX tensors.

use std::fmt;

use onnx_protobuf::tensor_proto;
use protobuf::Enum as _;

/// The type of a tensor's elements.
///
/// Strings, complex numbers and 8-bit floats exist in ONNX and are left out: no file that holds them can be
/// built or read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// IEEE 754 single precision.
    Float32,
    /// Unsigned 8-bit integer.
    UInt8,
    /// Signed 8-bit integer.
    Int8,
    /// Unsigned 16-bit integer.
    UInt16,
    /// Signed 16-bit integer.
    Int16,
    /// Signed 32-bit integer.
    Int32,
    /// Signed 64-bit integer.
    Int64,
    /// Truth value, one byte each: 0 or 1.
    Bool,
    /// IEEE 754 half precision.
    Float16,
    /// IEEE 754 double precision.
    Float64,
    /// Unsigned 32-bit integer.
    UInt32,
    /// Unsigned 64-bit integer.
    UInt64,
    /// The upper 16 bits of a [`DataType::Float32`].
    BFloat16,
    /// Unsigned 4-bit integer, two to a byte, the first in the low half. Needs IR version 10.
    UInt4,
    /// Signed 4-bit integer, two to a byte, the first in the low half. Needs IR version 10.
    Int4,
}

impl DataType {
    const ALL: [Self; 15] = [
        Self::Float32,
        Self::UInt8,
        Self::Int8,
        Self::UInt16,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Bool,
        Self::Float16,
        Self::Float64,
        Self::UInt32,
        Self::UInt64,
        Self::BFloat16,
        Self::UInt4,
        Self::Int4,
    ];

    /// The bits that one element takes in a tensor's data.
    #[must_use]
    pub const fn size_in_bits(self) -> u64 {
        match self {
            Self::UInt4 | Self::Int4 => 4,
            Self::UInt8 | Self::Int8 | Self::Bool => 8,
            Self::UInt16 | Self::Int16 | Self::Float16 | Self::BFloat16 => 16,
            Self::UInt32 | Self::Int32 | Self::Float32 => 32,
            Self::UInt64 | Self::Int64 | Self::Float64 => 64,
        }
    }

    /// The bytes that a tensor of this type and of the shape `dims` takes; a last half byte counts whole.
    ///
    /// `None` when a dimension is negative or the size does not fit in 64 bits.
    #[must_use]
    pub fn byte_length(self, dims: &[i64]) -> Option<u64> {
        let elements = dims.iter().try_fold(1_u64, |product, &dim| {
            product.checked_mul(u64::try_from(dim).ok()?)
        })?;
        Some(elements.checked_mul(self.size_in_bits())?.div_ceil(8))
    }

    /// The number that stands for this type in ONNX files, and in attributes such as `to` of `Cast`.
    #[must_use]
    pub fn onnx_code(self) -> i32 {
        self.proto().value()
    }

    /// The type that `code` stands for in ONNX files; `None` for one that this crate leaves out.
    #[must_use]
    pub fn from_onnx_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.onnx_code() == code)
    }

    fn proto(self) -> tensor_proto::DataType {
        use tensor_proto::DataType as Proto;
        match self {
            Self::Float32 => Proto::FLOAT,
            Self::UInt8 => Proto::UINT8,
            Self::Int8 => Proto::INT8,
            Self::UInt16 => Proto::UINT16,
            Self::Int16 => Proto::INT16,
            Self::Int32 => Proto::INT32,
            Self::Int64 => Proto::INT64,
            Self::Bool => Proto::BOOL,
            Self::Float16 => Proto::FLOAT16,
            Self::Float64 => Proto::DOUBLE,
            Self::UInt32 => Proto::UINT32,
            Self::UInt64 => Proto::UINT64,
            Self::BFloat16 => Proto::BFLOAT16,
            Self::UInt4 => Proto::UINT4,
            Self::Int4 => Proto::INT4,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_onnx_specification() {
        let codes = DataType::ALL.map(DataType::onnx_code);
        assert_eq!(codes, [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 16, 21, 22]);
        for dtype in DataType::ALL {
            assert_eq!(DataType::from_onnx_code(dtype.onnx_code()), Some(dtype));
        }
        // Undefined, string and complex64.
        for code in [0, 8, 14, -1, 1000] {
            assert_eq!(DataType::from_onnx_code(code), None);
        }
    }

    #[test]
    fn byte_length_packs_small_types_and_refuses_bad_shapes() {
        assert_eq!(DataType::Float32.byte_length(&[2, 3]), Some(24));
        assert_eq!(DataType::Int64.byte_length(&[]), Some(8));
        assert_eq!(DataType::Int4.byte_length(&[3]), Some(2));
        assert_eq!(DataType::Float16.byte_length(&[0, 7]), Some(0));
        assert_eq!(DataType::Float16.byte_length(&[-1]), None);
        assert_eq!(DataType::Float16.byte_length(&[i64::MAX, 4]), None);
    }
}
