//! Tensors of an operator that is computed here.
//!
//! A value of `ort` asks ONNX Runtime for a description with names for every size, which takes about a microsecond, as long as a
//! small operator itself. These ask for the type and the sizes.
#![expect(unsafe_code, reason = "tensors are had from the interface of C")]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use ort::operator::ComputeContext;
use ort::sys::{ONNXTensorElementDataType, OrtTensorTypeAndShapeInfo, OrtValue};
use ort::value::{PrimitiveTensorElementType, TensorElementType};
use ort::{AsPointer, Error, Result};

/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// Sizes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    sizes: [i64; MAX_RANK],
    rank: usize,
}

/// A tensor that an operator reads.
pub(crate) struct Input<'a> {
    pub(crate) shape: Shape,
    element: TensorElementType,
    data: NonNull<u8>,
    context: PhantomData<&'a ComputeContext>,
}

/// Input `index`, where the node has it.
pub(crate) fn optional(context: &ComputeContext, index: usize) -> Result<Option<Input<'_>>> {
    let mut value = ptr::null();
    // SAFETY: the context lives, and ONNX Runtime writes a pointer.
    unsafe {
        status((ort::api().KernelContext_GetInput)(
            context.ptr(),
            index,
            &raw mut value,
        ))?
    };
    match NonNull::new(value.cast_mut()) {
        // SAFETY: an input lives as long as the context.
        Some(value) => unsafe { Input::of(value).map(Some) },
        None => Ok(None),
    }
}

/// Input `index`.
pub(crate) fn given(context: &ComputeContext, index: usize) -> Result<Input<'_>> {
    optional(context, index)?.ok_or_else(|| Error::new(format!("input {index} is missing")))
}

/// Numbers of output `index` of `shape`.
///
/// # Safety
/// The operator declared the output to be of `T`, and it is asked for once.
#[expect(
    clippy::mut_from_ref,
    reason = "the numbers belong to the output, which is asked for once"
)]
pub(crate) unsafe fn output<'a, T: PrimitiveTensorElementType>(
    context: &'a ComputeContext,
    index: usize,
    shape: &[i64],
) -> Result<&'a mut [T]> {
    let mut value = ptr::null_mut();
    let (sizes, rank) = (shape.as_ptr(), shape.len());
    let get = ort::api().KernelContext_GetOutput;
    // SAFETY: the context lives, and ONNX Runtime reads the sizes and writes a pointer.
    unsafe { status(get(context.ptr().cast_mut(), index, sizes, rank, &raw mut value))? };
    let value = NonNull::new(value).ok_or_else(|| Error::new(format!("output {index} is not wanted")))?;
    let count = count(shape)?;
    // SAFETY: the tensor was made with that shape and of that type, and nobody else has it before the operator is done.
    unsafe {
        Ok(std::slice::from_raw_parts_mut(
            data(value)?.cast().as_ptr(),
            count,
        ))
    }
}

impl Deref for Shape {
    type Target = [i64];

    fn deref(&self) -> &[i64] {
        &self.sizes[..self.rank]
    }
}

impl DerefMut for Shape {
    fn deref_mut(&mut self) -> &mut [i64] {
        &mut self.sizes[..self.rank]
    }
}

impl Input<'_> {
    /// # Safety
    /// `value` lives as long as what is made of it.
    unsafe fn of(value: NonNull<OrtValue>) -> Result<Self> {
        let api = ort::api();
        let mut info = ptr::null_mut();
        // SAFETY: the value lives; what describes it is given back below.
        unsafe { status((api.GetTensorTypeAndShape)(value.as_ptr(), &raw mut info))? };
        // SAFETY: it was just made.
        let described = unsafe { describe(info) };
        // SAFETY: it was made above, and nothing of it is kept.
        unsafe { (api.ReleaseTensorTypeAndShapeInfo)(info) };
        let (element, shape) = described?;
        Ok(Self {
            shape,
            element,
            // SAFETY: the value lives.
            data: unsafe { data(value)? },
            context: PhantomData,
        })
    }
}

impl<'a> Input<'a> {
    /// Its numbers; an error if they are of another type.
    pub(crate) fn values<T: PrimitiveTensorElementType>(&self) -> Result<&'a [T]> {
        let wanted = T::into_tensor_element_type();
        if self.element != wanted {
            return Err(Error::new(format!("{:?} where {wanted:?} is read", self.element)));
        }
        // SAFETY: ONNX Runtime says that so many numbers of this type are there, and they live as long as the context.
        unsafe {
            Ok(std::slice::from_raw_parts(
                self.data.cast().as_ptr(),
                count(&self.shape)?,
            ))
        }
    }

    /// Where it lies.
    pub(crate) fn address(&self) -> *const u8 {
        self.data.as_ptr()
    }
}

/// # Safety
/// `info` lives.
unsafe fn describe(info: *const OrtTensorTypeAndShapeInfo) -> Result<(TensorElementType, Shape)> {
    let api = ort::api();
    let mut element = ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    let mut shape = Shape {
        sizes: [0; MAX_RANK],
        rank: 0,
    };
    // SAFETY: ONNX Runtime writes a type and a number.
    unsafe {
        status((api.GetTensorElementType)(info, &raw mut element))?;
        status((api.GetDimensionsCount)(info, &raw mut shape.rank))?;
    }
    if shape.rank > MAX_RANK {
        return Err(Error::new(format!("a tensor of {} dimensions", shape.rank)));
    }
    // SAFETY: there is room for so many sizes.
    unsafe { status((api.GetDimensions)(info, shape.sizes.as_mut_ptr(), shape.rank))? };
    Ok((element.into(), shape))
}

/// Where numbers of a tensor begin, aligned even if there are none.
///
/// # Safety
/// `value` lives.
unsafe fn data(value: NonNull<OrtValue>) -> Result<NonNull<u8>> {
    let mut data = ptr::null_mut();
    // SAFETY: ONNX Runtime writes a pointer.
    unsafe { status((ort::api().GetTensorMutableData)(value.as_ptr(), &raw mut data))? };
    Ok(NonNull::new(data.cast()).unwrap_or(NonNull::<u64>::dangling().cast()))
}

fn count(shape: &[i64]) -> Result<usize> {
    let sizes = shape.iter().map(|size| usize::try_from(*size).ok());
    let count = sizes
        .into_iter()
        .try_fold(1_usize, |count, size| count.checked_mul(size?));
    count.ok_or_else(|| Error::new(format!("a tensor of shape {shape:?}")))
}

/// # Safety
/// It is what a function of ONNX Runtime returned.
unsafe fn status(status: ort::sys::OrtStatusPtr) -> Result<()> {
    // SAFETY: as the caller says.
    unsafe { Error::result_from_status(status) }
}
