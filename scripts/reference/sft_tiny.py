"""Records what supervised fine-tuning by transformers makes of the tiny Qwen2.5-VL checkpoints.

    pip install -r scripts/reference/requirements.txt
    python scripts/reference/tiny_qwen2_5_vl.py
    python scripts/reference/conversations.py
    python scripts/reference/sft_tiny.py [CASE ...]

Writes tests/fixtures/sft/<case>, which tests/fixtures/README.md describes: samples, gradients of a batch, and
a trajectory with all parameters trained; for one case also with the vision tower and its merger frozen.
"""

import argparse

import torch

import conversations
import exact
import record
import tiny_qwen2_5_vl
import training
from conversations import FIXTURES
from supervision import Sample, picture_sample
from training import Recipe

RECIPES = {
    "flat_f32": Recipe(steps=30, learning_rate=1e-3, micro_batch=2),
    "nested_f32": Recipe(steps=30, learning_rate=1e-3, micro_batch=2),
    "flat_bf16": Recipe(steps=30, learning_rate=1e-3, micro_batch=2, weight_decay=0.1),
}
FROZEN_RECIPES = {"flat_f32": Recipe(steps=5, learning_rate=1e-3, micro_batch=2, warmup_steps=1)}
BATCH = 4


def samples(processor) -> list[Sample]:
    """All conversations as a checkpoint's processor turns them into tokens and pictures."""
    return [picture_sample(processor, messages) for messages in conversations.read("tiny.jsonl")]


def sample_summary(model, sample: Sample) -> dict:
    """What is recorded of one sample."""
    position_ids, _ = tiny_qwen2_5_vl.positions(model, sample.inputs)
    grids = sample.inputs.get("image_grid_thw", torch.empty(0, 3, dtype=torch.long))
    return sample.summary() | {"position_ids": position_ids, "image_grid_thw": grids.tolist()}


def freeze(model) -> None:
    """Leaves the language model to train, as LLaMA-Factory does unless told otherwise."""
    model.model.visual.requires_grad_(False)


def frozen(folder, data: list[Sample], recipe: Recipe) -> dict:
    """A batch and some steps with the vision tower and its merger frozen."""
    model = tiny_qwen2_5_vl.load(folder)
    double = exact.twin(model)
    freeze(model)
    freeze(double)
    batch, found = training.batch_summary(model, double, data[:BATCH])
    norms = {name: training.norm([value]) for name, value in found.items()}
    trajectory, _ = training.trajectory_summary(model, double, data, recipe)
    return {"batch": batch | {"gradient_norms": norms}, "trajectory": trajectory}


def make(case: str) -> None:
    """Makes one case's expectations."""
    folder = FIXTURES / "tiny" / case
    model = tiny_qwen2_5_vl.load(folder)
    data = samples(tiny_qwen2_5_vl.load_processor(folder))
    lengths = [len(sample.labels[0]) for sample in data]
    print(f"{case}: {lengths} tokens, {[sample.tokens() for sample in data]} of them supervised")
    double = exact.twin(model)
    batch, found = training.batch_summary(model, double, data[:BATCH])
    print(f"  zero gradients {batch['zero_gradients']}, noisy ones {batch['noisy_gradients']}")
    summary = {
        "case": case,
        "samples": [sample_summary(model, sample) for sample in data],
        "batch": batch,
    }
    summary["trajectory"], final = training.trajectory_summary(model, double, data, RECIPES[case])
    if case in FROZEN_RECIPES:
        summary["frozen"] = frozen(folder, data, FROZEN_RECIPES[case])
    tensors = {f"grad.{name}": value for name, value in found.items()}
    tensors |= {f"final.{name}": value for name, value in final.items()}
    target = conversations.FOLDER / case
    target.mkdir(parents=True, exist_ok=True)
    record.write_expected(target, summary, tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help="cases to make (default: all)")
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    for case in parser.parse_args().case or RECIPES:
        make(case)


if __name__ == "__main__":
    main()
