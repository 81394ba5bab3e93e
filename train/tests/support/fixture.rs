#![allow(dead_code, reason = "no test uses all of it")]
#![allow(clippy::print_stdout, reason = "how far off things are is worth knowing")]

use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use lwv_data::IGNORED;
use lwv_model::{Checkpoint, ModelConfig, WeightNames, expected_weights};
use lwv_processor::{Patches, Processor, open_image};
use lwv_train::{
    AdamW, AdamWSettings, AdapterSettings, AdapterWriter, Batch, LearningRates, Lora, LoraUpdate, Model,
    Selection, Sequence, factor_names, open_device, trained,
};
use serde::Deserialize;
use serde_json::Value;

/// A folder of references, with the checkpoint that it starts from.
pub(crate) struct Fixture {
    pub(crate) samples: Vec<Sample>,
    expected: Value,
    tensors: Checkpoint,
    config: ModelConfig,
    checkpoint: Checkpoint,
    dir: PathBuf,
}

#[derive(Deserialize)]
pub(crate) struct Sample {
    pub(crate) input_ids: Vec<u32>,
    pub(crate) labels: Vec<i64>,
    #[serde(default)]
    pub(crate) position_ids: Vec<Vec<i64>>,
    #[serde(skip)]
    images: Vec<Patches>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

impl Fixture {
    /// References of full fine-tuning of the tiny checkpoint `case`.
    pub(crate) fn tiny(case: &str) -> Self {
        Self::load(
            root().join("sft").join(case),
            &root().join("tiny").join(case),
            case,
        )
    }

    /// References of the adapter `name`.
    pub(crate) fn adapter(name: &str) -> Self {
        let dir = root().join("sft/lora").join(name);
        let base = read(&dir.join("expected.json"))["base"]
            .as_str()
            .unwrap()
            .to_owned();
        let case = base.rsplit('/').next().unwrap().to_owned();
        Self::load(dir, &root().join(base), &case)
    }

    /// SmolLM2's checkpoint.
    pub(crate) fn smollm2_checkpoint() -> PathBuf {
        let base = root().join("../../.cache/smollm2");
        assert!(
            base.join("model.safetensors").exists(),
            "run scripts/check, which makes {}",
            base.display()
        );
        base
    }

    /// References of SmolLM2, `name` being the folder's.
    pub(crate) fn smollm2(name: &str) -> Self {
        let base = Self::smollm2_checkpoint();
        Self::load(root().join("sft").join(name), &base, "smollm2")
    }

    fn load(dir: PathBuf, base: &Path, case: &str) -> Self {
        let samples = read(&root().join("sft").join(case).join("expected.json"))["samples"].take();
        let mut samples: Vec<Sample> = serde_json::from_value(samples).unwrap();
        let processor = Processor::from_dir(base).unwrap();
        let file = if case == "smollm2" {
            "sft/text.jsonl"
        } else {
            "sft/tiny.jsonl"
        };
        let conversations = std::fs::read_to_string(root().join(file)).unwrap();
        for (sample, line) in samples.iter_mut().zip(conversations.lines()) {
            let line: Value = serde_json::from_str(line).unwrap();
            let images = line["images"].as_array().cloned().unwrap_or_default();
            sample.images = images
                .iter()
                .map(|image| {
                    let picture = open_image(&root().join(image.as_str().unwrap())).unwrap();
                    processor.image_processor().unwrap().process(&picture).unwrap()
                })
                .collect();
        }
        Self {
            samples,
            expected: read(&dir.join("expected.json")),
            tensors: Checkpoint::open_file(&dir.join("expected.safetensors")).unwrap(),
            config: ModelConfig::from_dir(base).unwrap(),
            checkpoint: Checkpoint::open(base).unwrap(),
            dir,
        }
    }

