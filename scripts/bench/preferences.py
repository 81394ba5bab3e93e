"""Seconds and memory of one step of `lwv-train iter-dpo` beside TRL's DPOTrainer, on the same float32 weights and pairs.

    python scripts/bench/preferences.py FOLDER LWV_TRAIN [--rounds N] [--length N] [--record FILE]

FOLDER takes the checkpoints, random weights in SmolLM2-135M's geometry and of a small Qwen2.5-VL, made if they are missing. A
step is a full fine-tuning step over one pair, each answer with its prompt of --length tokens: forward and backward of both,
what the reference thinks of both, clipping to 1, AdamW. TRL runs twice: as it is by default, asking a second copy of the model
in every step, and asking the model itself before the first step. Ours asks before the first step and keeps the answers. Every run is a
fresh process of some steps of which the first is not counted; runs alternate. Medians are printed; memory is the process's
peak, also less what it has used once its libraries are loaded.

Then, pairs of a growing text about pictures: how long asking the reference and a step take when features of pictures are kept,
and when they are not, and how long asking takes the second time. Exit status 1 if the first losses are not ln 2.
"""

import argparse
import json
import math
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import train

FIXTURE = Path(__file__).parents[2] / "tests/fixtures/tiny/nested_f32"
LEARNING_RATE = 1e-6
STEPS = 4
PAGES = 8
VARIANTS = {"trl": {}, "trl_asked_before": {"precompute_ref_log_probs": True}}


def turn(speaker: str, text: str) -> dict:
    """One message."""
    return {"from": speaker, "value": text}


def pairs(checkpoint: Path, length: int) -> list[dict]:
    """Pairs of which each answer has so many tokens with its prompt, and in which every tenth digit differs."""
    row, _, _ = train.sample(checkpoint, length)
    question, answer = row["conversations"]
    rows = []
    for index in range(STEPS):
        # The first digit is the pair's own, so that no two are the same.
        chosen = str(index) + answer["value"][1:]
        rejected = "".join("7" if place % 10 == 9 else digit for place, digit in enumerate(chosen))
        rows.append({"conversations": [question], "chosen": turn("gpt", chosen), "rejected": turn("gpt", rejected)})
    return rows


def write_rows(path: Path, rows: list[dict]) -> None:
    """Writes one JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def trl_steps(checkpoint: str, pairs_file: str, variant: str) -> None:
    """The body of a fresh process: trains some steps with TRL and prints what they took."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaForCausalLM, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rows = [json.loads(line) for line in Path(pairs_file).read_text().splitlines()]
    message = lambda said: [{"role": "user" if said["from"] == "human" else "assistant", "content": said["value"]}]  # noqa: E731
    data = [
        {"prompt": message(row["conversations"][0]), "chosen": message(row["chosen"]), "rejected": message(row["rejected"])}
        for row in rows
    ]
    seconds = []

    class Clock(TrainerCallback):
        """Notes how long each step takes."""

        def on_step_begin(self, *args, **kwargs):
            self.start = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            seconds.append(time.perf_counter() - self.start)

    with tempfile.TemporaryDirectory() as scratch:
        config = DPOConfig(
            output_dir=scratch,
            per_device_train_batch_size=1,
            max_steps=STEPS,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_length=None,
            max_grad_norm=1.0,
            bf16=False,
            use_cpu=True,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            **VARIANTS[variant],
        )
        start = time.perf_counter()
        trainer = DPOTrainer(
            model=LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32),
            args=config,
            train_dataset=Dataset.from_list(data),
            processing_class=AutoTokenizer.from_pretrained(checkpoint),
            callbacks=[Clock()],
        )
        trainer.train()
        whole = time.perf_counter() - start
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    print(json.dumps({"seconds": seconds, "losses": losses, "baseline": baseline, "whole": whole}))


def run_trl(checkpoint: Path, rows: list[dict], variant: str) -> dict:
    """One run of TRL."""
    with tempfile.TemporaryDirectory() as scratch:
        file, output = Path(scratch, "pairs.jsonl"), Path(scratch, "output")
        write_rows(file, rows)
        peak, processor = train.peak_of(
            [sys.executable, __file__, "trl-steps", str(checkpoint), str(file), variant], output
        )
        result = json.loads(output.read_text().splitlines()[-1])
    return result | {"peak": peak, "processor_seconds": processor}


def run_ours(program: Path, checkpoint: Path, rows: list[dict], *more: str, folder: Path | None = None) -> dict:
    """One run of `lwv-train`; `folder` keeps the reference's answers for the next."""
    with tempfile.TemporaryDirectory() as scratch:
        dataset, metrics = Path(scratch, "pairs.jsonl"), Path(scratch, "metrics.jsonl")
        write_rows(dataset, rows)
        baseline, _ = train.peak_of([str(program), "--version"], Path(scratch, "version"))
        command = [program, "iter-dpo", "--model", checkpoint, "--dataset", dataset, "--output-dir", Path(scratch, "out")]
        command += ["--metrics", metrics, "--save-strategy", "no", "--finetuning-type", "full", "--no-shuffle"]
        command += ["--max-steps", len(rows), "--learning-rate", LEARNING_RATE, "--lr-scheduler-type", "constant"]
        command += ["--reference-cache", folder or Path(scratch, "reference"), *more]
        start = time.perf_counter()
        peak, processor = train.peak_of([str(part) for part in command], Path(scratch, "output.txt"))
        whole = time.perf_counter() - start
        lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    seconds = [line["seconds"] for line in lines]
    return {
        "seconds": seconds,
        "losses": [line["loss"] for line in lines],
        "baseline": baseline,
        "peak": peak,
        "processor_seconds": processor,
        "whole": whole,
        # All but the steps: loading, saving, asking the reference.
        "before": whole - sum(seconds),
    }


