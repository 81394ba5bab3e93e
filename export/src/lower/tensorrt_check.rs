//! A graph against what TensorRT takes.
//!
//! From `docs/operators.md` of onnx-tensorrt, the parser that TensorRT and its providers share, for 10.3 (JetPack 6), 10.14 and
//! 10.15 and the columns "supported" and "restrictions"; types are left out, since every row here has the 16- and 32-bit floats
//! and, where it moves indices, the integers that graphs of this target use.

use std::collections::HashSet;

use lwv_model::TensorRtVersion;
use lwv_onnx::{Model, NodeInfo};

use super::tensorrt_newer::since;
use crate::Error;

/// The operators that graphs for any version may use, each with the inputs that must be part of the graph.
const OPERATORS: [(&str, &[usize]); 32] = [
    ("Add", &[]),
    ("And", &[]),
    ("Cast", &[]),
    ("Concat", &[]),
    ("Cos", &[]),
    // Integers of 4 bits since 10.0.
    ("DequantizeLinear", &[0, 1, 2]),
    ("Div", &[]),
    ("Erf", &[]),
    ("Expand", &[]),
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

/// Checks every node of a graph for `version`.
///
/// # Errors
/// The first node with an operator that TensorRT does not have, or used as it must not be.
pub(crate) fn check(graph: &str, model: &Model, version: TensorRtVersion) -> Result<(), Error> {
    let constants: HashSet<&str> = model.initializers().map(|known| known.name.as_str()).collect();
    for node in model.nodes() {
        let refuse = |reason: String| Error::Refused {
            graph: graph.to_owned(),
            node: node.name.to_owned(),
            version,
            reason,
        };
        let Some((since, fixed)) = operator(&node) else {
            let name = [node.domain, node.op_type].join(".");
            return Err(refuse(format!(
                "there is no operator `{}`",
                name.trim_start_matches('.')
            )));
        };
        if since > version {
            return Err(refuse(format!("`{}` came with {since}", node.op_type)));
        }
        if holds_cache(&node) {
            return Err(refuse("`Attention` must not hold the cache".to_owned()));
        }
        let rounded = node.op_type == "DequantizeLinear" && is_rounded(model, node.inputs[0].as_ref());
        for &index in fixed {
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

/// The version that brought a node's operator, [`TensorRtVersion::OLDEST`] or later, and the inputs that must be part of the graph.
fn operator(node: &NodeInfo<'_>) -> Option<(TensorRtVersion, &'static [usize])> {
    if !node.domain.is_empty() {
        return None;
    }
    let oldest = OPERATORS.iter().find(|(name, _)| *name == node.op_type);
    let oldest = oldest.map(|(_, fixed)| (TensorRtVersion::OLDEST, *fixed));
    oldest.or_else(|| since(node.op_type).map(|since| (since, &[][..])))
}

/// Whether attention is given earlier keys and values, or gives all.
fn holds_cache(node: &NodeInfo<'_>) -> bool {
    node.op_type == "Attention" && (node.inputs.len() > 4 || node.outputs.len() > 1)
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

    fn checked_for(version: [u32; 2], build: impl FnOnce(&mut GraphBuilder) -> String) -> Result<(), Error> {
        let mut graph = GraphBuilder::new("g");
        graph.opset("", 19).opset("com.microsoft", 1);
        graph.input("x", DataType::Float32, &[4.into()]).unwrap();
        graph.input("n", DataType::Int64, &[1.into()]).unwrap();
        let made = build(&mut graph);
        graph.output("y", &made, DataType::Float32, &[]).unwrap();
        let [major, minor] = version;
        check("g", &graph.finish().unwrap(), TensorRtVersion::new(major, minor))
    }

    fn checked(build: impl FnOnce(&mut GraphBuilder) -> String) -> Result<(), Error> {
        checked_for([10, 3], build)
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
    fn newer_operators_need_their_version() {
        let inputs = ["x", "x", "x"];
        for (name, since) in [
            ("Attention", 14),
            ("RMSNormalization", 15),
            ("RotaryEmbedding", 15),
        ] {
            let count = if name == "RMSNormalization" { 2 } else { 3 };
            let build = |graph: &mut GraphBuilder| graph.op(name, &inputs[..count], []).unwrap();
            assert!(checked_for([10, since], build).is_ok());
            assert!(checked_for([11, 0], build).is_ok());
            let error = checked_for([10, since - 1], build).unwrap_err().to_string();
            let versions = [
                format!("TensorRT 10.{}:", since - 1),
                format!("`{name}` came with 10.{since}"),
            ];
            assert!(versions.iter().all(|version| error.contains(version)), "{error}");
        }
        let own = |graph: &mut GraphBuilder| graph.op_in("com.microsoft", "Attention", &["x"], []).unwrap();
        assert!(checked_for([10, 15], own).is_err());
    }

    #[test]
    fn attention_holds_no_cache() {
        let with_past = |graph: &mut GraphBuilder| {
            let inputs = ["x", "x", "x", "x", "x", "x"];
            graph.op("Attention", &inputs, []).unwrap()
        };
        let error = checked_for([10, 14], with_past).unwrap_err().to_string();
        assert!(error.contains("must not hold the cache"), "{error}");
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
