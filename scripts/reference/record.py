"""Greedy decoding with transformers, and writing what it did."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig

from checkpoint import write_safetensors

GREEDY_STEPS = 64
STEP_STRIDE = 4
SMALLEST_GAP = 1e-3
FEWEST_TOKENS = 12


@dataclass
class Greedy:
    """What greedy decoding wrote: the ids, and the logits that each was chosen from."""

    ids: list[int]
    logits: torch.Tensor

    def gap(self) -> float:
        """The smallest distance between the two best logits of a step."""
        best = self.logits.topk(2, dim=-1).values
        return (best[:, 0] - best[:, 1]).min().item()

    def is_varied(self) -> bool:
        """Whether more is written than one token over and over."""
        return len(set(self.ids)) >= FEWEST_TOKENS

    def thinned(self) -> torch.Tensor:
        """The logits of steps 0, 4, 8 …"""
        return self.logits[::STEP_STRIDE].clone()


def greedy(model, inputs: dict, steps: int = GREEDY_STEPS) -> Greedy:
    """Decodes greedily with the cache, and without any rule of generation_config.json but the stop tokens."""
    eos = model.generation_config.eos_token_id
    stored = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=eos, pad_token_id=stored.pad_token_id)
    output = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=steps,
        output_logits=True,
        return_dict_in_generate=True,
    )
    model.generation_config = stored
    ids = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    return Greedy(ids, torch.cat(output.logits))


def write_json(path: Path, value) -> None:
    """Writes indented JSON with every list of numbers on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[\s\d,.e+-]+\]", lambda match: re.sub(r"\s+", "", match.group()), text)
    path.write_text(text + "\n")


def write_expected(folder: Path, summary: dict, tensors: dict[str, torch.Tensor]) -> None:
    """Writes expected.json and expected.safetensors."""
    write_json(folder / "expected.json", summary)
    write_safetensors(folder / "expected.safetensors", tensors)


def folder_size(folder: Path) -> int:
    """Bytes in all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
