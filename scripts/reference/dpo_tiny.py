"""Records what TRL's DPOTrainer makes of the tiny Qwen2.5-VL checkpoints.

    pip install -r scripts/reference/requirements.txt
    python scripts/reference/tiny_qwen2_5_vl.py
    python scripts/reference/preferences.py
    python scripts/reference/dpo_tiny.py [CASE ...]

Writes tests/fixtures/dpo/<case>, which tests/fixtures/README.md describes: all parameters trained, the vision tower and its
merger frozen, an adapter whose reference is the model without it, an adapter that is trained on and whose reference is how it
was, and some steps of every loss.
"""

import argparse
import shutil

import dpo  # before what it keeps offline

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image

import adapter
import exact
import preferences
import record
import sft_tiny
import tiny_qwen2_5_vl
from conversations import FIXTURES
from dpo import Recipe

TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
FULL_RATE = 5e-4
FULL = Recipe(learning_rate=FULL_RATE, weight_decay=0.1)
SHORT = {"learning_rate": FULL_RATE, "steps": 6, "warmup_steps": 1}
PADDED = SHORT | {"micro_batch": 2}
LOSSES = {
    "hinge": Recipe(**PADDED, loss_type=["hinge"]),
    "ipo": Recipe(**PADDED, loss_type=["ipo"]),
    "robust": Recipe(**SHORT, loss_type=["robust"], label_smoothing=0.1),
    "sigmoid_norm": Recipe(**PADDED, loss_type=["sigmoid_norm"], beta=2.0),
    "exo_pair": Recipe(**SHORT, loss_type=["exo_pair"], label_smoothing=1e-3),
    "nca_pair": Recipe(**PADDED, loss_type=["nca_pair"]),
    "bco_pair": Recipe(**SHORT, loss_type=["bco_pair"]),
    "sppo_hard": Recipe(**SHORT, loss_type=["sppo_hard"]),
    "apo_zero": Recipe(**PADDED, loss_type=["apo_zero"]),
    "apo_down": Recipe(**SHORT, loss_type=["apo_down"]),
    "discopop": Recipe(**SHORT, loss_type=["discopop"]),
    "ld": Recipe(**PADDED, ld_alpha=0.5),
    "sft": Recipe(**SHORT, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 1.0]),
    "mpo": Recipe(**SHORT, loss_type=["sigmoid", "bco_pair", "sft"], loss_weights=[0.8, 0.2, 1.0]),
}


def load(base: str):
    """A tiny checkpoint, its processor, and the pairs with their pictures."""
    folder = FIXTURES / "tiny" / base
    rows = preferences.read("tiny.jsonl", lambda path: Image.open(path).convert("RGB"))
    return tiny_qwen2_5_vl.load(folder), tiny_qwen2_5_vl.load_processor(folder), rows


def write(case: str, summary: dict, final: dict) -> None:
    """Writes one case's expectations."""
    folder = preferences.FOLDER / case
    folder.mkdir(parents=True, exist_ok=True)
    record.write_expected(folder, summary, {f"final.{name}": value for name, value in final.items()})


def full(case: str, base: str, recipe: Recipe, is_frozen: bool) -> None:
    """Whole weights; the reference is a copy of the model."""
    model, processor, rows = load(base)
    double = exact.twin(model)
    if is_frozen:
        sft_tiny.freeze(model)
        sft_tiny.freeze(double)
    summary, final = dpo.run_twice(model, double, processor, rows, recipe)
    write(case, {"base": f"tiny/{base}"} | summary, final)


def new_adapter(case: str, base: str, recipe: Recipe) -> None:
    """A new adapter; the reference is the model with the adapter switched off."""
    model, processor, rows = load(base)
    folder = preferences.FOLDER / case
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(41)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM")
    save = lambda trainer: trainer.model.save_pretrained(folder)  # noqa: E731
    summary, final = dpo.run_twice(model, exact.twin(model), processor, rows, recipe, prepare=save, peft_config=config)
    finish_adapter(case, base, summary, final)


def old_adapter(case: str, base: str, recipe: Recipe) -> None:
    """An adapter that has learned already; TRL's reference is a copy of it."""
    model, processor, rows = load(base)
    folder = preferences.FOLDER / case
    shutil.rmtree(folder, ignore_errors=True)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    with torch.no_grad():
        adapter.draw(model, 43)
    model.save_pretrained(folder)
    model = PeftModel.from_pretrained(load(base)[0], folder, is_trainable=True)
    summary, final = dpo.run(model, processor, rows, recipe)
    final = {name: value for name, value in final.items() if ".ref." not in name}
    finish_adapter(case, base, summary, final)


def finish_adapter(case: str, base: str, summary: dict, final: dict) -> None:
    """Writes an adapter's expectations beside how it began."""
    folder = preferences.FOLDER / case
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "adapter_model.safetensors").chmod(0o644)
    settings = (folder / "adapter_config.json").read_text()
    (folder / "adapter_config.json").write_text(settings.replace(str(FIXTURES / "tiny" / base), f"tiny/{base}"))
    write(case, {"base": f"tiny/{base}"} | summary, final)


def losses() -> None:
    """Some steps of every loss."""
    sections = {}
    for name, recipe in LOSSES.items():
        print(name)
        model, processor, rows = load("nested_f32")
        sections[name] = dpo.run(model, processor, rows, recipe)[0]["trajectory"]
    write("losses", {"base": "tiny/nested_f32"} | sections, {})


CASES = {
    "tiny_full": lambda case: full(case, "nested_f32", FULL, is_frozen=False),
    "tiny_frozen": lambda case: full(case, "flat_f32", Recipe(learning_rate=FULL_RATE, micro_batch=2), is_frozen=True),
    "tiny_lora": lambda case: new_adapter(case, "nested_f32", Recipe(learning_rate=5e-3)),
    "tiny_lora_again": lambda case: old_adapter(case, "nested_f32", Recipe(learning_rate=5e-3)),
    "losses": lambda case: losses(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", nargs="*", help="cases to make (default: all)")
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    for case in parser.parse_args().case or CASES:
        print(case)
        CASES[case](case)


if __name__ == "__main__":
    main()
