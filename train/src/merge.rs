use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use lwv_model::{Adapter, Checkpoint, ModelConfig, expected_weights};

use crate::recipe::SaveType;
use crate::{CheckpointWriter, Error, WeightSource};

/// Writes the checkpoint `out`: `checkpoint` with the LoRA in `adapter` added to its weights. One weight is in memory
/// at a time; `progress` gets bytes of weights, done since the last call and in all.
///
/// # Errors
/// A checkpoint or adapter that cannot be used or do not fit each other, a place that is taken, a full disk.
pub fn merge(
    checkpoint: &Path,
    adapter: &Path,
    out: &Path,
    save_type: SaveType,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let config = ModelConfig::from_dir(checkpoint)?;
    let base = Checkpoint::open(checkpoint)?;
    base.check(&config)?;
    let adapter = Adapter::open(adapter)?;
    adapter.check(&config)?;
    let merged = Merged {
        base: &base,
        adapter: &adapter,
        shapes: expected_weights(&config).into_iter().collect(),
    };
    let writer = CheckpointWriter::new(&base, &config).with_type(save_type);
    let total = writer.total_bytes()?;
    writer.write(out, &merged, &mut |bytes| progress(bytes, total))
}

/// The weights that an adapter updates; all others are the base's.
struct Merged<'a> {
    base: &'a Checkpoint,
    adapter: &'a Adapter,
    shapes: HashMap<String, Vec<usize>>,
}

impl WeightSource for Merged<'_> {
    fn weight(&self, name: &str) -> Result<Option<Cow<'_, [f32]>>, Error> {
        let Some(shape) = self.shapes.get(name) else {
            return Ok(None);
        };
        let Some(update) = self.adapter.update(name, shape)? else {
            return Ok(None);
        };
        let info = self.base.find(name, shape)?;
        let mut values = self.base.to_f32(&info)?;
        update.add_to(&mut values, 0);
        Ok(Some(values.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lwv_model::WeightNames;

    /// The merged weights of PEFT 0.21 (`tests/fixtures/adapter`).
    #[test]
    fn merged_weights_are_those_of_peft() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        for (adapter, base) in [("lora", "flat_f32"), ("rslora", "nested_f32")] {
            let dir = tempfile::tempdir().unwrap();
            let (out, adapter) = (dir.path().join("out"), fixtures.join("adapter").join(adapter));
            let base = fixtures.join("tiny").join(base);
            let mut done = 0;
            let mut progress = |bytes, total| {
                done += bytes;
                assert!(done <= total);
            };
            merge(&base, &adapter, &out, SaveType::Auto, &mut progress).unwrap();
            assert!(done > 0);
            let expected = Checkpoint::open_file(&adapter.join("expected.safetensors")).unwrap();
            let out = Checkpoint::open(&out).unwrap();
            let mut compared = 0;
            for name in expected.names() {
                let Some(weight) = name.strip_prefix("merged.") else {
                    continue;
                };
                let info = expected.info(name).unwrap();
                let got = out.find(&WeightNames::canonical(weight), &info.shape).unwrap();
                let (got, expected) = (out.to_f32(&got).unwrap(), expected.to_f32(&info).unwrap());
                assert!(
                    got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6),
                    "{name}"
                );
                compared += 1;
            }
            assert!(compared > 0);
        }
    }
}
