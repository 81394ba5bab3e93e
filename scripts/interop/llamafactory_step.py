"""Trains one step with LLaMA-Factory on the CPU in float32, from a folder of its settings, and compares the loss.

    scripts/interop/llamafactory DIR [--metrics FILE] [--set KEY=VALUE]...

DIR holds `sft.yaml` or `dpo.yaml`, `dataset_info.json` and what they name, relative to DIR. The settings are taken as they
stand but for what a CPU, one step and a fixed order need (`FOR_ONE_STEP`); --set changes further ones. Two losses must agree
with LLaMA-Factory's: that of transformers over the same batch (to 1e-5), and, with --metrics, the `loss` in the first line of
FILE, which `lwv-train sft --no-shuffle --metrics FILE` or `iter-dpo` wrote (to 1e-3; its `grad_norm` too, to 1 %, but for a new
LoRA, whose random numbers differ). The same holds for the log-probabilities of answers, of pairs. Prints one object as JSON. Exit
status 1 where one differs.
"""

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

PLAIN_TOLERANCE = 1e-5
LOSS_TOLERANCE = 1e-3
NORM_TOLERANCE = 1e-2
IGNORED = -100

# Our names of what must agree, and LLaMA-Factory's.
MEASURED = {"loss": "loss", "logp_chosen": "logps/chosen", "logp_rejected": "logps/rejected"}

FOR_ONE_STEP = {
    "use_cpu": True,
    "bf16": False,
    "fp16": False,
    "pure_bf16": False,
    "max_steps": 1,
    "disable_shuffling": True,
    "preprocessing_num_workers": None,
    "dataloader_num_workers": 0,
    "logging_steps": 1,
    "save_strategy": "no",
    "eval_strategy": "no",
    "eval_dataset": None,
    "val_size": 0.0,
    "plot_loss": False,
    "report_to": "none",
    "overwrite_cache": True,
}


def settings(folder: Path, changes: list[str], output: Path) -> dict:
    """The folder's settings with those of one step on the CPU."""
    from omegaconf import OmegaConf

    [file] = [folder / name for name in ("sft.yaml", "dpo.yaml") if (folder / name).exists()]
    given = OmegaConf.to_container(OmegaConf.load(file))
    deepspeed = given.pop("deepspeed", None)
    if deepspeed is not None:
        json.loads((folder / deepspeed).read_text())
    changed = OmegaConf.to_container(OmegaConf.from_dotlist(changes))
    return given | FOR_ONE_STEP | {"output_dir": str(output)} | changed


def train(folder: Path, chosen: dict, scratch: Path) -> dict:
    """What LLaMA-Factory logs of its first step."""
    recipe, log = scratch / "step.yaml", scratch / "log.txt"
    recipe.write_text(json.dumps(chosen))
    program = Path(sys.executable).with_name("llamafactory-cli")
    with open(log, "w") as file:
        status = subprocess.run([program, "train", recipe], cwd=folder, stdout=file, stderr=file).returncode
    if status != 0:
        sys.stderr.write(log.read_text()[-8000:])
        raise SystemExit(f"error: llamafactory-cli train ended with status {status}")
    state = json.loads(Path(chosen["output_dir"], "trainer_state.json").read_text())
    return next(entry for entry in state["log_history"] if "loss" in entry)


