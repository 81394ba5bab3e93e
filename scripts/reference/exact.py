"""Runs a model in float64 throughout, to tell how far rounding moves the float32 reference."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode


class _Doubled(TorchFunctionMode):
    """Turns every request for float32 into one for float64: transformers asks for it in norms, softmax and rotary."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        args = tuple(_widened(argument) for argument in args)
        return function(*args, **{name: _widened(value) for name, value in (kwargs or {}).items()})


def _widened(argument):
    return torch.float64 if argument is torch.float32 else argument


@contextmanager
def double_precision():
    """Computes all that runs inside in float64."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Doubled():
            yield
    finally:
        torch.set_default_dtype(default)
