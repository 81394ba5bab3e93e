"""The trainer's tests and the time of a training step on this machine's NVIDIA card, in f32 and in bf16.

    python scripts/gpu/check.py LWV_TRAIN TESTS [--checkpoint DIR] [--dataset FILE] [--media-dir DIR] [--steps N]
        [--record FILE] [-- SETTING...]

TESTS is a folder of test programs; they get LWV_TEST_DEVICE=cuda and LWV_TEST_DTYPE=f32 or bf16. Steps are those of
`lwv-train sft` with all that follows `--`; the first two are not counted. Without --checkpoint it is SmolLM2, fetched;
without --dataset, texts of 500 words. Figures go into --record, else scripts/bench/runs/DATE-CARD-training.json. Exit
status 1 if a test fails.
"""

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DTYPES = ("f32", "bf16")
WARM_UP = 2
WORDS = 500
TEXT = "The lighthouse keeper climbed the stairs every evening, trimmed the wick, and wrote down the weather. "
RESULT = re.compile(r"test result: \S+ (\d+) passed; (\d+) failed; (\d+) ignored")


def card() -> dict[str, str]:
    """What nvidia-smi says of the first card."""
    fields = ("name", "compute_cap", "driver_version", "memory.total")
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]
    return dict(zip(fields, (value.strip() for value in line.split(",")), strict=True))


def test(folder: Path, dtype: str) -> dict:
    """Runs every test program, where cargo would, and counts."""
    environment = os.environ | {"LWV_TEST_DEVICE": "cuda", "LWV_TEST_DTYPE": dtype}
    counts, broken = [0, 0, 0], []
    programs = sorted(folder.iterdir())
    for program in programs:
        command = [str(program.resolve()), "--include-ignored"]
        run = subprocess.run(command, cwd=ROOT / "train", env=environment, stdout=subprocess.PIPE, text=True)
        print(run.stdout, end="")
        if run.returncode != 0:
            broken.append(program.name)
        for result in RESULT.findall(run.stdout):
            counts = [total + int(count) for total, count in zip(counts, result, strict=True)]
    passed, failed, ignored = counts
    return {"dtype": dtype, "passed": passed, "failed": failed, "ignored": ignored, "programs_failed": broken}


def smollm2(program: Path) -> Path:
    """The small real model, fetched and imported unless it is there."""
    checkpoint = ROOT / ".cache/smollm2"
    if not (checkpoint / "model.safetensors").exists():
        subprocess.run([ROOT / "scripts/fetch", "smollm2"], check=True)
        subprocess.run([program, "import", ROOT / ".cache/SmolLM2-135M-Instruct.Q4_1.gguf", checkpoint], check=True)
    return checkpoint


def write_texts(file: Path) -> None:
    """Conversations whose answers have WORDS words."""
    words = (TEXT.split() * (WORDS // len(TEXT.split()) + 1))[:WORDS]
    messages = [{"role": "user", "content": "Write about a lighthouse."}, {"role": "assistant", "content": " ".join(words)}]
    file.write_text((json.dumps({"messages": messages}) + "\n") * 16)


def train(args: argparse.Namespace, checkpoint: Path, dtype: str) -> dict:
    """Times the steps of one run."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset, metrics = args.dataset or folder / "texts.jsonl", folder / "metrics.jsonl"
        if args.dataset is None:
            write_texts(dataset)
        command = [args.lwv_train, "sft", "--model", checkpoint, "--dataset", dataset, "--output-dir", folder / "trained"]
        command += ["--device", "cuda", "--dtype", dtype, "--max-steps", args.steps, "--metrics", metrics]
        command += ["--media-dir", args.media_dir] if args.media_dir else []
        subprocess.run([str(part) for part in [*command, *args.settings]], check=True)
        steps = [json.loads(line) for line in metrics.read_text().splitlines()][WARM_UP:]
    seconds, tokens = sum(step["seconds"] for step in steps), sum(step["tokens"] for step in steps)
    return {
        "dtype": dtype,
        "steps": len(steps),
        "seconds_per_step": statistics.median(step["seconds"] for step in steps),
        "tokens_per_second": tokens / seconds,
        "last_loss": steps[-1]["loss"],
    }


def main() -> None:
    ours, settings = sys.argv[1:], []
    if "--" in ours:
        ours, settings = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("lwv_train", "tests"):
        parser.add_argument(name, type=Path)
    for name in ("checkpoint", "dataset", "media-dir", "record"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args(ours)
    if args.steps <= WARM_UP:
        parser.error(f"--steps must be more than the {WARM_UP} that are not counted")
    args.settings = settings

    properties = card()
    tests = [test(args.tests, dtype) for dtype in DTYPES]
    checkpoint = args.checkpoint or smollm2(args.lwv_train)
    rows = [train(args, checkpoint, dtype) for dtype in DTYPES]
    for result in tests:
        print(f"{result['dtype']:4} tests: {result['passed']} passed, {result['failed']} failed")
    for row in rows:
        print(f"{row['dtype']:4} step: {row['seconds_per_step']:.3f} s, {row['tokens_per_second']:.0f} tokens/s")

    name = re.sub(r"[^a-z0-9]+", "-", properties["name"].lower()).strip("-")
    record = args.record or ROOT / f"scripts/bench/runs/{datetime.date.today()}-{name}-training.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    figures = {"card": properties, "load": os.getloadavg(), "checkpoint": checkpoint.name, "settings": settings}
    record.write_text(json.dumps(figures | {"tests": tests, "rows": rows}, indent=1) + "\n")
    print(f"written to {record}", file=sys.stderr)
    sys.exit(any(result["programs_failed"] for result in tests))


if __name__ == "__main__":
    main()
