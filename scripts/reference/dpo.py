"""Preference training by TRL's own DPOTrainer, step by step, with what its log rounds or leaves out.

Import it first: it keeps the libraries of Hugging Face from their servers, to which TRL would tell what it trains.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from trl import DPOConfig, DPOTrainer

import exact
import training
from supervision import IGNORED
from training import Tensors, Trajectory

METRICS = {
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
    "reward_margin": "rewards/margins",
    "reward_accuracy": "rewards/accuracies",
    "logp_chosen": "logps/chosen",
    "logp_rejected": "logps/rejected",
}
REWARDS = ["reward_chosen", "reward_rejected", "reward_margin"]
REWARD_LIMIT = 2e-5


@dataclass(frozen=True)
class Recipe:
    """How pairs are learned: AdamW, linear warm-up from 0, cosine to 0, clipped gradients, the file's order."""

    learning_rate: float
    steps: int = 20
    micro_batch: int = 1
    accumulation: int = 2
    warmup_steps: int = 2
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    beta: float = 0.1
    loss_type: list[str] = field(default_factory=lambda: ["sigmoid"])
    loss_weights: list[float] | None = None
    label_smoothing: float = 0.0
    ld_alpha: float | None = None

    def config(self, folder: str) -> DPOConfig:
        """TRL's settings: float32 on the CPU, no sequence cut."""
        return DPOConfig(
            output_dir=folder,
            learning_rate=self.learning_rate,
            max_steps=self.steps,
            per_device_train_batch_size=self.micro_batch,
            gradient_accumulation_steps=self.accumulation,
            warmup_steps=self.warmup_steps,
            lr_scheduler_type="cosine",
            max_grad_norm=self.max_grad_norm,
            weight_decay=self.weight_decay,
            beta=self.beta,
            loss_type=self.loss_type,
            loss_weights=self.loss_weights,
            label_smoothing=self.label_smoothing,
            ld_alpha=self.ld_alpha,
            max_length=None,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )


class Recorder(DPOTrainer):
    """TRL's trainer, taking pairs in their order and remembering what it sees."""

    def __init__(self, *args, **kwargs):
        self.pairs, self.losses, self.steps = [], [], []
        super().__init__(*args, **kwargs)

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(self.train_dataset)

    def get_decay_parameter_names(self, model):
        """All but biases and norms, as in `training`; the Trainer goes by names."""
        return [name for name, value in model.named_parameters() if value.dim() > 1]

    def compute_loss(self, model, inputs, *args, **kwargs):
        if len(self.pairs) < len(self.train_dataset):
            self.pairs += self._pairs(inputs)
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self.losses.append(loss.item())
        return loss

    def _pairs(self, inputs) -> list[dict]:
        """What the pairs of a batch are: ids, labels, and what the reference thinks of them."""
        count = len(inputs["input_ids"]) // 2
        references = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        return [
            {
                "chosen": _answered(inputs, index),
                "rejected": _answered(inputs, count + index),
                "reference": [answers[index].item() for answers in references],
            }
            for index in range(count)
        ]

    def log(self, logs, *args, **kwargs):
        if "grad_norm" in logs:
            step = {"loss": sum(self.losses) / len(self.losses), "gradient_norm": float(logs["grad_norm"])}
            step["learning_rate"] = logs["learning_rate"]
            means = {key: sum(values) / len(values) for key, values in self._metrics["train"].items() if values}
            self.steps.append(step | {name: means[key] for name, key in METRICS.items()})
            self.losses = []
        super().log(logs, *args, **kwargs)


def _answered(inputs, index: int) -> dict:
    """Ids and labels of one sequence of a batch, without padding."""
    kept = inputs["attention_mask"][index].bool()
    ids, asked = inputs["input_ids"][index][kept], inputs["completion_mask"][index][kept].bool()
    return {"input_ids": ids.tolist(), "labels": ids.masked_fill(~asked, IGNORED).tolist()}


def run(model, processor, rows: list[dict], recipe: Recipe, prepare: Callable | None = None, **more) -> tuple[dict, Tensors]:
    """Trains a model in place. What was seen, and the trained weights; `prepare` gets the trainer before the first step."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Recorder(
            model=model,
            args=recipe.config(folder),
            train_dataset=Dataset.from_list(rows),
            processing_class=processor,
            **more,
        )
        if prepare:
            prepare(trainer)
        trainer.train()
    steps = {key: [step[key] for step in trainer.steps] for key in trainer.steps[0]}
    final = copies(trainer.model)
    print(
        f"  loss {steps['loss'][0]:.4f} to {steps['loss'][-1]:.4f}, norms {min(steps['gradient_norm']):.3f} to "
        f"{max(steps['gradient_norm']):.3f}, margin {steps['reward_margin'][-1]:.4f}",
        flush=True,
    )
    return {"pairs": trainer.pairs, "trajectory": {"recipe": asdict(recipe), **steps}}, final


def copies(model: torch.nn.Module) -> Tensors:
    """The trained parameters as they are now."""
    return {name: value.detach().clone() for name, value in training.trained(model).items()}


def run_twice(
    model, double, processor, rows: list[dict], recipe: Recipe, prepare: Callable | None = None, **more
) -> tuple[dict, Tensors]:
    """As `run`, and trains a twin in float64 to say how far the two came apart."""
    start = {}

    def remember(trainer):
        if prepare:
            prepare(trainer)
        start.update(copies(trainer.model))

    def start_alike(trainer):
        for name, value in training.trained(trainer.model).items():
            value.data.copy_(start[name])

    summary, final = run(model, processor, rows, recipe, remember, **more)
    with exact.double_precision():
        exact_summary, exact_final = run(double, processor, rows, recipe, start_alike, **more)
    assert all(value.dtype == torch.float64 for value in exact_final.values())
    seen, exact_seen = summary["trajectory"], exact_summary["trajectory"]
    float64 = step_distances(seen, exact_seen) | training.final_distances(start, final, exact_final)
    worst = {key: max(value) if isinstance(value, list) else value for key, value in float64.items()}
    print("  from float64 " + ", ".join(f"{key} {value:.1e}" for key, value in worst.items()), flush=True)
    seen["float64"] = float64
    return summary, final


def step_distances(seen: dict, exact_seen: dict) -> dict[str, list[float]]:
    """How far loss, norm and rewards of each step are from float64: the norm relatively."""
    trajectories = [
        Trajectory(told["loss"], told["gradient_norm"], told["learning_rate"], tokens=[], final={})
        for told in (seen, exact_seen)
    ]
    apart = [[abs(a - b) for a, b in zip(seen[key], exact_seen[key])] for key in REWARDS]
    distances = training.step_distances(*trajectories) | {"reward_distance": list(map(max, zip(*apart)))}
    assert max(distances["reward_distance"]) <= REWARD_LIMIT, distances
    return distances
