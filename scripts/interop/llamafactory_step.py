"""Trains one step with LLaMA-Factory on the CPU in float32, from a folder of its settings, and compares the loss.

    scripts/interop/llamafactory DIR [--metrics FILE] [--set KEY=VALUE]...

DIR holds `sft.yaml`, `dataset_info.json` and what they name, relative to DIR. The settings are taken as they stand but for
what a CPU, one step and a fixed order need (`FOR_ONE_STEP`); --set changes further ones. Two losses must agree with
LLaMA-Factory's: that of transformers over the same batch (to 1e-5), and, with --metrics, the `loss` in the first line of
FILE, which `lwv-train sft --no-shuffle --metrics FILE` wrote (to 1e-3; its `grad_norm` too, to 1 %). Prints one object as
JSON. Exit status 1 where one differs.
"""

import argparse
import contextlib
import json
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

    given = OmegaConf.to_container(OmegaConf.load(folder / "sft.yaml"))
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

    Each sample goes through the model by itself, without padding. LLaMA-Factory averages over all supervised tokens of a
    step where a checkpoint has no processor, and over the means of its micro-batches where it has one.
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
    dataset = get_dataset(template, model_args, data_args, training_args, stage="sft", **module)["train_dataset"]
    micro, accumulation = training_args.per_device_train_batch_size, training_args.gradient_accumulation_steps
    samples = [dataset[index] for index in range(min(micro * accumulation, len(dataset)))]

    kind = transformers.AutoModelForImageTextToText if processor else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(model_args.model_name_or_path, dtype=torch.float32)
    for adapter in model_args.adapter_name_or_path or []:
        model = peft.PeftModel.from_pretrained(model, adapter)
    model.eval()
    sums = [supervised(model, template, processor, sample) for sample in samples]
    batches = [sums[start : start + micro] for start in range(0, len(sums), micro)]
    if processor is None:
        batches = [sums]
    means = [sum(loss for loss, _ in batch) / sum(count for _, count in batch) for batch in batches]
    return {
        "loss": sum(means) / len(means),
        "samples": len(samples),
        "tokens": sum(len(sample["input_ids"]) for sample in samples),
        "supervised_tokens": sum(count for _, count in sums),
    }


def supervised(model, template, processor, sample: dict) -> tuple[float, int]:
    """The summed loss of one sample's supervised tokens, and how many they are."""
    import torch

    ids, labels = torch.tensor([sample["input_ids"]]), torch.tensor(sample["labels"])
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
    parser.add_argument("folder", type=Path, help="what `lwv-train sft --emit llamafactory` wrote")
    parser.add_argument("--metrics", type=Path, help="the metrics of `lwv-train sft`")
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
    result = {"loss": theirs["loss"], "grad_norm": theirs["grad_norm"], "plain": reference}
    good = abs(theirs["loss"] - reference["loss"]) <= PLAIN_TOLERANCE * max(1.0, abs(reference["loss"]))
    if ours:
        result["ours"] = {key: ours[key] for key in ("loss", "grad_norm") if key in ours}
        good &= abs(ours["loss"] - theirs["loss"]) <= LOSS_TOLERANCE
        good &= abs(ours.get("grad_norm", theirs["grad_norm"]) / theirs["grad_norm"] - 1) <= NORM_TOLERANCE
    print(json.dumps(result | {"equal": good}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
