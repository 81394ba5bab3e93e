use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;

use ort::AsPointer;
use ort::memory::{AllocationDevice, Allocator, MemoryInfo};
use ort::session::{IoBinding, RunOptions, Session};
use ort::value::{DynTensor, Shape, TensorElementType};

use crate::adapter::{AdapterTensor, AdapterValues};
use crate::error::{Error, Inner, Result};
use crate::huge_pages::HugePages;
use crate::values::Values;

/// Inputs and outputs of one graph, bound once to memory that stays where it is.
///
/// The binding of ONNX Runtime does not keep a caller's memory alive, so this one owns all memory that is bound.
/// The memory can be read and written only through `&mut self`, and a run needs `&mut self` as well: nobody looks at it
/// during a run.
pub(crate) struct Binding {
    graph: &'static str,
    // Before the memory: fields are dropped in this order.
    io: IoBinding,
    bound: Vec<Bound>,
    memory: Vec<Memory>,
}

/// Memory of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot(usize);

/// A bound name of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bind(usize);

/// Whether a name is bound as input, as output, or two names as both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Input,
    Output,
}

struct Bound {
    name: CString,
    direction: Direction,
    slot: Slot,
}

enum Memory {
    Float(Values<f32>),
    /// Bits of 16-bit floats: only integers are had zeroed without being touched.
    Half(Values<u16>),
    Byte(Values<i8>),
    Integer(Values<i64>),
    /// An adapter's tensor, which many bindings read.
    Shared(Arc<AdapterTensor>),
    /// Memory that a provider has allocated.
    Device(DynTensor, Elements),
    Released,
}

/// Type of the elements of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elements {
    Float,
    Half,
    Byte,
    Integer,
}

impl Elements {
    /// Bytes of one.
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Float => 4,
            Self::Integer => 8,
        }
    }

    fn tensor_type(self) -> TensorElementType {
        match self {
            Self::Byte => TensorElementType::Int8,
            Self::Half => TensorElementType::Float16,
            Self::Float => TensorElementType::Float32,
            Self::Integer => TensorElementType::Int64,
        }
    }
}

impl Binding {
    pub(crate) fn new(graph: &'static str, session: &Session) -> Result<Self> {
        Ok(Self {
            graph,
            io: session.create_binding()?,
            bound: Vec::new(),
            memory: Vec::new(),
        })
    }

    /// Zeroed memory of `length` elements, of `pages` where they are given and to be had. The system commits pages only when
    /// they are first written.
    pub(crate) fn allocate(
        &mut self,
        elements: Elements,
        length: usize,
        pages: Option<&HugePages>,
    ) -> Result<Slot> {
        let memory = match elements {
            Elements::Float => Values::zeroed(length, pages).map(Memory::Float),
            Elements::Half => Values::zeroed(length, pages).map(Memory::Half),
            Elements::Byte => Values::zeroed(length, pages).map(Memory::Byte),
            Elements::Integer => Values::zeroed(length, pages).map(Memory::Integer),
        }?;
        self.memory.push(memory);
        Ok(Slot(self.memory.len() - 1))
    }

    /// Memory on a device, its content undefined.
    pub(crate) fn allocate_on_device(
        &mut self,
        allocator: &Allocator,
        elements: Elements,
        shape: &[usize],
    ) -> Result<Slot> {
        let tensor = DynTensor::new(allocator, elements.tensor_type(), Shape::new(dimensions(shape)))?;
        self.memory.push(Memory::Device(tensor, elements));
        Ok(Slot(self.memory.len() - 1))
    }

    /// Binds an input to a tensor of an adapter for good.
    pub(crate) fn bind_adapter_tensor(&mut self, tensor: &Arc<AdapterTensor>) -> Result<()> {
        self.memory.push(Memory::Shared(Arc::clone(tensor)));
        let slot = Slot(self.memory.len() - 1);
        self.bind(&tensor.name, Direction::Input, slot, &tensor.dims)
            .map(drop)
    }

    /// Frees the memory of a slot that no name is bound to any more.
    pub(crate) fn release(&mut self, slot: Slot) {
        debug_assert!(
            self.bound.iter().all(|bound| bound.slot != slot),
            "memory that is bound"
        );
        self.memory[slot.0] = Memory::Released;
    }