def summary(runs: list[dict]) -> dict:
    """Medians over all counted steps of all runs, and the highest memory."""
    peak = max(runs, key=lambda run: run["peak"])
    return {
        "seconds": statistics.median(seconds for run in runs for seconds in run["seconds"][1:]),
        "whole": statistics.median(run["whole"] for run in runs),
        "first_loss": runs[0]["losses"][0],
        "peak_bytes": peak["peak"],
        "net_peak_bytes": peak["peak"] - peak["baseline"],
    }


def compare(args: argparse.Namespace, checkpoint: Path) -> dict:
    """All subjects on the same pairs."""
    rows = pairs(checkpoint, args.length)
    subjects = {"ours": lambda: run_ours(args.lwv_train, checkpoint, rows)}
    for variant in VARIANTS:
        subjects[variant] = lambda variant=variant: run_trl(checkpoint, rows, variant)
    runs = {name: [] for name in subjects}
    for index in range(args.rounds):
        for name in list(subjects)[:: 1 if index % 2 == 0 else -1]:
            runs[name].append(subjects[name]())
    result = {name: summary(all) for name, all in runs.items()}
    for name, run in result.items():
        print(
            f"{name:18} {run['seconds']:7.2f} s a step, {run['whole']:7.1f} s for all {STEPS} with what comes before, "
            f"peak {run['peak_bytes'] / 1e9:.2f} GB, net {run['net_peak_bytes'] / 1e9:.2f} GB, first loss {run['first_loss']:.7f}"
        )
    for name in VARIANTS:
        ours, theirs = result["ours"], result[name]
        print(
            f"beside {name:11} {theirs['seconds'] / ours['seconds']:7.2f} times its speed in steps, "
            f"{theirs['whole'] / ours['whole']:.2f} in all, {ours['net_peak_bytes'] / theirs['net_peak_bytes']:.2f} of its net memory"
        )
    return result


def make_vision_checkpoint(folder: Path) -> None:
    """Writes a Qwen2.5-VL of random weights, a quarter of which are the vision tower's; the fixtures' tokenizer."""
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    settings = json.loads((FIXTURE / "config.json").read_text())
    settings["text_config"] |= {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
    }
    settings["text_config"].pop("layer_types", None)
    settings["vision_config"] |= {
        "depth": 8,
        "hidden_size": 320,
        "intermediate_size": 1280,
        "num_heads": 8,
        "out_hidden_size": 512,
        "window_size": 112,
        "fullatt_block_indexes": [3, 7],
    }
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja"):
        shutil.copy(FIXTURE / name, folder)
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    preprocessor |= {"min_pixels": 3136, "max_pixels": 78400, "size": {"shortest_edge": 3136, "longest_edge": 78400}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))


def deck(folder: Path, checkpoint: Path) -> list[dict]:
    """Pairs of every prefix of a text about as many pages, which are written beside them."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    pages = []
    for page in range(PAGES):
        path = folder / f"{page}.png"
        image = Image.effect_noise((280, 280), 20.0 + 10.0 * page).convert("RGB")
        image.save(path)
        pages.append(str(path.resolve()))
    rows = []
    for last in range(1, PAGES + 1):
        text = lambda wrong: " ".join(f"page {page} shows {page * 11 + wrong}." for page in range(last))  # noqa: E731
        rows.append(
            {
                "conversations": [turn("human", "<image>" * last + "Write about the pages.")],
                "chosen": turn("gpt", text(0)),
                "rejected": turn("gpt", text(1)),
                "images": pages[:last],
            }
        )
    return rows


def savings(args: argparse.Namespace, checkpoint: Path) -> dict:
    """What it takes to ask the reference about a deck and to learn from it, with and without what is kept."""
    rows = deck(args.folder / "pages", checkpoint)
    with tempfile.TemporaryDirectory() as kept:
        result = {
            "nothing kept": run_ours(args.lwv_train, checkpoint, rows, "--vision-cache-mib", "0"),
            "features kept": run_ours(args.lwv_train, checkpoint, rows, folder=Path(kept)),
            "reference kept too": run_ours(args.lwv_train, checkpoint, rows, folder=Path(kept)),
        }
    for name, run in result.items():
        print(
            f"{name:18} {sum(run['seconds']):6.2f} s for {len(rows)} steps, {run['before']:6.2f} s before them, "
            f"peak {run['peak'] / 1e9:.2f} GB"
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("lwv_train", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--record", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    text, vision = args.folder / "train" / "checkpoint", args.folder / "vision"
    for kind, checkpoint in [("checkpoint", text), ("vision-checkpoint", vision)]:
        if not (checkpoint / "chat_template.jinja").exists():
            # In a process of its own: the system counts this one's memory as the peak of the programs that it starts.
            subprocess.run([sys.executable, __file__, kind, str(checkpoint)], check=True)
    compared = compare(args, text)
    saved = savings(args, vision)
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        record = {"load": os.getloadavg(), "rounds": args.rounds, "length": args.length}
        record |= {"compared": compared, "saved": saved}
        args.record.write_text(json.dumps(record, indent=1) + "\n")
    first = [run["first_loss"] for run in compared.values()] + [run["losses"][0] for run in saved.values()]
    sys.exit(any(abs(loss - math.log(2)) > 1e-5 for loss in first))


if __name__ == "__main__":
    if sys.argv[1:2] == ["trl-steps"]:
        trl_steps(*sys.argv[2:])
    elif sys.argv[1:2] == ["checkpoint"]:
        train.make_checkpoint(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["vision-checkpoint"]:
        make_vision_checkpoint(Path(sys.argv[2]))
    else:
        main()