    /// What the adapter's own configuration selects.
    pub(crate) fn lora(&self) -> Selection {
        let config = read(&self.dir.join("adapter_config.json"));
        // A pattern stands for every linear layer of the language model.
        let targets = config["target_modules"].as_array().map_or_else(
            || vec!["all".to_owned()],
            |names| {
                names
                    .iter()
                    .map(|name| name.as_str().unwrap().to_owned())
                    .collect()
            },
        );
        Selection {
            // Its targets stand in the vision tower too, but only the language model's were updated.
            frozen: vec![lwv_train::Part::VisionTower, lwv_train::Part::Projector],
            lora: Some(Lora {
                rank: config["r"].as_u64().unwrap() as usize,
                alpha: config["lora_alpha"].as_f64().unwrap(),
                rslora: config["use_rslora"].as_bool().unwrap(),
                targets,
                seed: 0,
                start: Some(self.dir.clone()),
            }),
        }
    }

    /// The fixture's model on the device and in the type that `LWV_TEST_DEVICE` and `LWV_TEST_DTYPE` name: the CPU and
    /// f32 if they name none.
    pub(crate) fn model(&self, selection: &Selection, recompute: bool) -> Model {
        let device = open_device(&variable("LWV_TEST_DEVICE", "cpu")).unwrap();
        let dtype = if is_brief() { DType::BF16 } else { DType::F32 };
        let parameters = selection
            .load(&self.checkpoint, &self.config, &device, dtype)
            .unwrap();
        Model::new(self.config.clone(), parameters, device, dtype, recompute)
    }

    pub(crate) fn batch(&self, samples: &[usize]) -> Batch {
        self.padded_batch(samples, 0)
    }

    /// The samples with `padding` more tokens each that nothing is learned from.
    pub(crate) fn padded_batch(&self, samples: &[usize], padding: usize) -> Batch {
        let padded: Vec<(Vec<u32>, Vec<i64>, &[Patches])> = samples
            .iter()
            .map(|&i| {
                let sample = &self.samples[i];
                let ids = [sample.input_ids.clone(), vec![5; padding]].concat();
                let labels = [sample.labels.clone(), vec![IGNORED; padding]].concat();
                (ids, labels, sample.images.as_slice())
            })
            .collect();
        let sequences = padded.iter().map(|(input_ids, labels, images)| Sequence {
            input_ids,
            labels,
            images,
        });
        Batch::new(&self.config, sequences).unwrap()
    }

    /// Compares loss and gradients of the recorded batch.
    pub(crate) fn check_gradients(&self, model: &Model, key: &str) {
        let expected = &self.expected[key];
        let samples: Vec<usize> = serde_json::from_value(expected["samples"].clone()).unwrap();
        let batch = self.batch(&samples);
        assert_eq!(batch.supervised() as u64, expected["tokens"].as_u64().unwrap());
        let loss = model.learn(&batch, 1.0 / batch.supervised() as f64).unwrap();
        let difference = (loss - expected["loss"].as_f64().unwrap()).abs();
        assert!(difference < bound(1e-5, 5e-2), "loss: {difference}");
        let mut worst: f64 = 0.0;
        for parameter in trained(model.parameters()) {
            let want = self.tensor("grad", parameter.name());
            let gradient = parameter.gradient().unwrap().get();
            let got = values(&gradient.unwrap_or_else(|| panic!("`{}` has no gradient", parameter.name())));
            assert!(want.iter().any(|value| *value != 0.0), "{}", parameter.name());
            let distance = relative_distance(&thinned(&got, want.len()), &want);
            assert!(distance < bound(1e-4, 2e-1), "{}: {distance}", parameter.name());
            worst = worst.max(distance);
            self.check_norm(expected, parameter.name(), &got);
        }
        let count = trained(model.parameters()).count();
        let recorded = self
            .tensors
            .names()
            .filter(|name| name.starts_with("grad."))
            .count();
        assert_eq!(count, recorded);
        println!(
            "{}: loss off by {difference:.1e}, worst gradient by {worst:.1e}",
            self.dir.display()
        );
    }