    pub(crate) fn floats(&mut self, slot: Slot) -> &mut [f32] {
        match &mut self.memory[slot.0] {
            Memory::Float(values) => values,
            _ => &mut [],
        }
    }

    pub(crate) fn integers(&mut self, slot: Slot) -> &mut [i64] {
        match &mut self.memory[slot.0] {
            Memory::Integer(values) => values,
            _ => &mut [],
        }
    }

    /// Copies ranges of elements, given as (from, to, length), from one slot to another of the same type on the host.
    pub(crate) fn copy(&mut self, from: Slot, to: Slot, ranges: impl Iterator<Item = (usize, usize, usize)>) {
        let source = std::mem::replace(&mut self.memory[from.0], Memory::Released);
        for (start, target, length) in ranges {
            match (&source, &mut self.memory[to.0]) {
                (Memory::Float(from), Memory::Float(to)) => {
                    to[target..target + length].copy_from_slice(&from[start..start + length]);
                }
                (Memory::Half(from), Memory::Half(to)) => {
                    to[target..target + length].copy_from_slice(&from[start..start + length]);
                }
                (Memory::Byte(from), Memory::Byte(to)) => {
                    to[target..target + length].copy_from_slice(&from[start..start + length]);
                }
                _ => {}
            }
        }
        self.memory[from.0] = source;
    }

    /// Moves ranges of elements of a slot, given as (from, to, length), one after the other. What lies on a device goes through
    /// the host for it.
    pub(crate) fn move_within(
        &mut self,
        slot: Slot,
        ranges: impl Iterator<Item = (usize, usize, usize)>,
    ) -> Result<()> {
        let memory = &mut self.memory[slot.0];
        if let Memory::Device(tensor, elements) = memory {
            return move_through_host(tensor, elements.size(), ranges);
        }
        for (start, target, length) in ranges {
            let range = start..start + length;
            match memory {
                Memory::Float(values) => values.copy_within(range, target),
                Memory::Half(values) => values.copy_within(range, target),
                Memory::Byte(values) => values.copy_within(range, target),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn bind_input(&mut self, name: &str, slot: Slot, shape: &[usize]) -> Result<Bind> {
        self.bind(name, Direction::Input, slot, shape)
    }

    /// Binds an output likewise. The slot may be bound as an input too, where the operator wants that.
    pub(crate) fn bind_output(&mut self, name: &str, slot: Slot, shape: &[usize]) -> Result<Bind> {
        self.bind(name, Direction::Output, slot, shape)
    }

    fn bind(&mut self, name: &str, direction: Direction, slot: Slot, shape: &[usize]) -> Result<Bind> {
        let name = CString::new(name).map_err(|_| Inner::Ort("a name holds a zero byte".to_owned()))?;
        self.bound.push(Bound {
            name,
            direction,
            slot,
        });
        let bind = Bind(self.bound.len() - 1);
        self.reshape(bind, shape)?;
        Ok(bind)
    }

    /// Binds a name again, to other memory.
    pub(crate) fn move_to(&mut self, bind: Bind, slot: Slot, shape: &[usize]) -> Result<()> {
        self.bound[bind.0].slot = slot;
        self.reshape(bind, shape)
    }

    /// Binds a name again, to the same memory seen in another shape. On a device this also copies an input's memory
    /// there again.
    pub(crate) fn reshape(&mut self, bind: Bind, shape: &[usize]) -> Result<()> {
        let Bound {
            name,
            direction,
            slot,
        } = &self.bound[bind.0];
        let view = self.memory[slot.0].view(shape)?;
        let value = view.0.as_ptr().cast_const();
        let io = self.io.ptr().cast_mut();
        #[expect(
            unsafe_code,
            reason = "the safe call copies borrowed memory, and refuses it as an output"
        )]
        // SAFETY: `io` is a live binding and `value` a live tensor. ONNX Runtime counts references to the tensor, and
        // its memory is owned by `self.memory`: it is not freed while bound (`release`), and outlives `io` (field order).
        let status = unsafe {
            match direction {
                Direction::Input => (ort::api().BindInput)(io, name.as_ptr(), value),
                Direction::Output => (ort::api().BindOutput)(io, name.as_ptr(), value),
            }
        };
        #[expect(unsafe_code, reason = "a status of the C interface is consumed by pointer")]
        // SAFETY: `status` was just returned by ONNX Runtime and is used once.
        unsafe { ort::Error::result_from_status(status) }.map_err(|e| Error::inference(self.graph, &e))
    }

    /// Runs the graph on what is bound.
    pub(crate) fn run(&mut self, session: &mut Session, options: &RunOptions) -> Result<()> {
        // The outputs stand in the memory; the returned list is empty.
        session
            .run_binding_with_options(&self.io, options)
            .map(drop)
            .map_err(|e| Error::inference(self.graph, &e))
    }
}

/// A tensor over memory that is not its own. The binding of Rust has none whose type is known only now.
struct View(NonNull<ort::sys::OrtValue>);

impl Drop for View {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "a value of the C interface is freed by pointer")]
        // SAFETY: the tensor was made by `view`, which gave it to this owner alone.
        unsafe {
            (ort::api().ReleaseValue)(self.0.as_ptr());
        }
    }
}

