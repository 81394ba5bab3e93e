//! A LoRA in PEFT layout to a file that a bundle reads when it runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lwv_model::{
    AdaptedProduct, Adapter, AdapterParameter, CheckpointError, ElementType, LowRank, Manifest, ModelConfig,
    contract, write_adapter_file,
};
use serde::Serialize;

use crate::Error;
use crate::weights::narrow;

/// What a conversion wrote.
#[derive(Debug, Clone, Serialize)]
pub struct ConvertedAdapter {
    /// The file.
    pub file: PathBuf,
    /// Its size.
    pub bytes_written: u64,
    /// Linear layers that the adapter updates.
    pub linear_layers: usize,
}

/// Converts the adapter in the folder `adapter` into `file`, for the bundle in the folder `bundle`: by the types of its graph, and
/// by which of its linear layers are one product. The scale, `alpha / r` or that of rsLoRA, becomes part of B.
///
/// # Errors
/// A bundle without inputs for adapters; an adapter that cannot be read, is no plain LoRA, updates a weight that the bundle does not
/// have or cannot update, has another shape, or is too large for 16 bits; a file that cannot be written. The text names file and
/// tensor.
pub fn convert_adapter(adapter: &Path, bundle: &Path, file: &Path) -> Result<ConvertedAdapter, Error> {
    let manifest = Manifest::from_dir(bundle)?;
    if manifest.adapted.is_empty() {
        return Err(Error::NoAdapterInputs(bundle.to_owned()));
    }
    let adapter = Adapter::open(adapter)?;
    adapter.check(&ModelConfig::from_dir(bundle)?)?;
    check_modules(&adapter, &manifest.adapted)?;
    let mut factors = Vec::new();
    for product in &manifest.adapted {
        if let Some(updates) = Updates::of(product, &adapter)? {
            factors.extend(updates.factors(adapter.path())?);
        }
    }
    let parameters: Vec<_> = factors.iter().map(Factor::parameter).collect();
    let bytes = write_adapter_file(&parameters).map_err(|source| Error::AdapterFile {
        path: file.to_owned(),
        source,
    })?;
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    Ok(ConvertedAdapter {
        bytes_written: lwv_onnx::write_atomically(file, &bytes)?.bytes,
        file: file.to_owned(),
        linear_layers: adapter.updates().count(),
    })
}

/// Checks that every update is of a linear layer that the bundle can update.
fn check_modules(adapter: &Adapter, products: &[AdaptedProduct]) -> Result<(), Error> {
    let linears = products.iter().flat_map(|product| &product.linears);
    let known: BTreeSet<String> = linears.map(|linear| weight(&linear.name)).collect();
    match adapter.updates().find(|(name, _)| !known.contains(*name)) {
        Some((name, _)) => Err(unusable(
            adapter.path(),
            format!(
                "the bundle takes no update of `{name}` when it runs; merge the adapter with lwv-export's --adapter"
            ),
        )),
        None => Ok(()),
    }
}

fn weight(linear: &str) -> String {
    format!("{linear}.weight")
}

fn unusable(path: &Path, message: String) -> Error {
    let path = path.to_owned();
    CheckpointError::Adapter { path, message }.into()
}

/// An adapter's updates of one product.
struct Updates<'a> {
    product: &'a AdaptedProduct,
    /// Those of linear layers that have one, each with its first output.
    parts: Vec<(usize, &'a LowRank)>,
    /// Sum of their ranks.
    rank: usize,
}

impl<'a> Updates<'a> {
    /// `None` where the adapter does not change the product.
    fn of(product: &'a AdaptedProduct, adapter: &'a Adapter) -> Result<Option<Self>, Error> {
        let (mut parts, mut output) = (Vec::new(), 0);
        for linear in &product.linears {
            if let Some(update) = adapter.update(&weight(&linear.name), &[linear.outputs, product.inputs])? {
                parts.push((output, update));
            }
            output += linear.outputs;
        }
        let rank = parts.iter().map(|(_, update)| update.rank()).sum();
        Ok((!parts.is_empty()).then_some(Self { product, parts, rank }))
    }

    /// A and B as [`contract::adapter_inputs`] describes them.
    fn factors(&self, path: &Path) -> Result<[Factor; 2], Error> {
        let (inputs, outputs) = (self.product.inputs, self.product.outputs());
        let mut a = vec![0.0; inputs * self.rank];
        let mut b = vec![0.0; self.rank * outputs];
        let mut first_rank = 0;
        for (first_output, update) in &self.parts {
            for (r, row) in update.a().chunks_exact(inputs).enumerate() {
                for (input, value) in row.iter().enumerate() {
                    a[input * self.rank + first_rank + r] = *value;
                }
            }
            for (output, row) in update.b().chunks_exact(update.rank()).enumerate() {
                for (r, value) in row.iter().enumerate() {
                    b[(first_rank + r) * outputs + first_output + output] = update.scale() * value;
                }
            }
            first_rank += update.rank();
        }
        let (name, element) = (&self.product.name, self.product.element_type);
        Ok([
            Factor::new(contract::lora_a(name), [inputs, self.rank], &a, element, path)?,
            Factor::new(contract::lora_b(name), [self.rank, outputs], &b, element, path)?,
        ])
    }
}

/// One matrix of the file.
struct Factor {
    name: String,
    dims: [usize; 2],
    element: ElementType,
    bytes: Vec<u8>,
}

impl Factor {
    fn new(
        name: String,
        dims: [usize; 2],
        values: &[f32],
        element: ElementType,
        path: &Path,
    ) -> Result<Self, Error> {
        let mut bytes = Vec::with_capacity(values.len() * element.size());
        if element == ElementType::Float16 {
            let mut halves = Vec::new();
            narrow(values, &mut halves, &mut bytes);
            if halves.iter().any(|half| half.is_infinite()) {
                let message = format!("`{name}` does not fit into 16 bits; use a bundle in f32");
                return Err(unusable(path, message));
            }
        } else {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
        Ok(Self {
            name,
            dims,
            element,
            bytes,
        })
    }

    fn parameter(&self) -> AdapterParameter<'_> {
        AdapterParameter {
            name: &self.name,
            element_type: self.element,
            dims: self.dims.to_vec(),
            data: &self.bytes,
        }
    }
}
