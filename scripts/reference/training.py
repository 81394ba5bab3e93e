"""Fine-tuning as the Trainer of transformers does it, step by step, in float32 and again in float64.

A step's loss is the sum over its supervised tokens divided by their number, whatever micro-batches they come
in; so the samples are run one by one, without padding, and their gradients added up.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass

import torch
from transformers import get_cosine_schedule_with_warmup

import exact
from supervision import Sample

LOSS_LIMIT = 2e-5
NORM_LIMIT = 2e-4
WEIGHT_LIMIT = 2e-5
NOISY = 1e-4

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How a trajectory is optimised: AdamW, linear warm-up from 0, cosine to 0, clipped gradients."""

    steps: int
    learning_rate: float
    micro_batch: int
    accumulation: int = 2
    warmup_steps: int = 3
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0

    def order(self, step: int, count: int) -> list[int]:
        """The samples of one step: the file over and over, in its order."""
        size = self.micro_batch * self.accumulation
        return [(step * size + index) % count for index in range(size)]


@dataclass
class Trajectory:
    """What was seen in each step, and the weights after the last."""

    loss: list[float]
    gradient_norm: list[float]
    learning_rate: list[float]
    tokens: list[int]
    final: Tensors

    def summary(self) -> dict[str, list]:
        """All but the weights."""
        return {key: getattr(self, key) for key in ("loss", "gradient_norm", "learning_rate", "tokens")}


def plain(name: str) -> str:
    """A parameter's name as adapter_model.safetensors has it; others have no such part."""
    return name.replace(".default.", ".")


def trained(model: torch.nn.Module) -> Tensors:
    """The parameters that are trained, each once, by name."""
    return {plain(name): value for name, value in model.named_parameters() if value.requires_grad}


def undecayed(model: torch.nn.Module) -> list[str]:
    """The trained parameters that are not decayed: biases and norms, which are those of one dimension.

    The Trainer goes by names, and so decays `norm1`, `norm2` and `ln_q` of the vision tower, which nobody means.
    """
    return sorted(name for name, value in trained(model).items() if value.dim() == 1)


def precision(model: torch.nn.Module):
    """The context in which a model of either precision has to run."""
    is_double = next(model.parameters()).dtype == torch.float64
    return exact.double_precision() if is_double else nullcontext()


def accumulate(model: torch.nn.Module, samples: Iterable[Sample]) -> tuple[float, int]:
    """Adds the gradients of the samples, and returns their loss and the number of supervised tokens."""
    samples = list(samples)
    tokens = sum(sample.tokens() for sample in samples)
    total = 0.0
    with precision(model):
        for sample in samples:
            inputs = sample.inputs
            if next(model.parameters()).dtype == torch.float64:
                inputs = {name: exact.doubled(value) for name, value in inputs.items()}
            output = model(**inputs, labels=sample.labels, num_items_in_batch=tokens, use_cache=False)
            output.loss.backward()
            total += output.loss.item()
    return total, tokens


def gradients(model: torch.nn.Module, samples: Iterable[Sample]) -> tuple[float, Tensors]:
    """The loss of one batch, and the gradient of every trained parameter."""
    model.zero_grad()
    loss, _ = accumulate(model, samples)
    found = {
        name: torch.zeros_like(value) if value.grad is None else value.grad.clone()
        for name, value in trained(model).items()
    }
    model.zero_grad()
    return loss, found


def norm(tensors: Iterable[torch.Tensor]) -> float:
    """The L2 norm of all tensors together, summed in float64."""
    return sum(tensor.double().square().sum().item() for tensor in tensors) ** 0.5


def relative(result: Tensors, reference: Tensors, names: Iterable[str] | None = None) -> float:
    """The L2 norm of the difference over that of the reference, of all tensors together."""
    names = list(reference if names is None else names)
    difference = norm(result[name].double() - reference[name].double() for name in names)
    return difference / max(norm(reference[name] for name in names), 1e-300)


def optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over two groups: with and without decay."""
    kept = set(undecayed(model))
    weights = trained(model)
    groups = [
        {
            "params": [value for name, value in weights.items() if name not in kept],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [value for name, value in weights.items() if name in kept], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.epsilon,
    )


def train(
    model: torch.nn.Module, samples: list[Sample], recipe: Recipe, stop: int | None = None
) -> Trajectory:
    """Trains a model in place, up to a step if one is given.

    The norm is the one before clipping, the rate the one of the step itself.
    """
    adamw = optimizer(model, recipe)
    schedule = get_cosine_schedule_with_warmup(adamw, recipe.warmup_steps, recipe.steps)
    seen = Trajectory([], [], [], [], {})
    model.zero_grad()
    for step in range(stop or recipe.steps):
        loss, tokens = accumulate(model, [samples[index] for index in recipe.order(step, len(samples))])
        found = torch.nn.utils.clip_grad_norm_(trained(model).values(), recipe.max_grad_norm)
        seen.loss.append(loss)
        seen.gradient_norm.append(found.item())
        seen.learning_rate.append(schedule.get_last_lr()[0])
        seen.tokens.append(tokens)
        adamw.step()
        schedule.step()
        model.zero_grad()
    seen.final = {name: value.detach().clone() for name, value in trained(model).items()}
    return seen


def batch_summary(model, double, samples: list[Sample]) -> tuple[dict, Tensors]:
    """Loss and gradients of one batch, with their distance from float64."""
    loss, found = gradients(model, samples)
    exact_loss, exact_found = gradients(double, samples)
    distances = {name: relative(found, exact_found, [name]) for name in found}
    summary = {
        "samples": list(range(len(samples))),
        "tokens": sum(sample.tokens() for sample in samples),
        "loss": loss,
        "gradient_norm": norm(found.values()),
        "zero_gradients": sorted(name for name, value in found.items() if not value.any()),
        "noisy_gradients": {name: value for name, value in sorted(distances.items()) if value > NOISY},
        "float64": {
            "loss": exact_loss,
            "gradient_distance": relative(found, exact_found),
            "largest_gradient_distance": max(distances.values()),
        },
    }
    assert abs(loss - exact_loss) <= LOSS_LIMIT, (loss, exact_loss)
    return summary, found


def final_distances(start: Tensors, final: Tensors, exact_final: Tensors) -> dict[str, float]:
    """How far the weights are from those that float64 ends with, and how far their changes are."""
    moved = {name: value.double() - start[name].double() for name, value in final.items()}
    exact_moved = {name: value - start[name].double() for name, value in exact_final.items()}
    distances = {
        "final_distance": relative(final, exact_final),
        "largest_final_distance": max(relative(final, exact_final, [name]) for name in final),
        "change_distance": relative(moved, exact_moved),
        "largest_change_distance": max(relative(moved, exact_moved, [name]) for name in final),
    }
    assert distances["final_distance"] <= WEIGHT_LIMIT, distances
    return distances


def step_distances(seen: Trajectory, exact_seen: Trajectory) -> dict[str, list[float]]:
    """How far loss and norm of each step are from float64: absolute, and relative."""
    distances = {
        "loss_distance": [abs(a - b) for a, b in zip(seen.loss, exact_seen.loss)],
        "gradient_norm_distance": [
            abs(a - b) / b for a, b in zip(seen.gradient_norm, exact_seen.gradient_norm)
        ],
    }
    assert max(distances["loss_distance"]) <= LOSS_LIMIT, distances
    assert max(distances["gradient_norm_distance"]) <= NORM_LIMIT, distances
    return distances


def trajectory_summary(
    model, double, samples: list[Sample], recipe: Recipe, float64_steps: int | None = None
) -> tuple[dict, Tensors]:
    """Trains a model, and its twin all along or for some steps, and says how far the two came apart."""
    names = undecayed(model)
    start = {name: value.detach().clone() for name, value in trained(model).items()}
    seen, exact_seen = train(model, samples, recipe), train(double, samples, recipe, float64_steps)
    float64 = step_distances(seen, exact_seen)
    if float64_steps is None:
        float64 |= final_distances(start, seen.final, exact_seen.final)
    moved = norm(value.double() - start[name].double() for name, value in seen.final.items())
    summary = {
        "recipe": asdict(recipe) | {"undecayed": names},
        **seen.summary(),
        "change": moved / norm(start.values()),
        "float64": float64,
    }
    worst = {key: max(value) if isinstance(value, list) else value for key, value in float64.items()}
    print(
        f"  loss {seen.loss[0]:.4f} to {seen.loss[-1]:.4f}, norms {min(seen.gradient_norm):.3f} to "
        f"{max(seen.gradient_norm):.3f}, weights changed by {summary['change']:.1e}; from float64 "
        + ", ".join(f"{key} {value:.1e}" for key, value in worst.items()),
        flush=True,
    )
    return summary, seen.final
