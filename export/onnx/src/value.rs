//! The inputs and outputs that a graph declares.

use std::fmt;

use onnx_protobuf::{TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto, type_proto};
use protobuf::MessageField;
use tensor_shape_proto::dimension::Value;

use crate::{DataType, Error};

/// One dimension of a graph's input or output.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dimension {
    /// Known when the graph is built.
    Fixed(i64),
    /// Known when the graph runs; equal in all places of the graph that carry the same symbol.
    ///
    /// A dimension of which a file says nothing is read as the empty symbol, which is equal to nothing.
    Symbol(String),
}

impl Dimension {
    fn to_proto(&self) -> tensor_shape_proto::Dimension {
        let value = match self {
            Self::Fixed(size) => Some(Value::DimValue(*size)),
            Self::Symbol(symbol) if symbol.is_empty() => None,
            Self::Symbol(symbol) => Some(Value::DimParam(symbol.clone())),
        };
        tensor_shape_proto::Dimension {
            value,
            ..Default::default()
        }
    }

    fn from_proto(proto: &tensor_shape_proto::Dimension) -> Self {
        match &proto.value {
            Some(Value::DimValue(size)) => Self::Fixed(*size),
            Some(Value::DimParam(symbol)) => Self::Symbol(symbol.clone()),
            _ => Self::Symbol(String::new()),
        }
    }
}

impl From<i64> for Dimension {
    fn from(size: i64) -> Self {
        Self::Fixed(size)
    }
}

impl From<&str> for Dimension {
    fn from(symbol: &str) -> Self {
        Self::Symbol(symbol.to_owned())
    }
}

impl From<String> for Dimension {
    fn from(symbol: String) -> Self {
        Self::Symbol(symbol)
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Symbol(symbol) if symbol.is_empty() => f.write_str("?"),
            Self::Symbol(symbol) => f.write_str(symbol),
        }
    }
}

/// The name and type of one input or output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueInfo {
    /// The name by which a runtime feeds or fetches it.
    pub name: String,
    /// The type of its elements.
    pub dtype: DataType,
    /// Its shape, outermost dimension first; empty for a scalar.
    pub dims: Vec<Dimension>,
}

impl ValueInfo {
    pub(crate) fn to_proto(&self) -> ValueInfoProto {
        let shape = TensorShapeProto {
            dim: self.dims.iter().map(Dimension::to_proto).collect(),
            ..Default::default()
        };
        let tensor = type_proto::Tensor {
            elem_type: self.dtype.onnx_code(),
            shape: MessageField::some(shape),
            ..Default::default()
        };
        let type_ = TypeProto {
            value: Some(type_proto::Value::TensorType(tensor)),
            ..Default::default()
        };
        ValueInfoProto {
            name: self.name.clone(),
            type_: MessageField::some(type_),
            ..Default::default()
        }
    }

    pub(crate) fn from_proto(proto: &ValueInfoProto) -> Result<Self, Error> {
        let unsupported = || Error::UnsupportedType {
            value: proto.name.clone(),
        };
        let Some(type_proto::Value::TensorType(tensor)) =
            proto.type_.as_ref().and_then(|type_| type_.value.as_ref())
        else {
            return Err(unsupported());
        };
        let shape = tensor.shape.as_ref().ok_or_else(unsupported)?;
        let dtype = DataType::from_onnx_code(tensor.elem_type).ok_or_else(|| Error::UnsupportedDataType {
            value: proto.name.clone(),
            code: tensor.elem_type,
        })?;
        Ok(Self {
            name: proto.name.clone(),
            dtype,
            dims: shape.dim.iter().map(Dimension::from_proto).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_survives_the_wire_form() {
        let value = ValueInfo {
            name: "input_ids".to_owned(),
            dtype: DataType::Int64,
            dims: vec!["batch".into(), 0.into(), String::new().into(), 7.into()],
        };
        assert_eq!(ValueInfo::from_proto(&value.to_proto()).unwrap(), value);
    }

    #[test]
    fn value_without_tensor_type_or_shape_is_refused() {
        let bare = ValueInfoProto {
            name: "x".to_owned(),
            ..Default::default()
        };
        assert!(
            matches!(ValueInfo::from_proto(&bare), Err(Error::UnsupportedType { value }) if value == "x")
        );

        let value = ValueInfo {
            name: "x".to_owned(),
            dtype: DataType::Bool,
            dims: vec![],
        };
        let mut shapeless = value.to_proto();
        if let Some(type_proto::Value::TensorType(tensor)) =
            &mut shapeless.type_.mut_or_insert_default().value
        {
            tensor.shape = MessageField::none();
        }
        assert!(matches!(
            ValueInfo::from_proto(&shapeless),
            Err(Error::UnsupportedType { .. })
        ));
    }

    #[test]
    fn value_of_an_unknown_element_type_is_refused() {
        let value = ValueInfo {
            name: "x".to_owned(),
            dtype: DataType::Bool,
            dims: vec![],
        };
        let mut strings = value.to_proto();
        if let Some(type_proto::Value::TensorType(tensor)) = &mut strings.type_.mut_or_insert_default().value
        {
            tensor.elem_type = 8;
        }
        let error = ValueInfo::from_proto(&strings).unwrap_err();
        assert!(
            matches!(error, Error::UnsupportedDataType { code: 8, .. }),
            "{error}"
        );
    }
}
