//! Makes a checkpoint out of a GGUF file of a Llama model, so that real weights that are only published so can be
//! trained on and exported.
//!
//! Weights are dequantized to f32. The rows of the query and key projections are put back into the order of
//! Hugging Face, the tokenizer is rebuilt from the file's metadata.

mod metadata;
mod names;
mod tokenizer;

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};

use crate::Error;
use metadata::Metadata;

/// Writes the checkpoint folder `out` from the GGUF file `path`. Every file appears whole or not at all; the weights
/// come last, so that a folder with weights is complete.
///
/// # Errors
/// A file that is no GGUF or of another architecture than `llama`, a missing metadata entry, a tensor of a type that
/// candle cannot read, a folder that cannot be written.
pub fn import(path: &Path, out: &Path) -> Result<(), Error> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(io)?);
    let content = Content::read(&mut reader).map_err(|e| gguf_error(path, e))?;
    let metadata = Metadata::new(path, &content.metadata);
    metadata.require_llama()?;
    let tied = !content.tensor_infos.contains_key("output.weight");
    std::fs::create_dir_all(out).map_err(|source| Error::Io {
        path: out.to_owned(),
        source,
    })?;
    write_json(&out.join("config.json"), &metadata.config(tied)?)?;
    write_json(
        &out.join("generation_config.json"),
        &metadata.generation_config()?,
    )?;
    write_json(&out.join("tokenizer_config.json"), &tokenizer::config(&metadata)?)?;
    write_json(&out.join("tokenizer.json"), &tokenizer::tokenizer(&metadata)?)?;
    let mut weights = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor = content
            .tensor(&mut reader, name, &Device::Cpu)
            .and_then(|quantized| quantized.dequantize(&Device::Cpu))
            .map_err(|e| gguf_error(path, format!("tensor `{name}`: {e}")))?;
        let renamed =
            names::hugging_face(name).ok_or_else(|| gguf_error(path, format!("unknown tensor `{name}`")))?;
        weights.insert(renamed, half_split(name, tensor, &metadata)?);
    }
    write_weights(&out.join("model.safetensors"), weights)
}

/// Undoes the row order of ggml's interleaved rotary embedding: row `2 i + j` of a head of size d was row
/// `j · d / 2 + i`.
fn half_split(name: &str, tensor: Tensor, metadata: &Metadata<'_>) -> Result<Tensor, Error> {
    let heads = if name.ends_with("attn_q.weight") {
        metadata.heads()?
    } else if name.ends_with("attn_k.weight") {
        metadata.key_value_heads()?
    } else {
        return Ok(tensor);
    };
    let (rows, columns) = tensor.dims2()?;
    let pairs = tensor.reshape((heads, rows / heads / 2, 2, columns))?;
    Ok(pairs.transpose(1, 2)?.contiguous()?.reshape((rows, columns))?)
}

fn write_weights(path: &Path, weights: HashMap<String, Tensor>) -> Result<(), Error> {
    let partial = path.with_extension("safetensors.partial");
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(weights, Some(metadata), &partial).map_err(|e| Error::Io {
        path: partial.clone(),
        source: std::io::Error::other(e),
    })?;
    publish(&partial, path)
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), Error> {
    let partial = path.with_extension("json.partial");
    std::fs::write(&partial, format!("{value:#}\n")).map_err(|source| Error::Io {
        path: partial.clone(),
        source,
    })?;
    publish(&partial, path)
}

/// Syncs a finished file and gives it its name.
fn publish(partial: &Path, path: &Path) -> Result<(), Error> {
    let sync = || File::open(partial)?.sync_all();
    sync()
        .and_then(|()| std::fs::rename(partial, path))
        .map_err(|source| Error::Io {
            path: path.to_owned(),
            source,
        })
}

pub(crate) fn gguf_error(path: &Path, message: impl ToString) -> Error {
    Error::Gguf {
        path: path.to_owned(),
        message: message.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::gguf_file::Value;

    #[test]
    fn query_rows_go_back_to_half_split() {
        let entries = HashMap::from([("llama.attention.head_count".to_owned(), Value::U32(1))]);
        let metadata = Metadata::new(Path::new("x.gguf"), &entries);
        let interleaved = Tensor::new(&[[0f32], [2.0], [1.0], [3.0]], &Device::Cpu).unwrap();
        let rows = half_split("blk.0.attn_q.weight", interleaved, &metadata).unwrap();
        assert_eq!(
            rows.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [0.0, 1.0, 2.0, 3.0]
        );
    }

    #[test]
    fn a_file_that_is_no_gguf_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, b"not a model").unwrap();
        let error = import(&path, &dir.path().join("out")).unwrap_err().to_string();
        assert!(error.contains("model.gguf"), "{error}");
    }
}
