use std::sync::Arc;
use std::time::Instant;

use lwv_data::{Encoded, Loader};

use super::{Event, Outcome, Trainer, Watch};
use crate::recipe::SaveStrategy;
use crate::{
    Error, EvaluationMetrics, LearningRates, Objective, PreferenceMetrics, Result, Share, StepMetrics,
};

impl<O: Objective> Trainer<O> {
    /// Trains to the end of the epoch, or of the training. Whether it was interrupted.
    pub(super) fn train_epoch(&mut self, outcome: &mut Outcome, watch: &Watch<'_>) -> Result<bool> {
        let steps = self.curriculum.rest_of_epoch(self.state.global_step);
        let order = steps.iter().flatten().flatten().copied().collect();
        let mut loader = self.loader(order);
        for batches in steps {
            let started = Instant::now();
            let mut sums = Share::default();
            for batch in &batches {
                if self.is_cancelled() {
                    self.optimizer.clear_gradients();
                    return Ok(true);
                }
                let examples = self.examples(&mut loader, batch.len(), outcome, watch)?;
                sums.add(self.objective.learn(&self.model, &examples)?);
                self.check_finite("loss", sums.loss, &sums)?;
            }
            let metrics = self.step(&sums, started)?;
            outcome.loss = Some(metrics.loss);
            self.record(&metrics)?;
            watch(Event::Stepped(&metrics));
            self.after_step(watch)?;
        }
        Ok(self.is_cancelled() && self.state.global_step < self.curriculum.total_steps())
    }

    fn loader(&self, order: Vec<usize>) -> Loader<Encoded<O::Example>> {
        let recipe = &self.recipe.training;
        let ahead = recipe.per_device_train_batch_size + recipe.dataloader_workers;
        let (dataset, encoder) = (
            Arc::clone(&self.samples.dataset),
            Arc::clone(&self.samples.encoder),
        );
        let encode = move |sample| O::encode(&dataset, &encoder, sample);
        Loader::start(encode, order, recipe.dataloader_workers, ahead)
    }

    /// The next `count` samples, without those that turn out to be unusable.
    fn examples(
        &self,
        loader: &mut Loader<Encoded<O::Example>>,
        count: usize,
        outcome: &mut Outcome,
        watch: &Watch<'_>,
    ) -> Result<Vec<O::Example>> {
        let mut examples = Vec::with_capacity(count);
        for encoded in loader.take(count) {
            match encoded {
                Ok((_, Encoded::Example(example))) => examples.push(example),
                Ok((_, Encoded::TooLong(_))) => {}
                Err(error) if self.recipe.training.strict || !error.is_of_sample() => {
                    return Err(error.into());
                }
                Err(error) => {
                    outcome.left_out += 1;
                    watch(Event::LeftOut(error.to_string()));
                }
            }
        }
        Ok(examples)
    }

    fn check_finite(&self, what: &'static str, value: f64, sums: &Share) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        self.optimizer.clear_gradients();
        Err(Error::NotFinite {
            step: self.state.global_step + 1,
            what,
            value,
            samples: sums.origins.join(", "),
        })
    }

    /// Clips the gradients and changes the weights.
    fn step(&mut self, sums: &Share, started: Instant) -> Result<StepMetrics> {
        let scale = sums.scale();
        let norm = self.optimizer.gradient_norm()? * scale;
        self.check_finite("gradient norm", norm, sums)?;
        let clip = match self.recipe.training.max_grad_norm {
            limit if limit > 0.0 => (limit / (norm + 1e-6)).min(1.0),
            _ => 1.0,
        };
        let factor = self.schedule.factor(self.state.global_step);
        let recipe = &self.recipe.training;
        let rates = LearningRates {
            vision_tower: recipe.vision_learning_rate.unwrap_or(recipe.learning_rate) * factor,
            projector: recipe.projector_learning_rate.unwrap_or(recipe.learning_rate) * factor,
            language_model: recipe.learning_rate * factor,
        };
        self.optimizer.step(&rates, scale * clip)?;
        self.state.global_step += 1;
        self.state.epoch = self.curriculum.epoch(self.state.global_step);
        Ok(StepMetrics {
            step: self.state.global_step,
            loss: sums.mean(),
            grad_norm: norm,
            learning_rate: rates.language_model,
            tokens: sums.tokens as u64,
            seconds: started.elapsed().as_secs_f64(),
            preference: sums.pairs.metrics(),
        })
    }