    /// Compares the norm of a gradient, where it was recorded because the gradient itself was thinned.
    fn check_norm(&self, expected: &Value, name: &str, gradient: &[f32]) {
        let norms = expected["gradient_norms"].as_object();
        let Some(norm) =
            norms.and_then(|norms| norms.iter().find(|(recorded, _)| canonical(recorded) == name))
        else {
            return;
        };
        let got = gradient.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let difference = (got / norm.1.as_f64().unwrap() - 1.0).abs();
        assert!(difference < bound(1e-4, 1e-1), "norm of {name}: {difference}");
    }

    /// The LoRA that the references of SmolLM2 start from, written to `dir`.
    pub(crate) fn hashed_lora(&self, dir: &Path) -> Selection {
        let base = root().join("../../.cache/smollm2");
        Selection {
            frozen: vec![],
            lora: Some(write_hashed_lora(&base, &self.expected["adapter"], dir)),
        }
    }

    /// Compares the weights after the last step.
    pub(crate) fn check_final(&self, model: &Model) {
        let (mut squares, mut total) = (0.0, 0.0);
        for parameter in trained(model.parameters()) {
            let want = self.tensor("final", parameter.name());
            let got = thinned(&values(&parameter.exact()), want.len());
            let distance = relative_distance(&got, &want);
            assert!(distance < bound(1e-4, 2e-1), "{}: {distance}", parameter.name());
            squares += got
                .iter()
                .zip(&want)
                .map(|(a, b)| f64::from(a - b).powi(2))
                .sum::<f64>();
            total += want.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>();
        }
        println!(
            "{}: final weights off by {:.1e}",
            self.dir.display(),
            (squares / total).sqrt()
        );
    }

    /// The recorded tensor `<kind>.<name>`, whatever layout its name is in.
    fn tensor(&self, kind: &str, name: &str) -> Vec<f32> {
        let is_wanted = |recorded: &&str| {
            let Some(rest) = recorded
                .strip_prefix(kind)
                .and_then(|rest| rest.strip_prefix('.'))
            else {
                return false;
            };
            canonical(rest) == name
        };
        let recorded = self.tensors.names().find(is_wanted);
        let recorded = recorded.unwrap_or_else(|| panic!("no `{kind}` of `{name}` was recorded"));
        self.tensors
            .to_f32(&self.tensors.info(recorded).unwrap())
            .unwrap()
    }
}

/// Writes the LoRA that `adapter` describes: element i of the k-th factor follows from a hash (tests/fixtures/README.md).
pub(crate) fn write_hashed_lora(base: &Path, adapter: &Value, dir: &Path) -> Lora {
    let config = ModelConfig::from_dir(base).unwrap();
    let rank = adapter["rank"].as_u64().unwrap() as usize;
    let targets: Vec<String> = serde_json::from_value(adapter["target_modules"].clone()).unwrap();
    let lora = Lora {
        rank,
        alpha: adapter["alpha"].as_f64().unwrap(),
        rslora: false,
        targets,
        seed: 0,
        start: Some(dir.to_owned()),
    };
    let layers: Vec<(String, Vec<usize>)> = expected_weights(&config)
        .into_iter()
        .filter(|(name, shape)| lora.covers(name, shape))
        .collect();
    let mut names: Vec<String> = layers.iter().flat_map(|(name, _)| factor_names(name)).collect();
    names.sort();
    let shift = adapter["salt_shift"].as_u64().unwrap();
    let factor = |name: &str, kind: &str, size: usize| -> Vec<f32> {
        let place = names.iter().position(|known| known == name).unwrap() as u32;
        let spread = adapter["spread"][kind].as_f64().unwrap() as f32;
        (0..size as u32)
            .map(|i| {
                let hashed = f64::from(hash((place << shift).wrapping_add(i)));
                (hashed / f64::from(1u32 << 31) - 1.0) as f32 * spread
            })
            .collect()
    };
    let updates: Vec<LoraUpdate<'_>> = layers
        .iter()
        .map(|(name, shape)| {
            let [a, b] = factor_names(name);
            LoraUpdate {
                weight: name.clone(),
                a: factor(&a, "lora_A", rank * shape[1]).into(),
                b: factor(&b, "lora_B", shape[0] * rank).into(),
            }
        })
        .collect();
    let settings = AdapterSettings {
        base_model: "SmolLM2".into(),
        rank,
        alpha: lora.alpha,
        use_rslora: false,
    };
    AdapterWriter::new(&config, &settings)
        .write(dir, &updates)
        .unwrap();
    lora
}

/// Recorded steps, run again.
pub(crate) struct Run<'a> {
    fixture: &'a Fixture,
    model: &'a Model,
    trajectory: &'a Value,
}

