use std::path::PathBuf;
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use lwv_model::{Adapter, Checkpoint, ModelConfig, expected_weights};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, LowRankPair, Parameter, Parameters, Part, Result};

/// Which weights of a model are trained, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection {
    /// Parts that are left as they are.
    pub frozen: Vec<Part>,
    /// With a LoRA, its update is trained and all weights are left as they are.
    pub lora: Option<Lora>,
}

/// A LoRA that is to be trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Lora {
    /// Rank of the updates.
    pub rank: usize,
    /// The update is scaled by `alpha / rank`, or `alpha / sqrt(rank)` with `rslora`.
    pub alpha: f64,
    /// Whether it is a rank-stabilised LoRA.
    pub rslora: bool,
    /// Last parts of the names of the linear layers that get an update, such as `q_proj`; `all` stands for every
    /// linear layer but the head.
    pub targets: Vec<String>,
    /// Where the random beginning comes from.
    pub seed: u64,
    /// An adapter to go on with instead.
    pub start: Option<PathBuf>,
}

impl Lora {
    /// What updates are multiplied with (PEFT `tuners/lora/layer.py`).
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Whether the weight with this canonical name and shape gets an update.
    pub fn covers(&self, name: &str, shape: &[usize]) -> bool {
        let Some(module) = name.strip_suffix(".weight") else {
            return false;
        };
        let last = module.rsplit('.').next().unwrap_or(module);
        let linear = shape.len() == 2 && !["embed_tokens", "lm_head"].contains(&last);
        let named =
            |target: &String| target == "all" || target == last || module.ends_with(&format!(".{target}"));
        linear && self.targets.iter().any(named)
    }
}

impl Selection {
    /// Whether the weight with this canonical name belongs to a frozen part.
    pub fn freezes(&self, name: &str) -> bool {
        self.frozen.contains(&Part::of(name))
    }

    /// Whether the weight itself, not a LoRA's update of it, is trained.
    pub fn trains(&self, name: &str) -> bool {
        self.lora.is_none() && !self.freezes(name)
    }

    /// Loads the weights of `checkpoint` onto `device`, to compute in `dtype`.
    ///
    /// # Errors
    /// A weight that cannot be read, or an adapter that does not fit.
    pub fn load(
        &self,
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        device: &Device,
        dtype: DType,
    ) -> Result<Parameters> {
        let start = self.lora.as_ref().and_then(|lora| lora.start.as_deref());
        let start = start.map(Adapter::open).transpose()?;
        if let Some(adapter) = &start {
            adapter.check(config)?;
        }
        let mut parameters = Parameters::new();
        for (name, shape) in expected_weights(config) {
            let info = checkpoint.find(&name, &shape)?;
            // A convolution whose kernel is its stride is a matrix over flattened patches.
            let flat = if shape.len() > 2 {
                vec![shape[0], shape[1..].iter().product()]
            } else {
                shape.clone()
            };
            let exact = Tensor::from_vec(checkpoint.to_f32(&info)?, flat, device)?;
            let parameter = if self.trains(&name) {
                Parameter::trained(&name, &shape, exact, dtype)?
            } else {
                Parameter::frozen(&name, &shape, exact, dtype)?
            };
            let parameter = match &self.lora {
                Some(lora) if !self.freezes(&name) && lora.covers(&name, &shape) => {
                    parameter.with_low_rank(new_pair(lora, start.as_ref(), &name, &shape, device, dtype)?)
                }
                _ => parameter,
            };
            parameters.insert(name, Rc::new(parameter));
        }
        Ok(parameters)
    }
}

/// The parameters that the optimizer changes, LoRA's factors among them, in the order of their names.
pub fn trained(parameters: &Parameters) -> impl Iterator<Item = &Rc<Parameter>> {
    parameters
        .values()
        .flat_map(|parameter| {
            let pair = parameter.low_rank();
            std::iter::once(parameter).chain(pair.into_iter().flat_map(|pair| [&pair.a, &pair.b]))
        })
        .filter(|parameter| parameter.gradient().is_some())
}

/// Names of a LoRA's factors of the weight `name`, as PEFT spells their ends.
pub fn factor_names(name: &str) -> [String; 2] {
    let module = name.strip_suffix(".weight").unwrap_or(name);
    ["lora_A", "lora_B"].map(|factor| format!("{module}.{factor}.weight"))
}

/// The pair that a LoRA starts with: that of `start` where it has one, else A random (Kaiming uniform with a = √5, as
/// PEFT has it: between ±1/√in) and B zero.
fn new_pair(
    lora: &Lora,
    start: Option<&Adapter>,
    name: &str,
    shape: &[usize],
    device: &Device,
    dtype: DType,
) -> Result<LowRankPair> {
    let (out, width) = (shape[0], shape[1]);
    let (a, b) = match start {
        None => (random_a(lora, name, width), vec![0.0; out * lora.rank]),
        Some(adapter) => {
            let update = adapter.update(name, shape)?;
            let update = update.filter(|update| update.rank() == lora.rank);
            let update = update.ok_or_else(|| Error::AdapterMismatch {
                path: adapter.path().to_owned(),
                name: name.to_owned(),
                rank: lora.rank,
            })?;
            (update.a().to_vec(), update.b().to_vec())
        }
    };
    let [a_name, b_name] = factor_names(name);
    let factor = |name: &str, values: Vec<f32>, shape: [usize; 2]| -> Result<Rc<Parameter>> {
        let exact = Tensor::from_vec(values, &shape, device)?;
        Ok(Rc::new(Parameter::trained(name, &shape, exact, dtype)?))
    };
    Ok(LowRankPair {
        a: factor(&a_name, a, [lora.rank, width])?,
        b: factor(&b_name, b, [out, lora.rank])?,
        scale: lora.scale(),
    })
}

/// The same numbers for the same seed and name, whatever else is loaded.
fn random_a(lora: &Lora, name: &str, width: usize) -> Vec<f32> {
    // FNV-1a, so that every weight has a stream of its own.
    let stream = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut random = ChaCha8Rng::seed_from_u64(lora.seed);
    random.set_stream(stream);
    let bound = (width as f32).sqrt().recip();
    (0..lora.rank * width)
        .map(|_| (random.random::<f32>() * 2.0 - 1.0) * bound)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lora(targets: &[&str]) -> Lora {
        Lora {
            rank: 4,
            alpha: 8.0,
            rslora: false,
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            seed: 1,
            start: None,
        }
    }

    #[test]
    fn targets_are_linear_layers() {
        let all = lora(&["all"]);
        assert!(all.covers("model.layers.0.mlp.up_proj.weight", &[4, 4]));
        assert!(all.covers("visual.merger.mlp.0.weight", &[4, 4]));
        assert!(!all.covers("lm_head.weight", &[4, 4]));
        assert!(!all.covers("model.norm.weight", &[4]));
        assert!(!all.covers("visual.patch_embed.proj.weight", &[4, 3, 2, 14, 14]));
        let some = lora(&["q_proj"]);
        assert!(some.covers("model.layers.0.self_attn.q_proj.weight", &[4, 4]));
        assert!(!some.covers("model.layers.0.self_attn.k_proj.weight", &[4, 4]));
    }

    #[test]
    fn the_beginning_depends_on_seed_and_name_only() {
        let (first, again) = (
            random_a(&lora(&["all"]), "a", 16),
            random_a(&lora(&["all"]), "a", 16),
        );
        assert_eq!(first, again);
        assert_ne!(first, random_a(&lora(&["all"]), "b", 16));
        assert!(first.iter().all(|value| value.abs() <= 0.25) && first.iter().any(|value| value.abs() > 0.2));
    }
}
