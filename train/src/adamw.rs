use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use candle_core::Tensor;
use rayon::prelude::*;

use crate::kernels::host;
use crate::moments::Moments;
use crate::{Error, Parameter, Part, Result};

/// AdamW's settings (Loshchilov & Hutter, arXiv 1711.05101), as PyTorch names them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment.
    pub epsilon: f64,
    /// Share of a weight that is taken away each step, times the learning rate; not for biases and norms.
    pub weight_decay: f64,
}

/// The optimizer: what it remembers of each parameter.
pub struct AdamW {
    settings: AdamWSettings,
    parameters: Vec<Rc<Parameter>>,
    /// Steps that each parameter has taken: one without a gradient takes none, as in PyTorch.
    steps: BTreeMap<String, u64>,
    memory: Memory,
}

enum Memory {
    Host(Moments),
    Device(BTreeMap<String, [Tensor; 2]>),
}

/// Learning rate of each part in one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRates {
    /// Of the vision tower.
    pub vision_tower: f64,
    /// Of the projector.
    pub projector: f64,
    /// Of everything else.
    pub language_model: f64,
}

impl LearningRates {
    fn of(&self, name: &str) -> f64 {
        match Part::of(name) {
            Part::VisionTower => self.vision_tower,
            Part::Projector => self.projector,
            Part::LanguageModel => self.language_model,
        }
    }
}

/// What a step does to one parameter.
#[derive(Clone, Copy)]
struct Step {
    /// What gradients are multiplied with.
    scale: f64,
    /// What the weight is multiplied with first.
    keep: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    /// Learning rate, corrected for the first moment's beginning at zero.
    rate: f64,
    /// The same correction of the second moment's root.
    root: f64,
}

impl AdamW {
    /// An optimizer of `parameters`, with its moments in a file in `offload` where that is given.
    ///
    /// # Errors
    /// The file cannot be made, or what candle says.
    pub fn new(
        settings: AdamWSettings,
        parameters: Vec<Rc<Parameter>>,
        offload: Option<&Path>,
    ) -> Result<Self> {
        let on_host = parameters
            .iter()
            .all(|parameter| parameter.exact().device().is_cpu());
        let memory = if on_host {
            let sizes = parameters.iter().map(|p| (p.name(), p.exact().elem_count()));
            Memory::Host(Moments::new(sizes, offload)?)
        } else {
            let zeros = |p: &Rc<Parameter>| -> Result<(String, [Tensor; 2])> {
                let zeros = p.exact().zeros_like()?;
                Ok((p.name().to_owned(), [zeros.clone(), zeros]))
            };
            Memory::Device(parameters.iter().map(zeros).collect::<Result<_>>()?)
        };
        Ok(Self {
            settings,
            parameters,
            steps: BTreeMap::new(),
            memory,
        })
    }

    /// The parameters that are trained.
    pub fn parameters(&self) -> &[Rc<Parameter>] {
        &self.parameters
    }

    /// Euclidean norm of all gradients together.
    ///
    /// # Errors
    /// What candle says.
    pub fn gradient_norm(&self) -> Result<f64> {
        let gradients = self.parameters.iter().filter_map(|p| p.gradient()?.get());
        let squares: Vec<f64> = gradients
            .map(|gradient| squared_norm(&gradient))
            .collect::<Result<_>>()?;
        Ok(squares.iter().sum::<f64>().sqrt())
    }

    /// Takes a step with all gradients multiplied by `scale`, and forgets them.
    ///
    /// # Errors
    /// Moments that cannot be read or written, or what candle says.
    pub fn step(&mut self, rates: &LearningRates, scale: f64) -> Result<()> {
        for parameter in &self.parameters {
            let Some(gradient) = parameter.gradient().and_then(|gradient| gradient.get()) else {
                continue;
            };
            let count = self.steps.entry(parameter.name().to_owned()).or_default();
            *count += 1;
            let step = self.settings.step(parameter, rates, scale, *count);
            match &mut self.memory {
                Memory::Host(moments) => host_step(parameter, &gradient, moments, &step)?,
                Memory::Device(moments) => {
                    let moments = moments
                        .get_mut(parameter.name())
                        .ok_or_else(|| Error::UnknownParameter(parameter.name().to_owned()))?;
                    device_step(parameter, &gradient, moments, &step)?;
                }
            }
            if let Some(gradient) = parameter.gradient() {
                gradient.clear();
            }
        }
        Ok(())
    }

    /// Forgets all gradients.
    pub fn clear_gradients(&self) {
        self.parameters
            .iter()
            .filter_map(|parameter| parameter.gradient())
            .for_each(crate::Gradient::clear);
    }

    /// Steps that the parameter `name` has taken.
    pub fn steps(&self, name: &str) -> u64 {
        self.steps.get(name).copied().unwrap_or(0)
    }

