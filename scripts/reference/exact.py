"""Holds what is recorded in float32 against the same computation in float64.

Weights that amplify rounding would make the references useless for a close comparison, so every script
that records logits or features passes them through `distances` first.
"""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode

LIMIT = 1.5e-5

Computation = Callable[[torch.nn.Module, dict], dict[str, torch.Tensor]]


class DoubledFloats(TorchFunctionMode):
    """Answers each request for float32 with float64; norms, softmax and rotary angles ask for it by name."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        named = {name: widened(value) for name, value in (kwargs or {}).items()}
        return function(*map(widened, args), **named)


def widened(argument):
    """float64 in place of float32, and anything else as it is."""
    return torch.float64 if argument is torch.float32 else argument


@contextmanager
def double_precision():
    """Computes all that runs inside in float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with DoubledFloats():
            yield
    finally:
        torch.set_default_dtype(default)


def twin(model: torch.nn.Module) -> torch.nn.Module:
    """The same weights in float64, with rotary frequencies that were computed in float64."""
    with double_precision():
        copy = type(model)(model.config).double().eval()
    copy.generation_config = model.generation_config
    copy_weights(model, copy)
    return copy


def copy_weights(model: torch.nn.Module, copy: torch.nn.Module) -> None:
    """Gives a twin the model's weights, after they were drawn anew."""
    copy.load_state_dict(model.state_dict())


def distances(model, double, inputs: dict, compute: Computation) -> dict[str, float]:
    """How far each result of a computation is from that of the model's twin, at most."""
    results = compute(model, inputs)
    with double_precision():
        exact = compute(double, {name: doubled(value) for name, value in inputs.items()})
    assert all(value.dtype == torch.float64 for value in exact.values())
    return {name: farthest(results[name], exact[name]) for name in results}


def doubled(value: torch.Tensor) -> torch.Tensor:
    """Floats in float64, and ids as they are."""
    return value.double() if value.is_floating_point() else value


def farthest(result: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest distance of two elements; endless where the shapes differ."""
    return (result - exact).abs().max().item() if result.shape == exact.shape else float("inf")


def check(found: dict[str, float]) -> float:
    """Fails where a distance is beyond the limit, and returns the largest."""
    far = {name: distance for name, distance in found.items() if not distance <= LIMIT}
    assert not far, f"float32 is farther than {LIMIT} from float64: {far}"
    return max(found.values())
