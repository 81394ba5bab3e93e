//! The operator `com.microsoft.MatMulNBits` on processors, in place of ONNX Runtime's own: bundles keep the standard operator, and
//! here it is computed by `lwv-kernels`.
//!
//! What of the operator our exporter writes is computed: symmetric weights, a bias where there is one. All else is refused.

use std::sync::{Arc, Mutex, PoisonError};

use lwv_kernels::product::{Bits, BlockWeight, Multiplier, PackedWeight, Packing, Scratch};
use lwv_model::Target;
use ort::Error;
use ort::operator::{ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput};
use ort::value::{TensorElementType, TensorValueType, ValueRef};

use crate::bundle::Bundle;
use crate::huge_pages::HugePages;
use crate::operator_tensors::{given, optional, output};
use crate::provider::Device;
use crate::values::Values;

type Result<T> = ort::Result<T>;

/// Where inputs stand, as ONNX Runtime's documentation of the operator numbers them.
mod input {
    pub(super) const ROWS: usize = 0;
    pub(super) const CODES: usize = 1;
    pub(super) const SCALES: usize = 2;
    pub(super) const ZERO_POINTS: usize = 3;
    pub(super) const ORDER: usize = 4;
    pub(super) const BIAS: usize = 5;
}

/// The operator, where graphs of `bundle`, run on `device` with `threads` threads, have weights that are multiplied faster here.
pub(crate) fn of(bundle: &Bundle, device: Device, threads: usize) -> Option<MatMulNBits> {
    let quantization = bundle.manifest().quantization.as_ref()?;
    let supported = |bits| BlockWeight::supports(bits, quantization.block_size);
    let replaces = device == Device::Cpu
        && bundle.manifest().target == Target::Ort
        && [Bits::Four, Bits::Eight].into_iter().all(supported);
    let multiplier = Multiplier::new(threads).filter(|_| replaces)?;
    Some(MatMulNBits {
        multiplier,
        pages: HugePages::default(),
        scratch: Arc::default(),
    })
}

pub(crate) struct MatMulNBits {
    multiplier: Multiplier,
    pages: HugePages,
    /// Products are computed one after another, so they share it.
    scratch: Arc<Mutex<Scratch>>,
}

impl Operator for MatMulNBits {
    type Kernel<'attributes> = Product<'attributes>;

    fn name(&self) -> &str {
        "MatMulNBits"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::required(TensorElementType::Uint8),
            OperatorInput::required(TensorElementType::Float32),
            OperatorInput::optional(TensorElementType::Uint8),
            OperatorInput::optional(TensorElementType::Int32),
            OperatorInput::optional(TensorElementType::Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'attributes>(&self, node: &KernelContext<'attributes>) -> Result<Product<'attributes>> {
        let count = |name: &str| {
            let count = node
                .get::<i64>(name)
                .and_then(|count| usize::try_from(count).ok());
            count.ok_or_else(|| Error::new(format!("the node has no attribute `{name}`")))
        };
        let bits = match count("bits")? {
            4 => Bits::Four,
            8 => Bits::Eight,
            bits => {
                return Err(Error::new(format!(
                    "weights of {bits} bits are not computed here"
                )));
            }
        };
        let (block_size, shape) = (count("block_size")?, [count("N")?, count("K")?]);
        let codes: ValueRef<'_, TensorValueType<u8>> = node.constant_input(input::CODES)?;
        let scales: ValueRef<'_, TensorValueType<f32>> = node.constant_input(input::SCALES)?;
        let (_, codes) = codes.try_extract_tensor()?;
        let (_, scales) = scales.try_extract_tensor()?;
        let weight = BlockWeight::new(bits, block_size, shape, codes, scales).ok_or_else(|| {
            let (codes, scales) = (codes.len(), scales.len());
            Error::new(format!(
                "{codes} bytes of codes and {scales} scales of a weight of {shape:?}"
            ))
        })?;
        let packing = Packing::of(&weight);
        let numbers = Values::zeroed(packing.numbers(), Some(&self.pages));
        let mut numbers = numbers.map_err(|error| Error::new(error.to_string()))?;
        packing.pack(&weight, &mut numbers);
        Ok(Product {
            packing,
            numbers,
            bias: node.constant_input(input::BIAS).ok(),
            checked: false,
            multiplier: self.multiplier,
            scratch: Arc::clone(&self.scratch),
        })
    }
}

pub(crate) struct Product<'a> {
    packing: Packing,
    numbers: Values<u32>,
    bias: Option<ValueRef<'a, TensorValueType<f32>>>,
    /// Whether it is known that the node has no inputs that are not computed.
    checked: bool,
    multiplier: Multiplier,
    scratch: Arc<Mutex<Scratch>>,
}

impl Product<'_> {
    /// What optional inputs a node has is only told when it is computed.
    fn check(&mut self, context: &ComputeContext) -> Result<()> {
        let refused = [
            (input::ZERO_POINTS, "zero points"),
            (input::ORDER, "an order of inputs"),
            (input::BIAS, "a bias that is no constant"),
        ];
        for (index, what) in refused {
            let known = index == input::BIAS && self.bias.is_some();
            if !known && optional(context, index)?.is_some() {
                return Err(Error::new(format!("{what} of a product is not computed here")));
            }
        }
        self.checked = true;
        Ok(())
    }
}

impl Kernel for Product<'_> {
    fn compute(&mut self, context: &ComputeContext) -> Result<()> {
        if !self.checked {
            self.check(context)?;
        }
        let rows = given(context, input::ROWS)?;
        let [outputs, inputs] = self.packing.shape();
        let mut shape = rows.shape;
        match shape.last_mut() {
            Some(width) if *width == inputs as i64 => *width = outputs as i64,
            _ => {
                return Err(Error::new(format!(
                    "activations of {:?} for {:?}",
                    &shape[..],
                    self.packing.shape()
                )));
            }
        }
        let bias = self.bias.as_ref().map(|bias| bias.try_extract_tensor::<f32>());
        let bias = bias.transpose()?.map(|(_, bias)| bias);
        #[expect(unsafe_code, reason = "as operators have their outputs")]
        // SAFETY: the output was declared so, and is asked for once.
        let out = unsafe { output(context, 0, &shape)? };
        let weight = PackedWeight::new(self.packing, &self.numbers)
            .ok_or_else(|| Error::new("a weight lost numbers"))?;
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = Ok(());
        let mut tasks = |count, task: &(dyn Fn(usize) + Sync)| done = context.par_for(count, 0, task);
        self.multiplier
            .multiply(&weight, rows.values()?, bias, out, &mut scratch, &mut tasks);
        done
    }
}
