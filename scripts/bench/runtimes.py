"""Reading and writing speed of `lwv-write` beside onnxruntime-genai and llama.cpp, on the same weights in 4 bits, in one run.

    python scripts/bench/runtimes.py CHECKPOINT GGUF FOLDER LWV_EXPORT LWV_WRITE [--runs N] [--contexts N...] [--record FILE]

GGUF is the file that CHECKPOINT was made of (4 bits in blocks of 32 with a minimum each), which llama.cpp reads as it is, with its
own defaults of attention and cache. FOLDER keeps bundles and genai's model, all rounded to the nearest 4 bits, since methods of
rounding differ in quality and not in speed; see integers.py for that. A bundle of 8 bits is there to compare. Runs alternate, and
what counts comes after a text that does not: genai and llama.cpp stay loaded and are asked once before, `lwv-write bench` loads
its bundle every time. Medians are printed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import xllamacpp
from decode import NEW_TOKENS, genai, prompt, run_bench, run_genai

CONTEXTS = (64, 512, 2048, 4096, 8000)
BUNDLES = {
    "int4": ["--int4", "--rounding", "nearest"],
    "int4, int8 cache": ["--int4", "--rounding", "nearest", "--int8-cache"],
    "int8": ["--int8"],
}


def make(args: argparse.Namespace) -> None:
    """What is missing in the folder."""
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, options in BUNDLES.items():
        if not (args.folder / name / "lwv.json").exists():
            command = [args.lwv_export, args.checkpoint, args.folder / name, *options, "--no-verify"]
            subprocess.run([str(part) for part in command], check=True)
    if not (args.folder / "genai" / "genai_config.json").exists():
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(args.checkpoint)]
        builder += ["-o", str(args.folder / "genai"), "-p", "int4", "-e", "cpu"]
        subprocess.run(builder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def llama_cpp(gguf: Path, context: int) -> xllamacpp.Server:
    """llama.cpp with a thread for every core."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.n_ctx = context
    parameters.n_parallel = 1
    parameters.warmup = True
    parameters.cpuparams.n_threads = os.cpu_count()
    parameters.cpuparams_batch.n_threads = os.cpu_count()
    return xllamacpp.Server(parameters)


def run_llama_cpp(server: xllamacpp.Server, ids: list[int]) -> tuple[float, float]:
    """Tokens read and written in a second, as llama.cpp counts them."""
    request = {"prompt": ids, "n_predict": NEW_TOKENS, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
    timings = server.handle_completions(request)["timings"]
    return timings["prompt_per_second"], timings["predicted_per_second"]


def measure(args: argparse.Namespace, length: int, models: dict, server: xllamacpp.Server) -> dict:
    """Medians of all at one length."""
    ids = prompt(models["genai"], length)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(ids, file)
        file.flush()
        subjects = {name: (lambda name=name: run_bench(args.lwv_write, args.folder / name, Path(file.name), length)) for name in BUNDLES}
        subjects |= {name: (lambda model=model: run_genai(model, ids)) for name, model in models.items()}
        subjects["llama.cpp"] = lambda: run_llama_cpp(server, ids)
        for name in subjects.keys() - BUNDLES.keys():
            subjects[name]()
        runs = {name: [] for name in subjects}
        for index in range(args.runs):
            for name in list(subjects)[:: 1 if index % 2 == 0 else -1]:
                runs[name].append(subjects[name]())
    medians = {name: [statistics.median(run[part] for run in all) for part in (0, 1)] for name, all in runs.items()}
    return {"context": length} | {name: {"prefill": read, "decode": write} for name, (read, write) in medians.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "gguf", "folder", "lwv_export", "lwv_write"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--record", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    make(args)
    cores = os.cpu_count()
    models = {"genai": genai(args.folder / "genai", None), f"genai, {cores} threads": genai(args.folder / "genai", cores)}
    server = llama_cpp(args.gguf, max(args.contexts) + NEW_TOKENS + 1)
    rows = []
    for length in args.contexts:
        row = measure(args, length, models, server)
        rows.append(row)
        for phase in ("prefill", "decode"):
            best = max(row[name][phase] for name in models)
            figures = [f"{name} {row[name][phase]:.1f} ({row[name][phase] / best:.2f})" for name in row if name != "context"]
            print(f"{length:5} {phase:7}", ", ".join(figures), flush=True)
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps({"load": os.getloadavg(), "runs": args.runs, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
