"""What AWQ (arXiv 2306.00978) loses in 4 bits, beside rounding to the nearest: why `lwv-export --int4` compensates instead.

    python scripts/bench/rounding.py CHECKPOINT CALIBRATION TEXT

CHECKPOINT is a llama. CALIBRATION is what `lwv-export` calibrates on (export/assets/calibration.txt), TEXT what nothing is calibrated
on. Codes and scales are those of a bundle in 4 bits (blocks of 32, one scale each, embedding and head too), so sizes are equal.
AWQ is given more than it has in practice: every matrix may scale its inputs, whether or not the scales could be folded into
what is before it, and its choices are made by all that was read instead of a sample. Perplexity, divergence and agreement are over
the first 2,048 tokens of TEXT, computed in float32; integers.py has the same figures of bundles.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

BLOCK = 32
TOKENS = 2048
PIECE = 1024
# Matrices that read the same, so that one scale must do for all of them.
READERS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
STRENGTHS = [step / 20 for step in range(20)]
CLIPS = [1 - step / 20 for step in range(11)]


def nearest(weight: torch.Tensor, clip: torch.Tensor | float = 1.0) -> torch.Tensor:
    """The weights after rounding: the one of largest magnitude of a block is level -8."""
    blocks = weight.reshape(weight.shape[0], -1, BLOCK)
    largest = blocks.gather(2, blocks.abs().argmax(2, keepdim=True))
    scale = largest / -8 * clip
    levels = torch.where(scale == 0, 0.0, blocks / scale).round().clamp(-8, 7)
    return (levels * scale).reshape(weight.shape)


class Inputs:
    """What a matrix reads: the mean magnitude of every channel and how channels vary together."""

    def __init__(self, width: int):
        self.magnitude = torch.zeros(width)
        self.products = torch.zeros(width, width)
        self.count = 0

    def add(self, values: torch.Tensor) -> None:
        values = values.reshape(-1, values.shape[-1])
        self.magnitude += values.abs().sum(0)
        self.products += values.T @ values
        self.count += len(values)

    def error(self, difference: torch.Tensor) -> float:
        """Squared, of what a matrix makes of its inputs, where its weights differ by so much."""
        return float((difference @ self.products * difference).sum())


def listen(model: torch.nn.Module, pieces: list[torch.Tensor]) -> dict[str, Inputs]:
    """What the first of each group of readers reads."""
    seen, handles = {}, []
    for name, module in model.named_modules():
        if any(name.endswith(readers[0]) for readers in READERS):
            inputs = seen[name] = Inputs(module.in_features)
            handles.append(module.register_forward_pre_hook(lambda _, values, inputs=inputs: inputs.add(values[0])))
    for piece in pieces:
        model(piece[None])
    for handle in handles:
        handle.remove()
    return seen


def scaled(weights: list[torch.Tensor], inputs: Inputs) -> list[torch.Tensor]:
    """Rounded under the scales of the inputs that lose least."""
    magnitude = inputs.magnitude / inputs.count
    best, least = [], float("inf")
    for strength in STRENGTHS:
        scale = magnitude.pow(strength).clamp(min=1e-4)
        scale = scale / (scale.max() * scale.min()).sqrt()
        rounded = [nearest(weight * scale) / scale for weight in weights]
        error = sum(inputs.error(new - old) for new, old in zip(rounded, weights))
        if error < least:
            best, least = [scale, rounded], error
    return best


def clipped(weight: torch.Tensor, inputs: Inputs, scale: torch.Tensor) -> torch.Tensor:
    """Rounded under a scale with every block cut off where what it makes of its own inputs loses least."""
    blocks = weight.shape[1] // BLOCK
    products = torch.stack([inputs.products[at : at + BLOCK, at : at + BLOCK] for at in range(0, weight.shape[1], BLOCK)])
    best = torch.ones(weight.shape[0], blocks, 1)
    least = torch.full((weight.shape[0], blocks), float("inf"))
    for clip in CLIPS:
        difference = (nearest(weight * scale, clip) / scale - weight).reshape(weight.shape[0], blocks, BLOCK)
        error = (torch.einsum("rbi,bij->rbj", difference, products) * difference).sum(-1)
        best = torch.where((error < least)[..., None], clip, best)
        least = torch.minimum(error, least)
    return nearest(weight * scale, best) / scale


def awq(model: torch.nn.Module, seen: dict[str, Inputs], clip: bool) -> None:
    """Rounds all matrices by what they read."""
    modules = dict(model.named_modules())
    for first, inputs in seen.items():
        readers = next(readers for readers in READERS if first.endswith(readers[0]))
        names = [first.removesuffix(readers[0]) + reader for reader in readers]
        weights = [modules[name].weight.data for name in names]
        scale, rounded = scaled(weights, inputs)
        for name, weight, new in zip(names, weights, rounded):
            # Queries and keys are not cut off, as in the authors' code: attention multiplies them with each other.
            cut = clip and not name.endswith(("q_proj", "k_proj"))
            modules[name].weight.data = clipped(weight, inputs, scale) if cut else new
    model.lm_head.weight.data.copy_(nearest(model.lm_head.weight.data))


def round_all(model: torch.nn.Module) -> None:
    """Rounds all matrices to the nearest; a tied head is the embedding table."""
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.data.copy_(nearest(module.weight.data))


def row(name: str, model: torch.nn.Module, ids: torch.Tensor, expected: torch.Tensor) -> None:
    """Prints what a model loses."""
    got = model(ids[None]).logits[0].double().log_softmax(-1)
    perplexity = float(torch.exp(-got[:-1].gather(1, ids[1:, None]).mean()))
    divergence = float((expected.exp() * (expected - got)).sum(-1).mean())
    agreement = float((expected.argmax(-1) == got.argmax(-1)).double().mean())
    print(f"| {name} | {perplexity:.2f} | {divergence:.4f} | {100 * agreement:.1f} % |", flush=True)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "calibration", "text"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.checkpoint)
    read = lambda path: torch.tensor(tokenizer(path.read_text(), add_special_tokens=False).input_ids)
    load = lambda: AutoModelForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32)
    ids = read(args.text)[:TOKENS]
    model = load()
    expected = model(ids[None]).logits[0].double().log_softmax(-1)
    seen = listen(model, list(read(args.calibration).split(PIECE)))
    print("| | perplexity | mean divergence | top-1 |\n|---|---|---|---|")
    row("float32", model, ids, expected)
    methods: dict[str, Callable] = {
        "nearest": round_all,
        "AWQ, scales": lambda model: awq(model, seen, clip=False),
        "AWQ, scales and clipping": lambda model: awq(model, seen, clip=True),
    }
    for name, method in methods.items():
        model = load()
        method(model)
        row(name, model, ids, expected)


if __name__ == "__main__":
    main()
