"""Seconds and memory of one training step of `lwv-train sft` beside PyTorch, on the same float32 weights and tokens.

    python scripts/bench/train.py FOLDER LWV_TRAIN [--rounds N] [--lengths N...] [--memory N...] [--pytorch-only] [--record FILE]

FOLDER takes the checkpoint, random weights in SmolLM2-135M's geometry, made if it is missing. Each step is a full fine-tuning
step over one sequence: forward, backward, clipping to 1, AdamW. PyTorch runs transformers' Llama, with gradient checkpointing
above 512 tokens, as it would have to on long sequences. Every run is a fresh process of some steps of which the first is not
counted; runs alternate, A B, B A, and so on. Medians are printed; memory is the process's peak, also less what it has used
once its libraries are loaded. Exit status 1 if the first losses differ by more than 1e-3.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = {512: 5, 2048: 3}
STEPS_OTHERWISE = 2
WITHOUT_RECOMPUTATION = 512
LEARNING_RATE = 1e-5
TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def ours_command(
    program: Path, checkpoint: Path, dataset: Path, scratch: Path, steps: int, recompute: bool
) -> list[str]:
    """The command line of `lwv-train`: the one place that knows its options."""
    command = [program, "sft", "--model", checkpoint, "--dataset", dataset]
    command += ["--output-dir", scratch / "output", "--metrics", scratch / "metrics.jsonl", "--save-strategy", "no"]
    command += ["--finetuning-type", "full", "--max-length", 1 << 20, "--max-steps", steps, "--no-shuffle"]
    command += ["--per-device-train-batch-size", 1, "--gradient-accumulation-steps", 1, "--max-grad-norm", 1]
    command += ["--learning-rate", LEARNING_RATE, "--lr-scheduler-type", "constant", "--weight-decay", 0]
    command += ["--recompute", "true" if recompute else "false"]
    return [str(part) for part in command]


def make_checkpoint(folder: Path) -> None:
    """Writes random weights, and a tokenizer for which a digit is a token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sys.path.insert(0, str(Path(__file__).parents[1] / "reference"))
    import tiny_tokenizer

    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5},
        rms_norm_eps=1e-5,
        bos_token_id=None,
        eos_token_id=tiny_tokenizer.special_id("<|im_end|>"),
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer.write(folder, published=False)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"chat_template": TEMPLATE, "model_max_length": 32768}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def sample(checkpoint: Path, length: int) -> tuple[dict, list[int], int]:
    """A conversation of exactly so many tokens, its ids, and how many of them come before the answer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    question = [{"role": "user", "content": "1"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    digits = "".join(str(index * index % 97 % 10) for index in range(length - len(prompt) - 2))
    answered = [*question, {"role": "assistant", "content": digits}]
    ids = tokenizer.apply_chat_template(answered, return_dict=False)
    assert len(ids) == length and ids[: len(prompt)] == prompt
    turns = [{"from": "human", "value": "1"}, {"from": "gpt", "value": digits}]
    return {"conversations": turns}, ids, len(prompt)


def pytorch_steps(checkpoint: str, ids_file: str, steps: str) -> None:
    """The body of a fresh process: trains some steps with PyTorch and prints what they took."""
    import torch
    from transformers import LlamaForCausalLM

    baseline = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    given = json.loads(Path(ids_file).read_text())
    ids = torch.tensor([given["ids"]])
    labels = ids.clone()
    labels[:, : given["prompt"]] = -100
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).train()
    model.config.use_cache = False
    if ids.shape[1] > WITHOUT_RECOMPUTATION:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    seconds, losses = [], []
    for _ in range(int(steps)):
        start = time.perf_counter()
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds, "losses": losses, "baseline": baseline, "tokens": ids.shape[1]}))


def peak_of(command: list[str], output: Path) -> tuple[int, float]:
    """Runs a program with its output in a file; its peak memory in bytes, and its processor seconds."""
    with open(output, "w") as file, open(output.with_suffix(".log"), "w") as log:
        process = subprocess.Popen(command, stdout=file, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"error: {command[0]} failed\n{output.with_suffix('.log').read_text()[-4000:]}")
    return usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime


def run_pytorch(checkpoint: Path, length: int, steps: int) -> dict:
    """One run of PyTorch."""
    _, ids, prompt = sample(checkpoint, length)
    with tempfile.TemporaryDirectory() as scratch:
        file, output = Path(scratch, "ids.json"), Path(scratch, "output")
        file.write_text(json.dumps({"ids": ids, "prompt": prompt}))
        command = [sys.executable, __file__, "pytorch-steps", str(checkpoint), str(file), str(steps)]
        peak, processor = peak_of(command, output)
        result = json.loads(output.read_text().splitlines()[-1])
    return result | {"peak": peak, "processor_seconds": processor}


def run_ours(program: Path, checkpoint: Path, length: int, steps: int) -> dict:
    """One run of `lwv-train`."""
    row, _, _ = sample(checkpoint, length)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = Path(scratch, "sample.jsonl")
        dataset.write_text((json.dumps(row) + "\n") * steps)
        baseline, _ = peak_of([str(program), "--version"], Path(scratch, "version"))
        recompute = length > WITHOUT_RECOMPUTATION
        command = ours_command(program, checkpoint, dataset, Path(scratch), steps, recompute)
        peak, processor = peak_of(command, Path(scratch, "output.txt"))
        lines = [json.loads(line) for line in Path(scratch, "metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": [line["seconds"] for line in lines],
        "losses": [line["loss"] for line in lines],
        "baseline": baseline,
        "tokens": lines[0]["tokens"],
        "peak": peak,
        "processor_seconds": processor,
    }


def summary(runs: list[dict]) -> dict:
    """Medians over all counted steps of all runs, and the highest memory."""
    peak = max(runs, key=lambda run: run["peak"])
    return {
        "seconds": statistics.median(seconds for run in runs for seconds in run["seconds"][1:]),
        "fastest_seconds": min(seconds for run in runs for seconds in run["seconds"][1:]),
        "processor_seconds_per_step": statistics.median(run["processor_seconds"] / len(run["seconds"]) for run in runs),
        "first_loss": runs[0]["losses"][0],
        "tokens": runs[0]["tokens"],
        "peak_bytes": peak["peak"],
        "net_peak_bytes": peak["peak"] - peak["baseline"],
    }


def measure(args: argparse.Namespace, checkpoint: Path, length: int) -> dict:
    """All subjects at one length."""
    steps = STEPS.get(length, STEPS_OTHERWISE)
    subjects = {"pytorch": lambda: run_pytorch(checkpoint, length, steps)}
    if not args.pytorch_only:
        subjects = {"ours": lambda: run_ours(args.lwv_train, checkpoint, length, steps)} | subjects
    runs = {name: [] for name in subjects}
    for index in range(args.rounds):
        names = list(subjects) if index % 2 == 0 else list(subjects)[::-1]
        for name in names:
            runs[name].append(subjects[name]())
    return {"length": length, "steps": steps} | {name: summary(all) for name, all in runs.items()}


def print_row(row: dict) -> bool:
    """One length's lines; whether the losses agree."""
    names = [name for name in ("ours", "pytorch") if name in row]
    for name in names:
        run = row[name]
        print(
            f"{row['length']:6} {name:8} {run['seconds']:8.2f} s (fastest {run['fastest_seconds']:.2f}, "
            f"processor {run['processor_seconds_per_step']:.1f}), peak {run['peak_bytes'] / 1e9:.2f} GB, "
            f"net {run['net_peak_bytes'] / 1e9:.2f} GB, {run['tokens']} tokens, loss {run['first_loss']:.5f}"
        )
    if len(names) < 2:
        return True
    ours, theirs = row["ours"], row["pytorch"]
    print(
        f"{row['length']:6} ratio    {theirs['seconds'] / ours['seconds']:.2f} times PyTorch's speed, "
        f"{ours['net_peak_bytes'] / theirs['net_peak_bytes']:.2f} of its net memory"
    )
    return abs(ours["first_loss"] - theirs["first_loss"]) <= 1e-3


