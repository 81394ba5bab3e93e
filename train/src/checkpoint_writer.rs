mod elements;
mod shards;
mod side_files;

use std::borrow::Cow;
use std::path::Path;

use lwv_model::{Checkpoint, ModelConfig};

use crate::recipe::SaveType;
use crate::{Error, Staging};
use shards::{ShardWriter, plan};

/// Where the values of a checkpoint that is written come from, one tensor at a time.
pub trait WeightSource {
    /// Elements of the weight with the canonical `name`, row-major, or nothing where it is as in the base checkpoint.
    ///
    /// # Errors
    /// What reading the values says.
    fn weight(&self, name: &str) -> Result<Option<Cow<'_, [f32]>>, Error>;
}

/// Writes checkpoints that differ from a base checkpoint in the values of weights only: names, layout, tensors that
/// the model does not know and all side files are the base's. One tensor is in memory at a time.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointWriter<'a> {
    base: &'a Checkpoint,
    config: &'a ModelConfig,
    save_type: SaveType,
    shard_bytes: u64,
}

impl<'a> CheckpointWriter<'a> {
    /// Largest file of weights by default, as in transformers before version 5.
    pub const SHARD_BYTES: u64 = 5_000_000_000;

    /// A writer for checkpoints like `base`, whose configuration is `config`, in the types of `base`.
    pub fn new(base: &'a Checkpoint, config: &'a ModelConfig) -> Self {
        Self {
            base,
            config,
            save_type: SaveType::Auto,
            shard_bytes: Self::SHARD_BYTES,
        }
    }

    /// The same with weights in the given type.
    #[must_use]
    pub fn with_type(self, save_type: SaveType) -> Self {
        Self { save_type, ..self }
    }

    /// The same with files of at most `bytes` of weights, but of one tensor at least.
    #[must_use]
    pub fn with_shard_bytes(self, bytes: u64) -> Self {
        Self {
            shard_bytes: bytes,
            ..self
        }
    }

    /// Bytes of all weights of a checkpoint that this writes.
    ///
    /// # Errors
    /// As [`Checkpoint::check`].
    pub fn total_bytes(&self) -> Result<u64, Error> {
        let shards = plan(self.base, self.config, self.save_type, self.shard_bytes)?;
        Ok(shards.iter().map(shards::Shard::bytes).sum())
    }

    /// Writes the checkpoint `out`, whole or not at all; `progress` gets the bytes of weights as they are written.
    ///
    /// # Errors
    /// As [`Self::stage`] and [`Staging::commit`].
    pub fn write(
        &self,
        out: &Path,
        source: &dyn WeightSource,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        self.stage(out, source, progress)?.commit()
    }

    /// As [`Self::write`], without giving the folder its place, so that a trainer can put its state beside the weights.
    ///
    /// # Errors
    /// A base that does not fit its configuration, a weight of the wrong size or too large for 16 bits, a place that
    /// is taken, a full disk. What was written is removed.
    pub fn stage(
        &self,
        out: &Path,
        source: &dyn WeightSource,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Staging, Error> {
        self.base.check(self.config)?;
        let shards = plan(self.base, self.config, self.save_type, self.shard_bytes)?;
        let staging = Staging::create(out)?;
        side_files::copy(self.base.dir(), staging.folder())?;
        side_files::write_config(self.base.dir(), staging.folder(), self.save_type)?;
        let mut writer = ShardWriter {
            base: self.base,
            source,
            progress,
        };
        for (index, shard) in shards.iter().enumerate() {
            let name = shards::file_name(index, shards.len());
            writer.write(&staging.folder().join(name), shard)?;
        }
        if shards.len() > 1 {
            let index = shards::index(&shards);
            let path = staging.folder().join("model.safetensors.index.json");
            std::fs::write(&path, format!("{index:#}\n")).map_err(Error::io(&path))?;
        }
        Ok(staging)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    use serde_json::json;

    struct Unchanged;

    impl WeightSource for Unchanged {
        fn weight(&self, _: &str) -> Result<Option<Cow<'_, [f32]>>, Error> {
            Ok(None)
        }
    }

    /// Every weight as f32, as a trainer has it.
    struct Widened<'a>(&'a Checkpoint, ModelConfig);

