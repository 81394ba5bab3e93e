"""Makes two PEFT adapters of tiny checkpoints, and records what the merged models compute.

    pip install -r scripts/reference/requirements.txt
    python scripts/reference/tiny_qwen2_5_vl.py
    python scripts/reference/adapter.py

Writes tests/fixtures/adapter/lora and tests/fixtures/adapter/rslora, each as PEFT saves it, with
expected.json and expected.safetensors, which tests/fixtures/README.md describes.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

import exact
import record
import tiny_qwen2_5_vl
from tiny_qwen2_5_vl import FIXTURES, PROMPTS

PROMPT = "one_image"
POSITION_STRIDE = 8
STEPS = 16
SMALLEST_CHANGE = 0.1


@dataclass(frozen=True)
class Adapter:
    """One adapter: the checkpoint below it, its targets, and the weights to look at after the merge."""

    name: str
    base: str
    targets: str | list[str]
    rank_stabilised: bool
    seed: int
    shown: list[str]


ADAPTERS = [
    Adapter(
        name="lora",
        base="flat_f32",
        targets=r".*language_model.*\.(q_proj|v_proj|down_proj)",
        rank_stabilised=False,
        seed=21,
        shown=["model.language_model.layers.0.self_attn.q_proj.weight"],
    ),
    Adapter(
        name="rslora",
        base="nested_f32",
        targets=["q_proj", "v_proj", "down_proj"],
        rank_stabilised=True,
        seed=13,
        shown=[
            "model.language_model.layers.1.mlp.down_proj.weight",
            "model.visual.blocks.0.mlp.down_proj.weight",
        ],
    ),
]


def draw(model: PeftModel, seed: int) -> None:
    """Draws both factors of every pair, since PEFT starts one of them at zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def create(adapter: Adapter, folder: Path) -> None:
    """Saves a random adapter over its checkpoint."""
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=adapter.targets,
        use_rslora=adapter.rank_stabilised,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(tiny_qwen2_5_vl.load(FIXTURES / "tiny" / adapter.base), config)
    draw(model, adapter.seed)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    (folder / "adapter_model.safetensors").chmod(0o644)
    name_base(folder / "adapter_config.json", adapter)


def name_base(path: Path, adapter: Adapter) -> None:
    """Makes adapter_config.json the same on every machine: a relative base, and targets in order."""
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = f"tiny/{adapter.base}"
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2) + "\n")


def merge(base: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """Adds an adapter to the weights of its base, which changes in place."""
    return PeftModel.from_pretrained(base, folder).merge_and_unload()


def merged_twin(base: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """The same in float64, the sum included."""
    double = PeftModel.from_pretrained(exact.twin(base), folder).double()
    with exact.double_precision():
        return double.merge_and_unload()


def recorded(model, inputs: dict) -> dict[str, torch.Tensor]:
    """Everything that is compared: the logits of the prompt and of each greedy step, and merged weights."""
    weights = {name: value for name, value in model.named_parameters() if name.endswith("proj.weight")}
    greedy = record.greedy(model, inputs, STEPS)
    return {"logits": model(**inputs).logits[0], "greedy_logits": greedy.logits} | weights


def make(adapter: Adapter) -> None:
    """Makes one adapter and the merged model's expectations."""
    folder = FIXTURES / "adapter" / adapter.name
    create(adapter, folder)
    base_folder = FIXTURES / "tiny" / adapter.base
    _, inputs = tiny_qwen2_5_vl.prepare(tiny_qwen2_5_vl.load_processor(base_folder), PROMPTS[PROMPT])
    base = tiny_qwen2_5_vl.load(base_folder)
    plain = base(**inputs).logits[0]
    double = merged_twin(base, folder)
    merged = merge(base, folder)
    rounding = exact.check(exact.distances(merged, double, inputs, recorded))
    logits = merged(**inputs).logits[0]
    greedy = record.greedy(merged, inputs, STEPS)
    assert len(greedy.ids) == STEPS and greedy.gap() >= record.SMALLEST_GAP, (greedy.ids, greedy.gap())
    positions = list(range(0, len(logits), POSITION_STRIDE))
    summary = {
        "base": f"tiny/{adapter.base}",
        "prompt": PROMPT,
        "positions": positions,
        "greedy_ids": greedy.ids,
        "smallest_gap": greedy.gap(),
    }
    parameters = dict(merged.named_parameters())
    tensors = {"logits": logits[positions], "greedy_logits": greedy.thinned()}
    tensors |= {f"merged.{name}": parameters[name].data for name in adapter.shown}
    record.write_expected(folder, summary, tensors)
    change = (logits - plain).abs().max().item()
    assert change >= SMALLEST_CHANGE, change
    print(
        f"{adapter.name}: largest change of a logit {change:.2f}, smallest gap {greedy.gap():.4f}, "
        f"float32 within {rounding:.1e} of float64"
    )


def main() -> None:
    torch.set_num_threads(2)
    with torch.no_grad():
        for adapter in ADAPTERS:
            make(adapter)


if __name__ == "__main__":
    main()