    /// First and second moments of the parameter `name`, row-major.
    ///
    /// # Errors
    /// The moments cannot be read.
    pub fn moments(&self, name: &str) -> Result<[Vec<f32>; 2]> {
        match &self.memory {
            Memory::Host(moments) => moments.read(name),
            Memory::Device(moments) => {
                let pair = moments
                    .get(name)
                    .ok_or_else(|| Error::UnknownParameter(name.to_owned()))?;
                let values = |moment: &Tensor| moment.flatten_all()?.to_vec1::<f32>();
                Ok([values(&pair[0])?, values(&pair[1])?])
            }
        }
    }

    /// Puts back what an earlier run remembered of the parameter `name`.
    ///
    /// # Errors
    /// Another number of elements, or moments that cannot be written.
    pub fn restore(&mut self, name: &str, steps: u64, [first, second]: [Vec<f32>; 2]) -> Result<()> {
        self.steps.insert(name.to_owned(), steps);
        match &mut self.memory {
            Memory::Host(moments) => moments.write(name, &first, &second),
            Memory::Device(moments) => {
                let pair = moments
                    .get_mut(name)
                    .ok_or_else(|| Error::UnknownParameter(name.to_owned()))?;
                let like = pair[0].clone();
                let tensor = |values: Vec<f32>| Tensor::from_vec(values, like.shape(), like.device());
                *pair = [tensor(first)?, tensor(second)?];
                Ok(())
            }
        }
    }
}

impl AdamWSettings {
    fn step(&self, parameter: &Parameter, rates: &LearningRates, scale: f64, count: u64) -> Step {
        let rate = rates.of(parameter.name());
        let correction = |beta: f64| 1.0 - beta.powf(count as f64);
        let decay = if parameter.decays() {
            self.weight_decay
        } else {
            0.0
        };
        Step {
            scale,
            keep: 1.0 - rate * decay,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            rate: rate / correction(self.beta1),
            root: correction(self.beta2).sqrt(),
        }
    }
}

fn squared_norm(gradient: &Tensor) -> Result<f64> {
    if !gradient.device().is_cpu() {
        let squares = gradient.to_dtype(candle_core::DType::F64)?.sqr()?;
        return Ok(squares.sum_all()?.to_scalar::<f64>()?);
    }
    let values = host::elements::<f32>(gradient)?;
    let chunks = values.slice()?.par_chunks(host::CHUNK);
    let squares: Vec<f64> = chunks
        .map(|chunk| {
            host::vectorized(
                #[inline(always)]
                || host::sum_of_squares(chunk),
            )
        })
        .collect();
    Ok(squares.iter().sum())
}

fn host_step(parameter: &Parameter, gradient: &Tensor, moments: &mut Moments, step: &Step) -> Result<()> {
    let gradient = host::elements::<f32>(gradient)?;
    let gradient = gradient.slice()?;
    host::update(&parameter.exact(), |value: &mut [f32]| {
        moments.update(
            parameter.name(),
            value,
            gradient,
            |value, gradient, first, second| {
                host::vectorized(
                    #[inline(always)]
                    || step_piece(value, gradient, first, second, step),
                );
            },
        )
    })??;
    Ok(parameter.refresh()?)
}

#[inline(always)]
fn step_piece(value: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], step: &Step) {
    let [scale, keep, epsilon, rate] = [step.scale, step.keep, step.epsilon, step.rate].map(|v| v as f32);
    let (grow1, grow2, beta2) = (
        (1.0 - step.beta1) as f32,
        (1.0 - step.beta2) as f32,
        step.beta2 as f32,
    );
    let inverse_root = (1.0 / step.root) as f32;
    let moments = first.iter_mut().zip(second);
    for ((value, gradient), (first, second)) in value.iter_mut().zip(gradient).zip(moments) {
        let gradient = gradient * scale;
        *first += (gradient - *first) * grow1;
        *second = *second * beta2 + gradient * gradient * grow2;
        let denominator = second.sqrt() * inverse_root + epsilon;
        *value = *value * keep - rate * *first / denominator;
    }
}

fn device_step(
    parameter: &Parameter,
    gradient: &Tensor,
    moments: &mut [Tensor; 2],
    step: &Step,
) -> Result<()> {
    let gradient = (gradient * step.scale)?;
    let first = ((&moments[0] * step.beta1)? + (&gradient * (1.0 - step.beta1))?)?;
    let second = ((&moments[1] * step.beta2)? + (gradient.sqr()? * (1.0 - step.beta2))?)?;
    let denominator = ((second.sqrt()? * (1.0 / step.root))? + step.epsilon)?;
    let value = ((parameter.exact() * step.keep)? - ((&first / denominator)? * step.rate)?)?;
    *moments = [first, second];
    Ok(parameter.replace(value)?)
}
