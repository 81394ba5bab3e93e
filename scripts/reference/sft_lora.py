"""Records what PEFT and transformers make of training adapters of the tiny Qwen2.5-VL checkpoints.

    pip install -r scripts/reference/requirements.txt
    python scripts/reference/tiny_qwen2_5_vl.py
    python scripts/reference/conversations.py
    python scripts/reference/sft_lora.py

Writes tests/fixtures/sft/lora/<name>: the adapter that training starts from, as PEFT saves it, with the
gradients of a batch and a trajectory, which tests/fixtures/README.md describes.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

import adapter
import conversations
import exact
import record
import sft_tiny
import tiny_qwen2_5_vl
import training
from conversations import FIXTURES
from training import Recipe


@dataclass(frozen=True)
class Start:
    """One adapter: the checkpoint below it, its targets, and how it is trained."""

    name: str
    base: str
    targets: str | list[str]
    rank_stabilised: bool
    seed: int
    recipe: Recipe


STARTS = [
    Start(
        name="all_linear",
        base="nested_f32",
        targets=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
        rank_stabilised=False,
        seed=31,
        recipe=Recipe(steps=30, learning_rate=2e-3, micro_batch=2, max_grad_norm=2.0),
    ),
    Start(
        name="rslora",
        base="flat_f32",
        targets=["q_proj", "v_proj"],
        rank_stabilised=True,
        seed=37,
        recipe=Recipe(steps=30, learning_rate=2e-3, micro_batch=2),
    ),
]


def create(start: Start, folder: Path) -> None:
    """Saves an adapter neither of whose factors is zero, so that both have gradients."""
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        lora_dropout=0.0,
        target_modules=start.targets,
        use_rslora=start.rank_stabilised,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(tiny_qwen2_5_vl.load(FIXTURES / "tiny" / start.base), config)
    with torch.no_grad():
        adapter.draw(model, start.seed)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    (folder / "adapter_model.safetensors").chmod(0o644)
    adapter.name_base(folder / "adapter_config.json", start)


def make(start: Start) -> None:
    """Makes one adapter and what training does to it."""
    folder = conversations.FOLDER / "lora" / start.name
    create(start, folder)
    base_folder = FIXTURES / "tiny" / start.base
    base = tiny_qwen2_5_vl.load(base_folder)
    data = sft_tiny.samples(tiny_qwen2_5_vl.load_processor(base_folder))
    double = PeftModel.from_pretrained(exact.twin(base), folder, is_trainable=True).double()
    model = PeftModel.from_pretrained(base, folder, is_trainable=True)
    print(f"{start.name}: {len(training.trained(model))} trained tensors")
    batch, found = training.batch_summary(model, double, data[: sft_tiny.BATCH])
    print(f"  zero gradients {batch['zero_gradients']}, noisy ones {batch['noisy_gradients']}")
    trajectory, final = training.trajectory_summary(model, double, data, start.recipe)
    summary = {"base": f"tiny/{start.base}", "batch": batch, "trajectory": trajectory}
    tensors = {f"grad.{name}": value for name, value in found.items()}
    tensors |= {f"final.{name}": value for name, value in final.items()}
    record.write_expected(folder, summary, tensors)


def main() -> None:
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    for start in STARTS:
        make(start)


if __name__ == "__main__":
    main()
