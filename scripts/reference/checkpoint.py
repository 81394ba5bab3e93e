"""Random weights, and writing them in the layouts of published checkpoints."""

import json
from pathlib import Path

import torch
from safetensors.torch import save

GAIN = 1.2
NORM_SPREAD = 0.15
BIAS_SPREAD = 0.2


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Draws every parameter, norms and biases included, so that no part of the network is idle.

    The gains keep activations and logits near 1. Larger ones sharpen attention and amplify rounding until
    float32 no longer settles the fifth digit.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1 and name.endswith("bias"):
                parameter.copy_(BIAS_SPREAD * noise)
            elif parameter.dim() == 1:
                parameter.copy_(1.0 + NORM_SPREAD * noise)
            else:
                gain = 1.0 if "embed_tokens" in name or "lm_head" in name else GAIN
                parameter.copy_(gain * noise / parameter[0].numel() ** 0.5)


def round_to(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Rounds the parameters to what a checkpoint of this type can hold; they stay float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).to(torch.float32))


def published_name(name: str) -> str:
    """The name that checkpoints written before transformers 4.52 use for a weight of Qwen2.5-VL."""
    return name.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def stored_weights(
    model: torch.nn.Module, dtype: torch.dtype, rename=lambda name: name
) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint: renamed, cast, and without the head where it is tied."""
    return {rename(name): parameter.detach().to(dtype) for name, parameter in model.named_parameters()}


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes one safetensors file, readable by everyone."""
    path.write_bytes(
        save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"format": "pt"})
    )


def write_weights(folder: Path, weights: dict[str, torch.Tensor], shards: int) -> None:
    """Writes model.safetensors, or as many shards as asked for with their index."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", weights)
        return
    names = sorted(weights)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[shard::shards]}
        write_safetensors(folder / file, part)
        weight_map.update(dict.fromkeys(part, file))
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
