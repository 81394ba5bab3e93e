use std::path::Path;
use std::sync::Arc;

use lwv_model::{AdaptedProduct, AdapterParameter, Dimension, ElementType, contract, read_adapter_file};

use crate::bundle::Bundle;
use crate::error::{Inner, Result};
use crate::file_hash::hash_bytes;

/// An adapter in memory, shared by all sessions that write with it.
///
/// ONNX Runtime can load such files itself, but runs with bound inputs take no notice of them, and it believes the shapes that a file
/// tells. An adapter's tensors are inputs like others, so they are bound like others.
pub(crate) struct Adapter {
    sha256: String,
    bytes: u64,
    tensors: Vec<Arc<AdapterTensor>>,
}

/// The value of one input.
pub(crate) struct AdapterTensor {
    pub(crate) name: String,
    pub(crate) dims: [usize; 2],
    pub(crate) values: AdapterValues,
}

/// Elements, aligned as their type is.
pub(crate) enum AdapterValues {
    Float(Vec<f32>),
    /// Bits of 16-bit floats.
    Half(Vec<u16>),
}

impl Adapter {
    /// Reads the file `path` and checks that it is for `bundle`.
    ///
    /// # Errors
    /// A bundle that takes no adapters; a file that is missing, damaged, or for another bundle.
    pub(crate) fn open(path: &Path, bundle: &Bundle) -> Result<Self> {
        let products = &bundle.manifest().adapted;
        if products.is_empty() {
            return Err(Inner::NoAdapterInputs {
                bundle: bundle.dir().to_owned(),
            }
            .into());
        }
        let bytes = std::fs::read(path).map_err(|source| Inner::ReadAdapter {
            path: path.to_owned(),
            source,
        })?;
        let parameters = read_adapter_file(&bytes).map_err(|source| Inner::AdapterFile {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            sha256: hash_bytes(&bytes),
            bytes: bytes.len() as u64,
            tensors: tensors(&parameters, products).map_err(|problem| Inner::AdapterMismatch {
                path: path.to_owned(),
                problem,
            })?,
        })
    }

    /// Hash of the file.
    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Bytes of the file, which are about those in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn tensors(&self) -> &[Arc<AdapterTensor>] {
        &self.tensors
    }
}

/// The parameters as inputs of the graph, or what is wrong with them.
fn tensors(
    parameters: &[AdapterParameter<'_>],
    products: &[AdaptedProduct],
) -> std::result::Result<Vec<Arc<AdapterTensor>>, String> {
    let find = |name: &str| parameters.iter().find(|parameter| parameter.name == name);
    let mut tensors = Vec::new();
    for product in products {
        let inputs = contract::adapter_inputs(std::slice::from_ref(product));
        let found: Vec<_> = inputs.iter().filter_map(|input| find(&input.name)).collect();
        let [a, b] = found.as_slice() else {
            match found.first() {
                None => continue,
                Some(alone) => return Err(format!("tensor `{}` has no counterpart", alone.name)),
            }
        };
        for (input, found) in inputs.iter().zip([a, b]) {
            if found.element_type != input.element_type {
                let (is, wanted) = (found.element_type, input.element_type);
                return Err(format!(
                    "tensor `{}` has type {is:?}, the graph takes {wanted:?}",
                    input.name
                ));
            }
            if !fits(&found.dims, &input.dims) {
                return Err(format!(
                    "tensor `{}` has shape {:?}, the graph's product is {} by {}",
                    input.name,
                    found.dims,
                    product.inputs,
                    product.outputs()
                ));
            }
        }
        if a.dims[1] != b.dims[0] || a.dims[1] == 0 {
            return Err(format!(
                "`{}` has ranks {} and {}",
                product.name, a.dims[1], b.dims[0]
            ));
        }
        tensors.extend([a, b].map(|parameter| Arc::new(AdapterTensor::of(parameter))));
    }
    let is_used = |parameter: &AdapterParameter<'_>| {
        let mut names = tensors.iter().map(|tensor| &tensor.name);
        names.any(|name| name == parameter.name)
    };
    match parameters.iter().find(|parameter| !is_used(parameter)) {
        Some(stray) => Err(format!("the graph has no input `{}`", stray.name)),
        None => Ok(tensors),
    }
}

/// Whether sizes are those that are fixed.
fn fits(sizes: &[usize], dims: &[Dimension]) -> bool {
    let agrees = |(size, dim): (&usize, &Dimension)| match dim {
        Dimension::Size(fixed) => size == fixed,
        Dimension::Symbol(_) => true,
    };
    sizes.len() == dims.len() && sizes.iter().zip(dims).all(agrees)
}

impl AdapterTensor {
    /// `parameter` has two dimensions, and is of floats.
    fn of(parameter: &AdapterParameter<'_>) -> Self {
        let values = match parameter.element_type {
            ElementType::Float16 => {
                let (halves, _) = parameter.data.as_chunks();
                AdapterValues::Half(halves.iter().map(|bits| u16::from_le_bytes(*bits)).collect())
            }
            _ => {
                let (floats, _) = parameter.data.as_chunks();
                AdapterValues::Float(floats.iter().map(|bits| f32::from_le_bytes(*bits)).collect())
            }
        };
        Self {
            name: parameter.name.to_owned(),
            dims: [parameter.dims[0], parameter.dims[1]],
            values,
        }
    }
}
