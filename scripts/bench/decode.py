"""Reading and writing speed of `lwv-write` beside onnxruntime-genai, on the same float32 weights, in one run.

    python scripts/bench/decode.py CHECKPOINT BUNDLE GENAI_MODEL LWV_WRITE [--runs N] [--record FILE]

GENAI_MODEL is what genai's own builder makes of CHECKPOINT; it is made if it is missing. Runs of both alternate, A B, B A,
and so on. genai runs at its default and with as many threads as there are cores; its model stays loaded, and each
measured run starts with a fresh generator after one that is not counted. Medians are printed, and whether both wrote the
same tokens. Exit status 1 if they did not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnxruntime_genai

CONTEXTS = (64, 512, 2048)
NEW_TOKENS = 32
TEXT = "The lighthouse keeper climbed the stairs every evening, trimmed the wick, and wrote down the weather. "


def build(checkpoint: Path, model: Path) -> None:
    """Lets genai's builder make its own model of the checkpoint."""
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    arguments = ["-i", str(checkpoint), "-o", str(model), "-p", "fp32", "-e", "cpu"]
    subprocess.run(builder + arguments, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def genai(model: Path, threads: int | None) -> onnxruntime_genai.Model:
    """genai's model, with its default of threads or with so many."""
    config = onnxruntime_genai.Config(str(model))
    if threads is not None:
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
    return onnxruntime_genai.Model(config)


def run_genai(model: onnxruntime_genai.Model, ids: list[int]) -> tuple[float, float, list[int]]:
    """Tokens read and written in a second, and the tokens."""
    parameters = onnxruntime_genai.GeneratorParams(model)
    length = len(ids) + NEW_TOKENS
    parameters.set_search_options(max_length=length + 1, min_length=length, do_sample=False)
    generator = onnxruntime_genai.Generator(model, parameters)
    start = time.perf_counter()
    generator.append_tokens(ids)
    generator.generate_next_token()
    middle = time.perf_counter()
    for _ in range(NEW_TOKENS - 1):
        generator.generate_next_token()
    end = time.perf_counter()
    tokens = [int(token) for token in generator.get_sequence(0)[len(ids) :]]
    return len(ids) / (middle - start), (NEW_TOKENS - 1) / (end - middle), tokens


def run_ours(program: Path, bundle: Path, ids: Path) -> tuple[float, float, list[int]]:
    """The same of `lwv-write`, a fresh process each time."""
    command = [program, bundle, "--prompt-ids", ids, "--greedy", "--ignore-eos", "--json"]
    command += ["--max-new-tokens", str(NEW_TOKENS), "--threads", str(os.cpu_count())]
    output = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    return result["prefill_tokens_per_second"], result["decode_tokens_per_second"], result["token_ids"]


def run_bench(program: Path, bundle: Path, ids: Path, length: int) -> tuple[float, float]:
    """The same as `lwv-write` measures it, after a text that is not counted. Of short texts several are, since the first ones of a
    process are slower and the peers' processes are long past theirs."""
    command = [program, "bench", bundle, "--prompt-ids", ids, "--lengths", str(length), "--new-tokens", str(NEW_TOKENS)]
    command += ["--runs", str(max(1, 2048 // length)), "--threads", str(os.cpu_count()), "--json"]
    output = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    return result["prefill_tokens_per_second"], result["decode_tokens_per_second"]


def prompt(model: onnxruntime_genai.Model, length: int) -> list[int]:
    """So many tokens of English."""
    tokens = list(onnxruntime_genai.Tokenizer(model).encode(TEXT))
    return [int(token) for token in (tokens * (length // len(tokens) + 1))[:length]]


def measure(args: argparse.Namespace, length: int, models: dict) -> dict:
    """Medians of all at one length."""
    ids = prompt(models["genai"], length)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(ids, file)
        file.flush()
        subjects = {"ours": lambda: run_ours(args.lwv_write, args.bundle, Path(file.name))}
        subjects |= {name: (lambda model=model: run_genai(model, ids)) for name, model in models.items()}
        for model in models.values():
            run_genai(model, ids)
        runs = {name: [] for name in subjects}
        for index in range(args.runs):
            names = list(subjects) if index % 2 == 0 else list(subjects)[::-1]
            for name in names:
                runs[name].append(subjects[name]())
    row = {"context": length, "same_tokens": len({tuple(run[2]) for all in runs.values() for run in all}) == 1}
    for name, all in runs.items():
        row[name] = {"prefill": statistics.median(run[0] for run in all), "decode": statistics.median(run[1] for run in all)}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "bundle", "genai_model", "lwv_write"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--record", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if not (args.genai_model / "genai_config.json").exists():
        build(args.checkpoint, args.genai_model)
    cores = os.cpu_count()
    models = {"genai": genai(args.genai_model, None), f"genai, {cores} threads": genai(args.genai_model, cores)}
    rows = [measure(args, length, models) for length in CONTEXTS]
    for row in rows:
        for phase in ("prefill", "decode"):
            ours = row["ours"][phase]
            others = ", ".join(f"{name} {row[name][phase]:.1f} (ratio {ours / row[name][phase]:.2f})" for name in models)
            print(f"{row['context']:5} {phase:7} ours {ours:.1f}, {others} tokens/s")
        print(f"{row['context']:5} same tokens: {row['same_tokens']}")
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps({"load": os.getloadavg(), "runs": args.runs, "rows": rows}, indent=1) + "\n")
    sys.exit(not all(row["same_tokens"] for row in rows))


if __name__ == "__main__":
    main()