    fn record(&mut self, metrics: &StepMetrics) -> Result<()> {
        if let Some(file) = &mut self.metrics {
            file.append(metrics)?;
        }
        if let Some(events) = &mut self.events
            && metrics.step.is_multiple_of(self.recipe.training.logging_steps)
        {
            events.scalar("train/loss", metrics.step, metrics.loss as f32)?;
            events.scalar("train/grad_norm", metrics.step, metrics.grad_norm as f32)?;
            events.scalar("train/learning_rate", metrics.step, metrics.learning_rate as f32)?;
            let speed = metrics.tokens as f64 / metrics.seconds;
            events.scalar("train/tokens_per_second", metrics.step, speed as f32)?;
            if let Some(preference) = &metrics.preference {
                for (name, value) in preference.named() {
                    events.scalar(&format!("train/{name}"), metrics.step, value as f32)?;
                }
            }
            events.flush()?;
        }
        Ok(())
    }

    /// Measures and saves where it is time to.
    fn after_step(&mut self, watch: &Watch<'_>) -> Result<()> {
        let step = self.state.global_step;
        let is_last = step == self.curriculum.total_steps();
        let saves = match self.recipe.training.save_strategy {
            SaveStrategy::Steps => is_last || step.is_multiple_of(self.recipe.training.save_steps),
            SaveStrategy::Epoch => is_last || self.curriculum.ends_epoch(step),
            SaveStrategy::No => false,
        };
        let evaluates = match self.recipe.training.eval_steps {
            Some(steps) => is_last || step.is_multiple_of(steps),
            None => saves || is_last,
        };
        let mut is_best = false;
        if evaluates && !self.samples.held_out.is_empty() {
            let mean = self.evaluate(watch)?.mean();
            is_best = self.state.best_metric.is_none_or(|best| mean < best);
            if is_best {
                self.state.best_metric = Some(mean);
            }
        }
        if saves || (is_best && self.recipe.training.keep_best) {
            if is_best {
                self.state.best_model_checkpoint = Some(crate::training_state::checkpoint_name(step));
            }
            self.save_checkpoint(watch)?;
        }
        Ok(())
    }

    /// Measures what training starts from, where there is something to measure with. It is no candidate for the best:
    /// no checkpoint is written of it.
    pub(super) fn before_steps(&mut self, watch: &Watch<'_>) -> Result<()> {
        if self.state.global_step == 0 && !self.samples.held_out.is_empty() && !self.is_cancelled() {
            self.evaluate(watch)?;
        }
        Ok(())
    }

    /// What the held-out samples add up to, each measured alone.
    fn evaluate(&mut self, watch: &Watch<'_>) -> Result<Share> {
        let mut sums = Share::default();
        for encoded in self.loader(self.samples.held_out.clone()) {
            let encoded = match encoded {
                Err(error) if !error.is_of_sample() => return Err(error.into()),
                other => other,
            };
            if let Ok((_, Encoded::Example(example))) = encoded {
                sums.add(self.objective.measure(&self.model, &[example])?);
            }
        }
        let step = self.state.global_step;
        if let Some(file) = &mut self.metrics {
            file.append(&EvaluationMetrics::new(step, &sums))?;
        }
        if let Some(events) = &mut self.events {
            events.scalar("eval/loss", step, sums.mean() as f32)?;
            for (name, value) in sums.pairs.metrics().iter().flat_map(PreferenceMetrics::named) {
                events.scalar(&format!("eval/{name}"), step, value as f32)?;
            }
            events.flush()?;
        }
        watch(Event::Evaluated(step, &sums));
        Ok(sums)
    }
}
