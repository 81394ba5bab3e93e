//! Whether a finished graph is one that a runtime can load.

use onnx_protobuf::{ModelProto, NodeProto, OperatorSetIdProto};
use protobuf::Message as _;

use crate::Error;

/// Protobuf counts the bytes of a message in a signed 32-bit number.
const LIMIT: u64 = i32::MAX as u64;

/// Checks what cannot be known before the last node: that every operator set is imported, and that the message
/// fits the format.
pub(crate) fn check(model: &ModelProto) -> Result<(), Error> {
    let graph = model.graph.as_ref().ok_or(Error::MissingGraph)?;
    for node in &graph.node {
        check_domain(node, &model.opset_import)?;
    }
    check_size(model.compute_size())
}

fn check_domain(node: &NodeProto, opsets: &[OperatorSetIdProto]) -> Result<(), Error> {
    if opsets
        .iter()
        .any(|opset| canonical(&opset.domain) == canonical(&node.domain))
    {
        return Ok(());
    }
    Err(Error::MissingOpset {
        node: node.name.clone(),
        domain: node.domain.clone(),
    })
}

/// The standard domain has two spellings.
fn canonical(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

fn check_size(bytes: u64) -> Result<(), Error> {
    if bytes <= LIMIT {
        Ok(())
    } else {
        Err(Error::ModelTooLarge { bytes, limit: LIMIT })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_must_be_shorter_than_two_gibibytes() {
        check_size((1 << 31) - 1).unwrap();
        let error = check_size(1 << 31).unwrap_err();
        assert!(
            matches!(
                error,
                Error::ModelTooLarge {
                    bytes: 2_147_483_648,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn standard_domain_has_two_names() {
        let opset = OperatorSetIdProto {
            domain: "ai.onnx".to_owned(),
            ..Default::default()
        };
        check_domain(&NodeProto::new(), &[opset]).unwrap();
    }

    #[test]
    fn model_needs_a_graph() {
        assert!(matches!(check(&ModelProto::new()), Err(Error::MissingGraph)));
    }
}
