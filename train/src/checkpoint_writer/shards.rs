use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use lwv_model::{Checkpoint, ModelConfig, WeightNames, expected_weights};
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::WeightSource;
use super::elements::{CHUNK, encode};
use crate::Error;
use crate::recipe::SaveType;

/// One tensor that is written.
pub(super) struct Planned {
    /// Name in the files, the base's.
    name: String,
    /// The weight whose values it has, by canonical name; none for tensors that the model does not know.
    weight: Option<String>,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Planned {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn bytes(&self) -> u64 {
        (self.elements() * self.dtype.bitsize() / 8) as u64
    }
}

/// The tensors of one file, in their order in it.
#[derive(Default)]
pub(super) struct Shard(Vec<Planned>);

impl Shard {
    /// Bytes of its tensors.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(Planned::bytes).sum()
    }

    /// Longer elements first, so that every tensor is aligned to its own.
    fn align(&mut self) {
        self.0
            .sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bitsize()));
    }
}

/// Distributes the tensors of `base` over files of at most `shard_bytes`.
pub(super) fn plan(
    base: &Checkpoint,
    config: &ModelConfig,
    save_type: SaveType,
    shard_bytes: u64,
) -> Result<Vec<Shard>, Error> {
    let expected: HashMap<_, _> = expected_weights(config).into_iter().collect();
    let mut shards = vec![Shard::default()];
    let mut used = 0;
    for name in base.names() {
        let stored = base.view(name)?;
        let weight = weight_of(name, config).filter(|weight| expected.contains_key(weight));
        let dtype = match &weight {
            Some(_) => dtype(save_type).unwrap_or(stored.dtype()),
            None => stored.dtype(),
        };
        let tensor = Planned {
            name: name.to_owned(),
            weight,
            dtype,
            shape: stored.shape().to_vec(),
        };
        if used > 0 && used + tensor.bytes() > shard_bytes {
            shards.push(Shard::default());
            used = 0;
        }
        used += tensor.bytes();
        if let Some(last) = shards.last_mut() {
            last.0.push(tensor);
        }
    }
    shards.iter_mut().for_each(Shard::align);
    Ok(shards)
}

/// The weight whose values the tensor `name` has. A head that is stored although it is tied is the embedding.
fn weight_of(name: &str, config: &ModelConfig) -> Option<String> {
    let canonical = WeightNames::canonical(name);
    if canonical == "lm_head.weight" && config.text.tie_word_embeddings {
        return Some("model.embed_tokens.weight".to_owned());
    }
    Some(canonical)
}

fn dtype(save_type: SaveType) -> Option<Dtype> {
    match save_type {
        SaveType::Auto => None,
        SaveType::F32 => Some(Dtype::F32),
        SaveType::Bf16 => Some(Dtype::BF16),
        SaveType::F16 => Some(Dtype::F16),
    }
}

/// Name of file `index` of `count`, as transformers has it.
pub(super) fn file_name(index: usize, count: usize) -> String {
    if count == 1 {
        return "model.safetensors".to_owned();
    }
    format!("model-{:05}-of-{count:05}.safetensors", index + 1)
}

/// `model.safetensors.index.json`.
pub(super) fn index(shards: &[Shard]) -> Value {
    let total: u64 = shards.iter().map(Shard::bytes).sum();
    let files = shards
        .iter()
        .enumerate()
        .map(|(i, shard)| (file_name(i, shards.len()), shard));
    let mut names: Vec<(&str, String)> = files
        .flat_map(|(file, shard)| {
            shard
                .0
                .iter()
                .map(move |tensor| (tensor.name.as_str(), file.clone()))
        })
        .collect();
    names.sort_unstable();
    let map: Map<String, Value> = names
        .into_iter()
        .map(|(name, file)| (name.to_owned(), file.into()))
        .collect();
    json!({"metadata": {"total_size": total}, "weight_map": map})
}

/// Streams tensors into safetensors files.
pub(super) struct ShardWriter<'a> {
    pub(super) base: &'a Checkpoint,
    pub(super) source: &'a dyn WeightSource,
    pub(super) progress: &'a mut dyn FnMut(u64),
}

impl ShardWriter<'_> {
    /// Writes one file. It is synced with its folder.
    pub(super) fn write(&mut self, path: &Path, shard: &Shard) -> Result<(), Error> {
        let file = File::create(path).map_err(Error::io(path))?;
        let mut out = Output {
            path: path.to_owned(),
            file,
        };
        out.put(&header(shard)?)?;
        for tensor in &shard.0 {
            self.tensor(&mut out, tensor)?;
            (self.progress)(tensor.bytes());
        }
        Ok(())
    }

    fn tensor(&self, out: &mut Output, tensor: &Planned) -> Result<(), Error> {
        let Some(weight) = &tensor.weight else {
            return out.put(self.base.view(&tensor.name)?.data());
        };
        if let Some(values) = self.source.weight(weight)? {
            return out.values(tensor, &values);
        }
        let info = self.base.info(&tensor.name)?;
        if self.base.view(&tensor.name)?.dtype() == tensor.dtype {
            return self.base.read_bytes(&info, |bytes| out.put(bytes));
        }
        self.base.read_f32(&info, |values| out.elements(tensor, values))
    }
}

/// A file being written.
struct Output {
    path: PathBuf,
    file: File,
}

impl Output {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))
    }

    fn values(&mut self, tensor: &Planned, values: &[f32]) -> Result<(), Error> {
        if values.len() != tensor.elements() {
            let message = format!("has {} elements, its shape is {:?}", values.len(), tensor.shape);
            return Err(unwritable(tensor, message));
        }
        values
            .chunks(CHUNK)
            .try_for_each(|values| self.elements(tensor, values))
    }

    fn elements(&mut self, tensor: &Planned, values: &[f32]) -> Result<(), Error> {
        let mut bytes = Vec::new();
        if encode(values, tensor.dtype, &mut bytes) {
            let message = format!("has values too large for {:?}; save as f32", tensor.dtype);
            return Err(unwritable(tensor, message));
        }
        self.put(&bytes)
    }
}

fn unwritable(tensor: &Planned, message: String) -> Error {
    Error::Weight {
        name: tensor.name.clone(),
        message,
    }
}

/// Length and JSON of the format's header, padded to 8 bytes.
fn header(shard: &Shard) -> Result<Vec<u8>, Error> {
    let mut fields = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut end = 0;
    for tensor in &shard.0 {
        let start = end;
        end += tensor.bytes();
        let dtype = tensor.dtype.to_string();
        let entry = json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        fields.insert(tensor.name.clone(), entry);
    }
    let mut text = Value::Object(fields).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    Ok(bytes)
}
