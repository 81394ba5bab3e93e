"""Time to the first token of a prompt with four pictures: `lwv-write` beside transformers, on the same random weights, in one run.

    python scripts/bench/pictures.py FOLDER LWV_EXPORT LWV_WRITE [--runs N] [--side PIXELS] [--record FILE]

FOLDER holds `checkpoint`, as wide as Qwen2.5-VL-3B with fewer layers, and keeps bundles of it. Both are asked with pixels and token
ids in memory, so reading files is no part of the time; encoding the pictures and reading the prompt are. transformers computes in
float32 with its default attention and a thread for every core; it stays loaded and is asked once before, `lwv-write` is a new process
every time. Runs alternate; medians are printed, and whether the first tokens of the float bundle and transformers are the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

PICTURES = 4
PROMPT = "Write a travel report about these pictures."
BUNDLES = {"fp32": ["--fp32"], "int4": ["--int4", "--rounding", "nearest", "--no-verify"]}


def pictures(side: int, folder: Path) -> list[Path]:
    """Squares of noise, smoothed as photographs are."""
    random = numpy.random.default_rng(0)
    paths = []
    for index in range(PICTURES):
        coarse = Image.fromarray(random.integers(0, 256, (side // 8, side // 8, 3), dtype=numpy.uint8))
        paths.append(folder / f"{index}.png")
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def run_ours(program: Path, bundle: Path, paths: list[Path]) -> tuple[float, int]:
    """Seconds to the first token, and the token."""
    command = [program, bundle, "--prompt", PROMPT, "--greedy", "--ignore-eos", "--max-new-tokens", 1, "--json", "--threads", os.cpu_count()]
    for path in paths:
        command += ["--image", path]
    output = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    return result["time_to_first_token"], result["token_ids"][0]


def transformers(checkpoint: Path, paths: list[Path]):
    """What asks transformers."""
    torch.set_num_threads(os.cpu_count())
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    content = [{"type": "image"} for _ in paths] + [{"type": "text", "text": PROMPT}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[Image.open(path) for path in paths], return_tensors="pt")

    def run() -> tuple[float, int]:
        start = time.perf_counter()
        with torch.no_grad():
            ids = model.generate(**inputs, max_new_tokens=1, do_sample=False)
        return time.perf_counter() - start, int(ids[0, -1])

    return run, inputs.input_ids.shape[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("folder", "lwv_export", "lwv_write"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--record", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    checkpoint = args.folder / "checkpoint"
    for name, options in BUNDLES.items():
        if not (args.folder / name / "lwv.json").exists():
            subprocess.run([str(part) for part in [args.lwv_export, checkpoint, args.folder / name, *options]], check=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = pictures(args.side, Path(folder))
        peer, tokens = transformers(checkpoint, paths)
        subjects = {name: (lambda name=name: run_ours(args.lwv_write, args.folder / name, paths)) for name in BUNDLES}
        subjects["transformers"] = peer
        peer()
        runs = {name: [] for name in subjects}
        for index in range(args.runs):
            for name in list(subjects)[:: 1 if index % 2 == 0 else -1]:
                runs[name].append(subjects[name]())
    seconds = {name: statistics.median(run[0] for run in all) for name, all in runs.items()}
    print(f"{PICTURES} pictures of {args.side} × {args.side}, {tokens} tokens")
    for name, took in seconds.items():
        print(f"{name:12} {took:.2f} s, {seconds['transformers'] / took:.2f} times transformers' speed")
    same = {run[1] for run in runs["fp32"] + runs["transformers"]}
    print("same first token:", len(same) == 1)
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        record = {"load": os.getloadavg(), "runs": args.runs, "tokens": tokens, "seconds": seconds, "same_token": len(same) == 1}
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