impl<'a> Run<'a> {
    pub(crate) fn new(fixture: &'a Fixture, model: &'a Model, section: &str) -> Self {
        let section = if section.is_empty() {
            &fixture.expected
        } else {
            &fixture.expected[section]
        };
        Self {
            fixture,
            model,
            trajectory: &section["trajectory"],
        }
    }

    pub(crate) fn check_steps(&self) {
        let recipe = &self.trajectory["recipe"];
        let number = |key: &str| recipe[key].as_f64().unwrap();
        let count = |key: &str| recipe[key].as_u64().unwrap() as usize;
        let settings = AdamWSettings {
            beta1: number("beta1"),
            beta2: number("beta2"),
            epsilon: number("epsilon"),
            weight_decay: number("weight_decay"),
        };
        let parameters = trained(self.model.parameters()).cloned().collect();
        let mut optimizer = AdamW::new(settings, parameters, None).unwrap();
        let (micro, accumulation) = (count("micro_batch"), count("accumulation"));
        let (mut worst_loss, mut worst_norm): (f64, f64) = (0.0, 0.0);
        for step in 0..count("steps") {
            let (mut loss, mut tokens) = (0.0, 0);
            for batch in 0..accumulation {
                let first = (step * accumulation + batch) * micro;
                let samples: Vec<usize> = (first..first + micro)
                    .map(|i| i % self.fixture.samples.len())
                    .collect();
                let batch = self.fixture.batch(&samples);
                loss += self.model.learn(&batch, 1.0).unwrap();
                tokens += batch.supervised();
            }
            let scale = 1.0 / tokens as f64;
            let norm = optimizer.gradient_norm().unwrap() * scale;
            let expected = |key: &str| self.trajectory[key][step].as_f64().unwrap();
            assert_eq!(tokens as f64, expected("tokens"));
            worst_loss = worst_loss.max((loss * scale - expected("loss")).abs());
            worst_norm = worst_norm.max((norm / expected("gradient_norm") - 1.0).abs());
            assert!(
                worst_loss < bound(1e-4, 1e-1),
                "step {step}: loss off by {worst_loss}"
            );
            assert!(
                worst_norm < bound(1e-3, 1.0),
                "step {step}: norm off by {worst_norm}"
            );
            let clip = (number("max_grad_norm") / (norm + 1e-6)).min(1.0);
            let rate = expected("learning_rate");
            let rates = LearningRates {
                vision_tower: rate,
                projector: rate,
                language_model: rate,
            };
            optimizer.step(&rates, scale * clip).unwrap();
        }
        println!("losses off by {worst_loss:.1e} at most, norms by {worst_norm:.1e}");
    }
}

pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn is_brief() -> bool {
    variable("LWV_TEST_DTYPE", "f32") == "bf16"
}

/// The bound for f32, or for bf16 with its 8 bits (as wide as Liger's convergence tests have it).
pub(crate) fn bound(exact: f64, brief: f64) -> f64 {
    if is_brief() { brief } else { exact }
}

/// The canonical name of a recorded tensor.
pub(crate) fn canonical(recorded: &str) -> String {
    WeightNames::canonical(recorded.strip_prefix("base_model.model.").unwrap_or(recorded))
}

/// `count` of the values at even distances, as large references are recorded.
pub(crate) fn thinned(values: &[f32], count: usize) -> Vec<f32> {
    (0..count).map(|i| values[i * values.len() / count]).collect()
}

/// A hash of 32 bits.
fn hash(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// L2 norm of the difference, over that of `want`.
pub(crate) fn relative_distance(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm =
        |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(a, b)| a - b)) / norm(&mut want.iter().copied())
}
