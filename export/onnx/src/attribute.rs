//! The attributes of nodes.

use onnx_protobuf::{AttributeProto, attribute_proto::AttributeType};
use protobuf::MessageField;

use crate::Tensor;

/// A named constant that is part of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribute(AttributeProto);

impl Attribute {
    fn new(name: &str, kind: AttributeType, fill: impl FnOnce(&mut AttributeProto)) -> Self {
        let mut proto = AttributeProto {
            name: name.to_owned(),
            type_: kind.into(),
            ..Default::default()
        };
        fill(&mut proto);
        Self(proto)
    }

    /// A whole number; also how ONNX spells a truth value (0 or 1) or an element type (its code).
    #[must_use]
    pub fn int(name: &str, value: i64) -> Self {
        Self::new(name, AttributeType::INT, |proto| proto.i = value)
    }

    /// A list of whole numbers.
    #[must_use]
    pub fn ints(name: &str, values: impl Into<Vec<i64>>) -> Self {
        Self::new(name, AttributeType::INTS, |proto| proto.ints = values.into())
    }

    /// A single-precision number.
    #[must_use]
    pub fn float(name: &str, value: f32) -> Self {
        Self::new(name, AttributeType::FLOAT, |proto| proto.f = value)
    }

    /// A list of single-precision numbers.
    #[must_use]
    pub fn floats(name: &str, values: impl Into<Vec<f32>>) -> Self {
        Self::new(name, AttributeType::FLOATS, |proto| proto.floats = values.into())
    }

    /// A text.
    #[must_use]
    pub fn string(name: &str, value: &str) -> Self {
        Self::new(name, AttributeType::STRING, |proto| {
            proto.s = value.as_bytes().to_vec()
        })
    }

    /// A list of texts.
    #[must_use]
    pub fn strings(name: &str, values: &[&str]) -> Self {
        Self::new(name, AttributeType::STRINGS, |proto| {
            proto.strings = values.iter().map(|value| value.as_bytes().to_vec()).collect();
        })
    }

    /// A tensor, stored inline.
    #[must_use]
    pub fn tensor(name: &str, value: Tensor) -> Self {
        Self::new(name, AttributeType::TENSOR, |proto| {
            proto.t = MessageField::some(value.into_proto(""))
        })
    }

    /// The name by which the operator knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    pub(crate) fn into_proto(self) -> AttributeProto {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use onnx_protobuf::AttributeValue;

    use super::*;

    #[test]
    fn each_kind_carries_its_value() {
        let value = |attribute: Attribute| attribute.into_proto();
        assert!(matches!(
            value(Attribute::int("a", -3)).as_value(),
            AttributeValue::Integer64(-3)
        ));
        assert!(matches!(
            value(Attribute::ints("a", [1, 2])).as_value(),
            AttributeValue::Integer64s([1, 2])
        ));
        assert!(matches!(
            value(Attribute::float("a", 0.5)).as_value(),
            AttributeValue::Float32(0.5)
        ));
        assert!(matches!(
            value(Attribute::floats("a", [0.5])).as_value(),
            AttributeValue::Float32s([0.5])
        ));
        assert!(matches!(
            value(Attribute::string("a", "b")).as_value(),
            AttributeValue::String(b"b")
        ));
        let strings = value(Attribute::strings("a", &["b", "c"]));
        assert!(matches!(strings.as_value(), AttributeValue::Strings([b, c]) if b == b"b" && c == b"c"));
        let tensor = value(Attribute::tensor("a", Tensor::i64(&[7], &[1]).unwrap()));
        assert!(matches!(tensor.as_value(), AttributeValue::Tensor(t) if t.raw_data == 7_i64.to_le_bytes()));
        assert_eq!(Attribute::int("axis", 0).name(), "axis");
    }
}
