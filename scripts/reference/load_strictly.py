"""Loads checkpoints with transformers and adapters with PEFT, and fails where a single tensor does not fit.

    pip install -r scripts/reference/requirements.txt
    python scripts/reference/load_strictly.py CHECKPOINT ...
    python scripts/reference/load_strictly.py --peft BASE ADAPTER

Missing, unexpected and mismatched tensors are errors, as is a checkpoint whose architecture transformers does
not know. Nothing is fetched.
"""

import argparse
from pathlib import Path

import torch
from peft import PeftConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText


def load(folder: Path) -> torch.nn.Module:
    """A checkpoint in the type it is stored in, by the class that its config.json asks for."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    has_vision = hasattr(config, "vision_config")
    kind = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    model, info = kind.from_pretrained(folder, dtype="auto", local_files_only=True, output_loading_info=True)
    wrong = {key: sorted(map(str, info[key])) for key in info if info[key]}
    if wrong:
        raise SystemExit(f"{folder}: {wrong}")
    if type(model).__name__ not in (config.architectures or []):
        raise SystemExit(f"{folder}: `architectures` is {config.architectures}, not {type(model).__name__}")
    count = sum(value.numel() for value in model.parameters())
    print(f"{folder}: {type(model).__name__}, {count} parameters, {model.dtype}")
    return model


def load_adapter(base: Path, folder: Path) -> torch.nn.Module:
    """An adapter over its checkpoint; its file holds the tensors that its configuration asks for."""
    config = PeftConfig.from_pretrained(folder)
    model = get_peft_model(load(base), config)
    stored = load_peft_weights(folder, device="cpu")
    expected = {name: tuple(value.shape) for name, value in get_peft_model_state_dict(model).items()}
    found = {name: tuple(value.shape) for name, value in stored.items()}
    if found != expected:
        different = sorted(set(found.items()) ^ set(expected.items()))
        raise SystemExit(f"{folder}: these tensors do not fit: {different}")
    result = set_peft_model_state_dict(model, stored)
    if result.unexpected_keys:
        raise SystemExit(f"{folder}: unexpected {result.unexpected_keys}")
    for name, value in get_peft_model_state_dict(model).items():
        if not torch.equal(value, stored[name].to(value.dtype)):
            raise SystemExit(f"{folder}: {name} was not taken over")
    print(f"{folder}: {len(stored)} tensors of an adapter, rank {config.r}")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="*", type=Path)
    parser.add_argument("--peft", nargs=2, type=Path, metavar=("BASE", "ADAPTER"))
    arguments = parser.parse_args()
    if not arguments.checkpoint and not arguments.peft:
        parser.error("name a checkpoint, or --peft BASE ADAPTER")
    for folder in arguments.checkpoint:
        load(folder)
    if arguments.peft:
        load_adapter(*arguments.peft)


if __name__ == "__main__":
    main()