    impl WeightSource for Widened<'_> {
        fn weight(&self, name: &str) -> Result<Option<Cow<'_, [f32]>>, Error> {
            let weights = lwv_model::expected_weights(&self.1);
            let (_, shape) = weights.iter().find(|(known, _)| known == name).unwrap();
            Ok(Some(self.0.to_f32(&self.0.find(name, shape)?)?.into()))
        }
    }

    struct Ones<'a>(&'a ModelConfig);

    impl WeightSource for Ones<'_> {
        fn weight(&self, name: &str) -> Result<Option<Cow<'_, [f32]>>, Error> {
            let weights = lwv_model::expected_weights(self.0);
            let shape = weights
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, shape)| shape);
            Ok(Some(vec![1.0; shape.unwrap().iter().product()].into()))
        }
    }

    fn fixtures() -> impl Iterator<Item = PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny");
        std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
    }

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/fixtures/tiny")
            .join(name)
    }

    fn assert_same_weights(a: &Checkpoint, b: &Checkpoint) {
        assert!(a.names().eq(b.names()));
        for name in a.names() {
            let (left, right) = (a.info(name).unwrap(), b.info(name).unwrap());
            assert_eq!((left.stored, &left.shape), (right.stored, &right.shape), "{name}");
            assert!(a.bytes(&left) == b.bytes(&right), "{name}");
        }
    }

    #[test]
    fn every_layout_comes_back_bit_by_bit_in_one_file_or_many() {
        for base_dir in fixtures() {
            let dir = tempfile::tempdir().unwrap();
            let base = Checkpoint::open(&base_dir).unwrap();
            let config = ModelConfig::from_dir(&base_dir).unwrap();
            let sources: [&dyn WeightSource; 2] = [&Unchanged, &Widened(&base, config.clone())];
            for (source, shard_bytes) in sources.into_iter().zip([CheckpointWriter::SHARD_BYTES, 50_000]) {
                let out = dir.path().join("out");
                let writer = CheckpointWriter::new(&base, &config).with_shard_bytes(shard_bytes);
                let mut written = 0;
                writer.write(&out, source, &mut |bytes| written += bytes).unwrap();
                assert_eq!(written, writer.total_bytes().unwrap());
                assert_same_weights(&base, &Checkpoint::open(&out).unwrap());
                assert_eq!(ModelConfig::from_dir(&out).unwrap(), config);
                assert!(out.join("tokenizer.json").exists());
                let sharded = out.join("model.safetensors.index.json").exists();
                assert_eq!(sharded, shard_bytes == 50_000);
                assert_eq!(out.join("model.safetensors").exists(), !sharded);
            }
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn another_type_is_named_in_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let base_dir = fixture("nested_f32");
        let base = Checkpoint::open(&base_dir).unwrap();
        let config = ModelConfig::from_dir(&base_dir).unwrap();
        let writer = CheckpointWriter::new(&base, &config).with_type(SaveType::Bf16);
        writer
            .write(&dir.path().join("out"), &Unchanged, &mut |_| ())
            .unwrap();
        let out = Checkpoint::open(&dir.path().join("out")).unwrap();
        let name = out.names().next().unwrap();
        assert_eq!(out.info(name).unwrap().stored, lwv_model::StoredType::BF16);
        let text = std::fs::read_to_string(dir.path().join("out/config.json")).unwrap();
        assert!(
            text.contains("\"bfloat16\"") && !text.contains("\"float32\""),
            "{text}"
        );
    }

    #[test]
    fn a_failure_leaves_the_old_checkpoint_and_nothing_else() {
        struct Short;
        impl WeightSource for Short {
            fn weight(&self, _: &str) -> Result<Option<Cow<'_, [f32]>>, Error> {
                Ok(Some(vec![0.0].into()))
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let base_dir = fixture("llama");
        let base = Checkpoint::open(&base_dir).unwrap();
        let config = ModelConfig::from_dir(&base_dir).unwrap();
        let writer = CheckpointWriter::new(&base, &config);
        writer.write(&out, &Unchanged, &mut |_| ()).unwrap();
        let error = writer.write(&out, &Short, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains("has 1 elements"), "{error}");
        assert_same_weights(&base, &Checkpoint::open(&out).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn tensors_beside_the_model_are_copied_and_a_stored_tied_head_is_the_embedding() {
        let dir = tempfile::tempdir().unwrap();
        let base_dir = dir.path().join("base");
        std::fs::create_dir(&base_dir).unwrap();
        let fields = json!({"model_type": "qwen2", "hidden_size": 8, "intermediate_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 3,
            "max_position_embeddings": 64, "tie_word_embeddings": true});
        std::fs::write(base_dir.join("config.json"), fields.to_string()).unwrap();
        let config = ModelConfig::from_value(&fields).unwrap();
        let zeros = [0; 1024];
        let view = |dtype: Dtype, shape: Vec<usize>| {
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            TensorView::new(dtype, shape, &zeros[..bytes]).unwrap()
        };
        let mut tensors: Vec<_> = lwv_model::expected_weights(&config)
            .into_iter()
            .map(|(name, shape)| (name, view(Dtype::F32, shape)))
            .collect();
        tensors.push(("lm_head.weight".into(), view(Dtype::F32, vec![3, 8])));
        tensors.push(("model.position_ids".into(), view(Dtype::I64, vec![2])));
        safetensors::serialize_to_file(tensors, None, &base_dir.join("model.safetensors")).unwrap();
        let base = Checkpoint::open(&base_dir).unwrap();
        let out = dir.path().join("out");
        let writer = CheckpointWriter::new(&base, &config).with_type(SaveType::Bf16);
        writer.write(&out, &Ones(&config), &mut |_| ()).unwrap();
        let out = Checkpoint::open(&out).unwrap();
        assert!(out.names().eq(base.names()));
        let data = |name: &str| out.view(name).unwrap().data().to_vec();
        assert_eq!(data("lm_head.weight"), data("model.embed_tokens.weight"));
        assert_eq!(data("model.norm.weight"), [0x80, 0x3f].repeat(8));
        assert_eq!(out.view("model.position_ids").unwrap().dtype(), Dtype::I64);
    }

    /// A device that is always full stands in for the disk.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let base_dir = fixture("llama");
        let base = Checkpoint::open(&base_dir).unwrap();
        let config = ModelConfig::from_dir(&base_dir).unwrap();
        let shards = plan(&base, &config, SaveType::Auto, u64::MAX).unwrap();
        let mut writer = ShardWriter {
            base: &base,
            source: &Unchanged,
            progress: &mut |_| (),
        };
        let error = writer.write(Path::new("/dev/full"), &shards[0]).unwrap_err();
        assert!(error.to_string().contains("/dev/full"), "{error}");
    }
}
