//! Operators of bundles that are computed here, not by ONNX Runtime.

use lwv_model::contract;
use ort::operator::OperatorDomain;

use crate::bundle::Bundle;
use crate::provider::Device;
use crate::{group_query_attention, matmul_nbits};

/// What takes the place of ONNX Runtime's operators in graph `name` of `bundle`, run on `device` with `threads` threads, where it is
/// faster.
pub(crate) fn domain(
    bundle: &Bundle,
    name: &str,
    device: Device,
    threads: usize,
) -> ort::Result<Option<OperatorDomain>> {
    let attention = name == contract::DECODER && group_query_attention::replaces(bundle, device);
    let products = matmul_nbits::of(bundle, device, threads);
    // A domain of nothing would hide ONNX Runtime's own.
    if !attention && products.is_none() {
        return Ok(None);
    }
    let mut domain = OperatorDomain::new("com.microsoft")?;
    if attention {
        domain = group_query_attention::add_to(domain)?;
    }
    if let Some(products) = products {
        domain = domain.add(products)?;
    }
    Ok(Some(domain))
}