def plain(chosen: dict) -> dict:
    """The first step's loss by transformers alone, over the ids and labels that LLaMA-Factory makes.

    Each sequence goes through the model by itself, without padding.
    """
    import peft
    import torch
    import transformers
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, training_args, *_ = get_train_args(dict(chosen))
    module = load_tokenizer(model_args)
    tokenizer, processor = module["tokenizer"], module["processor"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    loader = {"sft": "sft", "dpo": "rm"}[chosen["stage"]]
    dataset = get_dataset(template, model_args, data_args, training_args, stage=loader, **module)["train_dataset"]
    micro, accumulation = training_args.per_device_train_batch_size, training_args.gradient_accumulation_steps
    samples = [dataset[index] for index in range(min(micro * accumulation, len(dataset)))]

    kind = transformers.AutoModelForImageTextToText if processor else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(model_args.model_name_or_path, dtype=torch.float32)
    for adapter in model_args.adapter_name_or_path or []:
        model = peft.PeftModel.from_pretrained(model, adapter)
    model.eval()

    def learned(sample: dict, answer: str = "") -> tuple[float, int]:
        return supervised(model, template, processor, sample, answer)

    if chosen["stage"] == "dpo":
        sides = [[learned(sample, answer) for sample in samples] for answer in ("chosen_", "rejected_")]
        return {"samples": len(samples)} | of_pairs(sides, chosen)
    return {"samples": len(samples)} | of_conversations([learned(sample) for sample in samples], micro, processor)


def of_conversations(sums: list[tuple[float, int]], micro: int, processor) -> dict:
    """LLaMA-Factory averages over all supervised tokens of a step where a checkpoint has no processor, and over the means of
    its micro-batches where it has one."""
    batches = [sums[start : start + micro] for start in range(0, len(sums), micro)]
    if processor is None:
        batches = [sums]
    means = [sum(loss for loss, _ in batch) / sum(count for _, count in batch) for batch in batches]
    return {"loss": sum(means) / len(means), "supervised_tokens": sum(count for _, count in sums)}


def of_pairs(sides: list[list[tuple[float, int]]], chosen: dict) -> dict:
    """Before the first step the reference is the model, so that only the better answers' own loss depends on either."""
    means = [sum(loss for loss, _ in side) / len(side) for side in sides]
    own = sum(loss / count for loss, count in sides[0]) / len(sides[0])
    return {
        "loss": math.log(2) + chosen["pref_ftx"] * own,
        "logp_chosen": -means[0],
        "logp_rejected": -means[1],
        "supervised_tokens": sum(count for side in sides for _, count in side),
    }


def supervised(model, template, processor, sample: dict, answer: str) -> tuple[float, int]:
    """The summed loss of the supervised tokens of one sample, or of one answer of a pair, and how many they are."""
    import torch

    ids, labels = torch.tensor([sample[answer + "input_ids"]]), torch.tensor(sample[answer + "labels"])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if sample.get("images"):
        images = template.mm_plugin._get_mm_inputs(sample["images"], [], [], processor)
        kinds = (ids == model.config.image_token_id).int()
        inputs |= {name: images[name] for name in ("pixel_values", "image_grid_thw")} | {"mm_token_type_ids": kinds}
    with torch.no_grad():
        logits = model(**inputs).logits[0, :-1].double()
    targets = labels[1:]
    loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    return loss.item(), int((targets != IGNORED).sum())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `lwv-train ... --emit llamafactory` wrote")
    parser.add_argument("--metrics", type=Path, help="the metrics of `lwv-train`")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting")
    args = parser.parse_args()
    folder = args.folder.resolve()
    ours = json.loads(args.metrics.read_text().splitlines()[0]) if args.metrics else None
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_DATASETS_CACHE"] = scratch + "/datasets"
        chosen = settings(folder, args.set, Path(scratch, "output"))
        theirs = train(folder, chosen, Path(scratch))
        os.chdir(folder)
        with contextlib.redirect_stdout(sys.stderr):  # LLaMA-Factory prints a sample
            reference = plain(chosen | {"output_dir": scratch + "/again"})
    measured = {ours: theirs[name] for ours, name in MEASURED.items() if name in theirs}
    result = measured | {"grad_norm": theirs["grad_norm"], "plain": reference}
    good = all(
        abs(value - reference[name]) <= PLAIN_TOLERANCE * max(1.0, abs(value)) for name, value in measured.items()
    )
    if ours:
        result["ours"] = {name: ours[name] for name in (*measured, "grad_norm")}
        good &= all(abs(ours[name] - value) <= LOSS_TOLERANCE for name, value in measured.items())
        is_random = chosen["finetuning_type"] == "lora" and "adapter_name_or_path" not in chosen
        good &= is_random or abs(ours["grad_norm"] / theirs["grad_norm"] - 1) <= NORM_TOLERANCE
    print(json.dumps(result | {"equal": good}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
