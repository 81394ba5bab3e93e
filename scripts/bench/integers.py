"""What integers lose and gain, beside onnxruntime-genai's own int4, on the same checkpoint, in one run.

    python scripts/bench/integers.py CHECKPOINT FOLDER LWV_EXPORT LWV_WRITE TEXT [--runs N] [--contexts N...]
        [--speed-only | --quality-only] [--record FILE]

FOLDER keeps what is made: bundles in every precision, and what genai's builder makes (int4 by its default rounding and by k_quant).
Quality is over the first 2,048 tokens of TEXT, read one by one through each runtime's cache, against the checkpoint in float32:
by transformers for genai's, by `lwv-export`'s own parity report for ours (whose checkpoint perplexity must be transformers').
Speed is prefill and decode at 64, 512, 2,048 and 4,096 tokens; runs alternate as in decode.py.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import onnxruntime_genai
import torch
from decode import genai, prompt, run_bench, run_genai
from transformers import AutoModelForCausalLM, AutoTokenizer

TOKENS = 2048
CONTEXTS = (64, 512, 2048, 4096)
BUNDLES = {
    "fp32": ["--fp32", "--verify"],
    "fp16": ["--fp16", "--verify"],
    "int8": ["--int8"],
    "int8, blocks of 32": ["--int8", "--block-size", "32"],
    "int4, nearest": ["--int4", "--rounding", "nearest"],
    "int4, nearest, int8 cache": ["--int4", "--rounding", "nearest", "--int8-cache"],
    "int4, compensated": ["--int4"],
    "int4, mixed 5.5 bits": ["--int4", "--bits-per-weight", "5.5"],
}
GENAI = {"genai int4, default": "default", "genai int4, k_quant": "k_quant"}
SPEED = ["int4, compensated", "int4, nearest, int8 cache", "int8"]


def log_softmax(logits: numpy.ndarray) -> numpy.ndarray:
    """Log-probabilities in float64."""
    shifted = logits.astype(numpy.float64) - logits.max(-1, keepdims=True)
    return shifted - numpy.log(numpy.exp(shifted).sum(-1, keepdims=True))


def size(folder: Path) -> int:
    """Bytes of graphs and weights."""
    return sum(file.stat().st_size for file in folder.rglob("*.onnx*") if file.is_file())


def reference(checkpoint: Path, text: str) -> tuple[list[int], numpy.ndarray]:
    """The tokens that are read, and the checkpoint's log-probabilities after each."""
    ids = AutoTokenizer.from_pretrained(checkpoint)(text, add_special_tokens=False).input_ids[:TOKENS]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy()
    return ids, log_softmax(logits)


