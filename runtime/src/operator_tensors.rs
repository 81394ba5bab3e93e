//! Tensors of an operator that is computed here.

use ort::operator::ComputeContext;
use ort::value::{DynTensorValueType, ValueRef, ValueRefMut};
use ort::{Error, Result};

/// Input `index`, where the node has it.
pub(crate) fn optional(
    context: &ComputeContext,
    index: usize,
) -> Result<Option<ValueRef<'_, DynTensorValueType>>> {
    context.input(index)?.map(ValueRef::downcast).transpose()
}

/// Input `index`.
pub(crate) fn given(context: &ComputeContext, index: usize) -> Result<ValueRef<'_, DynTensorValueType>> {
    optional(context, index)?.ok_or_else(|| Error::new(format!("input {index} is missing")))
}

/// Output `index` of `shape`.
pub(crate) fn output<'a>(
    context: &'a ComputeContext,
    index: usize,
    shape: &[i64],
) -> Result<ValueRefMut<'a>> {
    let value = context.output(index, shape)?;
    value.ok_or_else(|| Error::new(format!("output {index} is not wanted")))
}
