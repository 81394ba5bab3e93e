use lwv_data::Order;

use crate::recipe::TrainingRecipe;

/// Which samples make up which step.
#[derive(Debug, Clone)]
pub struct Curriculum {
    order: Order,
    /// The samples that are trained on.
    samples: Vec<usize>,
    batch_size: usize,
    accumulation: usize,
    total_steps: usize,
}

impl Curriculum {
    /// The curriculum of a recipe over `samples`. The last step of an epoch takes what is left, as in transformers.
    pub fn new(recipe: &TrainingRecipe, order: Order, samples: Vec<usize>) -> Self {
        let mut curriculum = Self {
            order,
            samples,
            batch_size: recipe.per_device_train_batch_size,
            accumulation: recipe.gradient_accumulation_steps,
            total_steps: 0,
        };
        let by_epochs = (recipe.num_train_epochs * curriculum.steps_per_epoch() as f64).ceil() as usize;
        curriculum.total_steps = recipe.max_steps.unwrap_or(by_epochs);
        curriculum
    }

    /// Steps of one pass over the samples.
    pub fn steps_per_epoch(&self) -> usize {
        self.samples
            .len()
            .div_ceil(self.batch_size)
            .div_ceil(self.accumulation)
    }

    /// Steps of the whole training.
    pub fn total_steps(&self) -> usize {
        self.total_steps
    }

    /// Passes over the samples after `step` steps.
    pub fn epoch(&self, step: usize) -> f64 {
        step as f64 / self.steps_per_epoch() as f64
    }

    /// Whether a pass ends with step `step`, counted from 1.
    pub fn ends_epoch(&self, step: usize) -> bool {
        step.is_multiple_of(self.steps_per_epoch())
    }

    /// The samples that come up in any step, ascending.
    pub fn used(&self) -> Vec<usize> {
        let mut used = if self.total_steps < self.steps_per_epoch() {
            self.rest_of_epoch(0).into_iter().flatten().flatten().collect()
        } else {
            self.samples.clone()
        };
        used.sort_unstable();
        used
    }

    /// The batches of all steps from `step` (counted from 0) to the end of its epoch or of the training. Where they
    /// stand follows from the number of the step alone, so that going on reads nothing again.
    pub fn rest_of_epoch(&self, step: usize) -> Vec<Vec<Vec<usize>>> {
        let per_epoch = self.steps_per_epoch();
        let (epoch, done) = (step / per_epoch, step % per_epoch);
        let order = self.order.epoch(&self.samples, epoch as u64);
        let batches: Vec<Vec<usize>> = order.chunks(self.batch_size).map(<[usize]>::to_vec).collect();
        let steps = batches.chunks(self.accumulation).map(<[Vec<usize>]>::to_vec);
        steps
            .skip(done)
            .take(self.total_steps.saturating_sub(step))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curriculum(recipe: TrainingRecipe) -> Curriculum {
        let order = Order {
            seed: 3,
            shuffle: !recipe.no_shuffle,
            grouping: None,
        };
        Curriculum::new(&recipe, order, (0..11).collect())
    }

    #[test]
    fn an_epoch_ends_with_what_is_left() {
        let recipe = TrainingRecipe {
            per_device_train_batch_size: 2,
            gradient_accumulation_steps: 2,
            no_shuffle: true,
            num_train_epochs: 2.0,
            ..TrainingRecipe::default()
        };
        let curriculum = curriculum(recipe);
        assert_eq!((curriculum.steps_per_epoch(), curriculum.total_steps()), (3, 6));
        let steps = curriculum.rest_of_epoch(0);
        assert_eq!(steps[0], [[0, 1], [2, 3]]);
        assert_eq!(steps[2], [vec![8, 9], vec![10]]);
        assert!(curriculum.ends_epoch(3) && !curriculum.ends_epoch(2));
    }

    #[test]
    fn few_steps_use_few_samples() {
        let used = |steps| {
            curriculum(TrainingRecipe {
                max_steps: Some(steps),
                ..TrainingRecipe::default()
            })
            .used()
        };
        assert_eq!((used(4).len(), used(11)), (4, (0..11).collect()));
        let mut first: Vec<usize> = curriculum(TrainingRecipe::default())
            .rest_of_epoch(0)
            .concat()
            .concat();
        first.truncate(4);
        first.sort_unstable();
        assert_eq!(used(4), first);
    }

    #[test]
    fn going_on_takes_the_same_samples() {
        let curriculum = curriculum(TrainingRecipe {
            max_steps: Some(20),
            ..TrainingRecipe::default()
        });
        let whole = curriculum.rest_of_epoch(11);
        assert_eq!(
            (whole.len(), whole[4..].to_vec()),
            (9, curriculum.rest_of_epoch(15))
        );
        assert_ne!(whole[..9], curriculum.rest_of_epoch(0)[..9]);
    }
}