impl Memory {
    fn view(&mut self, shape: &[usize]) -> Result<View> {
        let host = MemoryInfo::default();
        let (data, capacity, elements, place) = match self {
            Self::Float(values) => (values.as_mut_ptr().cast(), values.len(), Elements::Float, &host),
            Self::Half(values) => (values.as_mut_ptr().cast(), values.len(), Elements::Half, &host),
            Self::Byte(values) => (values.as_mut_ptr().cast(), values.len(), Elements::Byte, &host),
            Self::Integer(values) => (values.as_mut_ptr().cast(), values.len(), Elements::Integer, &host),
            // Graphs do not write to what is bound as an input only.
            Self::Shared(tensor) => match &tensor.values {
                AdapterValues::Float(values) => (
                    values.as_ptr().cast_mut().cast(),
                    values.len(),
                    Elements::Float,
                    &host,
                ),
                AdapterValues::Half(values) => (
                    values.as_ptr().cast_mut().cast(),
                    values.len(),
                    Elements::Half,
                    &host,
                ),
            },
            Self::Device(tensor, elements) => {
                let capacity = tensor.shape().num_elements();
                (tensor.data_ptr_mut(), capacity, *elements, tensor.memory_info())
            }
            Self::Released => (std::ptr::null_mut(), 0, Elements::Float, &host),
        };
        let length: usize = shape.iter().product();
        if length > capacity {
            return Err(Inner::Ort(format!("{length} elements do not fit into {capacity}")).into());
        }
        let shape = dimensions(shape);
        let mut tensor = std::ptr::null_mut();
        #[expect(
            unsafe_code,
            reason = "past and present of the cache are one memory, which no reference can say"
        )]
        // SAFETY: `data` points to `capacity` elements of this type at `place`, of which the shape has no more. The
        // memory belongs to the `Binding`, which frees it, or its share of it, only after the tensor is unbound; what is shared is
        // bound as input alone (`bind_adapter_tensor`) and so never written to. The status is used once.
        unsafe {
            ort::Error::result_from_status((ort::api().CreateTensorWithDataAsOrtValue)(
                place.ptr(),
                data,
                length * elements.size(),
                shape.as_ptr(),
                shape.len(),
                elements.tensor_type().into(),
                &raw mut tensor,
            ))?;
        }
        let tensor = NonNull::new(tensor).ok_or_else(|| Inner::Ort("a tensor is missing".to_owned()))?;
        Ok(View(tensor))
    }
}

/// Moves ranges of elements of `size` bytes of a tensor that may lie on a device.
fn move_through_host(
    tensor: &mut DynTensor,
    size: usize,
    ranges: impl Iterator<Item = (usize, usize, usize)>,
) -> Result<()> {
    let mut host = tensor.to(AllocationDevice::CPU, 0)?;
    let bytes = host.shape().num_elements() * size;
    #[expect(unsafe_code, reason = "elements are moved whatever their type is")]
    // SAFETY: the tensor was just copied to the host, where it has so many bytes, and nobody else has it.
    let values = unsafe { std::slice::from_raw_parts_mut(host.data_ptr_mut().cast::<u8>(), bytes) };
    for (start, target, length) in ranges {
        values.copy_within(start * size..(start + length) * size, target * size);
    }
    Ok(host.copy_into(tensor)?)
}

fn dimensions(shape: &[usize]) -> Vec<i64> {
    shape.iter().map(|size| *size as i64).collect()
}
