//! A graph against what TensorRT takes.
//!
//! From `docs/operators.md` of onnx-tensorrt, the parser that TensorRT and its providers share, for 10.3 (JetPack 6) and the
//! columns "supported" and "restrictions"; types are left out, since every row here has the 16- and 32-bit floats and, where
//! it moves indices, the integers that graphs of this target use.

use std::collections::HashSet;

use lwv_onnx::{Model, NodeInfo};

use crate::Error;

/// The operators that graphs of this target may use, each with the inputs that must be part of the graph.
const OPERATORS: [(&str, &[usize]); 31] = [
    ("Add", &[]),
    ("And", &[]),
    ("Cast", &[]),
    ("Concat", &[]),
    ("Cos", &[]),
    // Integers of 4 bits since 10.0.
    ("DequantizeLinear", &[0, 1, 2]),
    ("Div", &[]),
    ("Erf", &[]),
    ("Gather", &[]),
    ("Gemm", &[]),
    ("Identity", &[]),
    ("Less", &[]),
    ("LessOrEqual", &[]),
    ("MatMul", &[]),
    ("Mul", &[]),
    ("Pow", &[]),
    ("QuantizeLinear", &[1, 2]),
    ("Range", &[]),
    ("ReduceMean", &[1]),
    ("Reshape", &[]),
    ("Shape", &[]),
    ("Sigmoid", &[]),
    ("Sin", &[]),
    ("Slice", &[3]),
    ("Softmax", &[]),
    ("Sqrt", &[]),
    ("Squeeze", &[1]),
    ("Sub", &[]),
    ("Transpose", &[]),
    ("Unsqueeze", &[1]),
    ("Where", &[]),
];

/// Checks every node of a graph.
///
/// # Errors
/// The first node with an operator that TensorRT does not have, or used as it must not be.
pub(crate) fn check(graph: &str, model: &Model) -> Result<(), Error> {
    let constants: HashSet<&str> = model.initializers().map(|known| known.name.as_str()).collect();
    for node in model.nodes() {
        let refuse = |reason: String| Error::Refused {
            graph: graph.to_owned(),
            node: node.name.to_owned(),
            reason,
        };
        let operator = OPERATORS
            .iter()
            .find(|(name, _)| *name == node.op_type && node.domain.is_empty());
        let Some((_, fixed)) = operator else {
            let name = [node.domain, node.op_type].join(".");
            return Err(refuse(format!(
                "there is no operator `{}`",
                name.trim_start_matches('.')
            )));
        };
        let rounded = node.op_type == "DequantizeLinear" && is_rounded(model, node.inputs[0].as_ref());
        for &index in *fixed {
            let input = node
                .inputs
                .get(index)
                .map(AsRef::as_ref)
                .filter(|input: &&str| !input.is_empty());
            // What was just quantized is no part of the graph.
            if input.is_some_and(|input| !constants.contains(input)) && !(rounded && index == 0) {
                return Err(refuse(format!(
                    "input {index} of `{}` must be a constant",
                    node.op_type
                )));
            }
        }
        if let Some(zero_point) = zero_point(&node)
            && model
                .inline_bytes(zero_point)
                .is_none_or(|bytes| bytes.iter().any(|byte| *byte != 0))
        {
            return Err(refuse(format!("the zero point `{zero_point}` is not 0")));
        }
    }
    Ok(())
}

/// Whether a value is what `QuantizeLinear` makes.
fn is_rounded(model: &Model, value: &str) -> bool {
    model
        .nodes()
        .any(|node| node.op_type == "QuantizeLinear" && node.outputs.iter().any(|output| *output == value))
}

fn zero_point<'a>(node: &NodeInfo<'a>) -> Option<&'a str> {
    let quantizes = matches!(node.op_type, "QuantizeLinear" | "DequantizeLinear");
    let input = node.inputs.get(2).filter(|_| quantizes)?;
    Some(input.as_ref()).filter(|input: &&str| !input.is_empty())
}

#[cfg(test)]
mod tests {
    use lwv_onnx::{Attribute, DataType, GraphBuilder, Tensor};

    use super::*;

    fn checked(build: impl FnOnce(&mut GraphBuilder) -> String) -> Result<(), Error> {
        let mut graph = GraphBuilder::new("g");
        graph.opset("", 19).opset("com.microsoft", 1);
        graph.input("x", DataType::Float32, &[4.into()]).unwrap();
        graph.input("n", DataType::Int64, &[1.into()]).unwrap();
        let made = build(&mut graph);
        graph.output("y", &made, DataType::Float32, &[]).unwrap();
        check("g", &graph.finish().unwrap())
    }

    fn reason(build: impl FnOnce(&mut GraphBuilder) -> String) -> String {
        checked(build).unwrap_err().to_string()
    }

    fn rounded(graph: &mut GraphBuilder, zero: u8) -> String {
        let step = graph.constant_f32(&[0.5], &[]).unwrap();
        let zero = graph.constant(Tensor::new(DataType::Int8, &[], vec![zero]).unwrap());
        let codes = graph.op("QuantizeLinear", &["x", &step, &zero], []).unwrap();
        graph.op("DequantizeLinear", &[&codes, &step, &zero], []).unwrap()
    }

    #[test]
    fn forbidden_operators_are_caught() {
        assert!(reason(|graph| graph.op("NonZero", &["x"], []).unwrap()).contains("no operator `NonZero`"));
        let fused = |graph: &mut GraphBuilder| {
            let attributes = [Attribute::float("alpha", 1.0)];
            graph
                .op_in("com.microsoft", "QuickGelu", &["x"], attributes)
                .unwrap()
        };
        assert!(reason(fused).contains("no operator `com.microsoft.QuickGelu`"));
    }

    #[test]
    fn what_must_be_constant_is() {
        let sliced = |graph: &mut GraphBuilder| {
            let bound = graph.constant_i64(&[1], &[1]).unwrap();
            graph.op("Slice", &["x", "n", &bound, "n"], []).unwrap()
        };
        assert!(reason(sliced).contains("input 3 of `Slice` must be a constant"));
    }

    #[test]
    fn zero_points_are_zero() {
        assert!(checked(|graph| rounded(graph, 0)).is_ok());
        assert!(reason(|graph| rounded(graph, 3)).contains("is not 0"));
    }
}