def genai_quality(folder: Path, ids: list[int], expected: numpy.ndarray) -> dict:
    """Divergence of genai's model over the text, read token by token."""
    model = onnxruntime_genai.Model(str(folder))
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(ids) + 1, do_sample=False)
    generator = onnxruntime_genai.Generator(model, parameters)
    divergences, agreements, surprise = [], 0, 0.0
    for index, token in enumerate(ids):
        generator.append_tokens([token])
        got = log_softmax(numpy.array(generator.get_logits()).reshape(-1, expected.shape[1])[-1])
        divergences.append(float((numpy.exp(expected[index]) * (expected[index] - got)).sum()))
        agreements += int(got.argmax() == expected[index].argmax())
        if index + 1 < len(ids):
            surprise -= got[ids[index + 1]]
    perplexity = float(numpy.exp(surprise / (len(ids) - 1)))
    return {
        "bytes": size(folder),
        "perplexity": perplexity,
        "perplexity_ratio": perplexity / own_perplexity(ids, expected),
        "mean_divergence": statistics.mean(divergences),
        "percentile_99_divergence": sorted(divergences)[-(-len(divergences) * 99 // 100) - 1],
        "top_1_agreement": agreements / len(ids),
    }


def own_perplexity(ids: list[int], expected: numpy.ndarray) -> float:
    """The checkpoint's perplexity of the text."""
    return float(numpy.exp(-numpy.mean([expected[i, ids[i + 1]] for i in range(len(ids) - 1)])))


def our_quality(bundle: Path, perplexity: float) -> dict:
    """What the parity report of a bundle says."""
    held_out = json.loads((bundle / "parity.json").read_text())["held_out"]
    if abs(held_out["checkpoint_perplexity"] / perplexity - 1) > 1e-4:
        sys.exit(f"{bundle}: the checkpoint's perplexity is {held_out['checkpoint_perplexity']}, transformers' {perplexity}")
    result = {"bytes": size(bundle), "perplexity": held_out["bundle_perplexity"]}
    return result | {key: held_out[key] for key in held_out if key.endswith(("ratio", "divergence", "agreement"))}


def make(args: argparse.Namespace) -> None:
    """Bundles and genai's models, where they are missing."""
    for name, options in BUNDLES.items():
        if args.speed_only and name not in SPEED:
            continue
        if not (args.folder / name / "lwv.json").exists():
            command = [args.lwv_export, args.checkpoint, args.folder / name, *options, "--force", "--held-out", args.text]
            subprocess.run([str(part) for part in command], check=True)
    for name, method in GENAI.items():
        if not (args.folder / name / "genai_config.json").exists():
            builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(args.checkpoint)]
            builder += ["-o", str(args.folder / name), "-p", "int4", "-e", "cpu", "--extra_options", f"algo_config={method}"]
            subprocess.run(builder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def quality(args: argparse.Namespace) -> dict:
    """Prints and returns what each loses."""
    ids, expected = reference(args.checkpoint, args.text.read_text())
    perplexity = own_perplexity(ids, expected)
    rows = {name: our_quality(args.folder / name, perplexity) for name in BUNDLES}
    rows |= {name: genai_quality(args.folder / name, ids, expected) for name in GENAI}
    print(f"perplexity of the checkpoint: {perplexity:.3f}, {len(ids)} tokens")
    print("| | MB | perplexity | ratio | mean divergence | 99th percentile | top-1 |\n|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        figures = f"{row['perplexity']:.2f} | {row['perplexity_ratio']:.3f} | {row['mean_divergence']:.4f}"
        figures += f" | {row['percentile_99_divergence']:.3f} | {100 * row['top_1_agreement']:.1f} %"
        print(f"| {name} | {row['bytes'] / 1e6:.1f} | {figures} |")
    return {"checkpoint_perplexity": perplexity, "tokens": len(ids), "rows": rows}


def speed(args: argparse.Namespace) -> list[dict]:
    """Prints and returns medians at each length."""
    cores = os.cpu_count()
    folder = args.folder / "genai int4, default"
    models = {"genai": genai(folder, None), f"genai, {cores} threads": genai(folder, cores)}
    rows = []
    for length in args.contexts:
        ids = prompt(models["genai"], length)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(ids, file)
            file.flush()
            subjects = {name: (lambda name=name: run_bench(args.lwv_write, args.folder / name, Path(file.name), length)) for name in SPEED}
            subjects |= {name: (lambda model=model: run_genai(model, ids)) for name, model in models.items()}
            for model in models.values():
                run_genai(model, ids)
            runs = {name: [] for name in subjects}
            for index in range(args.runs):
                for name in list(subjects)[:: 1 if index % 2 == 0 else -1]:
                    runs[name].append(subjects[name]())
        row = {"context": length}
        for name, all in runs.items():
            row[name] = {"prefill": statistics.median(r[0] for r in all), "decode": statistics.median(r[1] for r in all)}
        rows.append(row)
        for phase in ("prefill", "decode"):
            peer = row[f"genai, {cores} threads"][phase]
            print(f"{length:5} {phase:7}", ", ".join(f"{n} {row[n][phase]:.1f} ({row[n][phase] / peer:.2f})" for n in subjects))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "folder", "lwv_export", "lwv_write", "text"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--speed-only", action="store_true")
    parser.add_argument("--quality-only", action="store_true")
    parser.add_argument("--record", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    make(args)
    result = {"load": os.getloadavg(), "runs": args.runs}
    if not args.speed_only:
        result["quality"] = quality(args)
    if not args.quality_only:
        result["speed"] = speed(args)
    if args.record:
        args.record.parent.mkdir(parents=True, exist_ok=True)
        args.record.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