def memory(args: argparse.Namespace, checkpoint: Path) -> list[dict]:
    """Our peak after one step, by length."""
    rows = []
    for length in args.memory:
        rows.append({"length": length, "peak_bytes": run_ours(args.lwv_train, checkpoint, length, 1)["peak"]})
        growth = ""
        if len(rows) > 1:
            more = (rows[-1]["peak_bytes"] - rows[-2]["peak_bytes"]) / (length - rows[-2]["length"])
            growth = f", {more / 1e3:.1f} kB more a token"
        print(f"{length:6} memory   {rows[-1]['peak_bytes'] / 1e9:.2f} GB{growth}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("lwv_train", type=Path)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="*", default=[512, 2048, 8192])
    parser.add_argument("--memory", type=int, nargs="*", default=[2048, 4096, 8192, 16384])
    parser.add_argument("--pytorch-only", action="store_true", help="leave `lwv-train` out")
    parser.add_argument("--record", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    checkpoint = args.folder / "checkpoint"
    if not (checkpoint / "chat_template.jinja").exists():
        # In a process of its own: the system counts this one's memory as the peak of the programs that it starts.
        subprocess.run([sys.executable, __file__, "checkpoint", str(checkpoint)], check=True)
    rows, good = [], True
    for length in args.lengths:
        rows.append(measure(args, checkpoint, length))
        good &= print_row(rows[-1])
        sys.stdout.flush()
    memory_rows = [] if args.pytorch_only else memory(args, checkpoint)
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        record = {"load": os.getloadavg(), "rounds": args.rounds, "rows": rows, "memory": memory_rows}
        args.record.write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(not good)


if __name__ == "__main__":
    if sys.argv[1:2] == ["pytorch-steps"]:
        pytorch_steps(*sys.argv[2:])
    elif sys.argv[1:2] == ["checkpoint"]:
        make_checkpoint(Path(sys.argv[2]))
    else:
        main()
