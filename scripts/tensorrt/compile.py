"""Compiles the graphs of bundles with TensorRT-RTX on the CPU: no card is needed.

    python scripts/tensorrt/compile.py BUNDLE_OR_GRAPH... [--cards SM89 SM120] [--keep] [--json]

Every graph of every bundle is parsed and built with the profiles of its `lwv.json`, for each card, and so are graphs that are named by
themselves, whose sizes are fixed. Anything that the parser or the builder refuses is an error. With --keep, engines are kept as
BUNDLE/engines/<graph>.<card>.engine; with --json, each is told as a JSON object on a line.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import tensorrt_rtx_bindings as trt


class Refusals(trt.ILogger):
    """Keeps what went wrong and says nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        if severity <= trt.ILogger.Severity.ERROR:
            self.lines.append(message)


def compile_graph(file: Path, profiles: dict, card: str) -> tuple[bytes, int]:
    """The engine of a graph, and how many layers its network had."""
    refusals = Refusals()
    builder = trt.Builder(refusals)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, refusals)
    if not parser.parse_from_file(str(file)):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise RuntimeError("\n".join(errors or refusals.lines))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, card), 0)
    profile = builder.create_optimization_profile()
    for name, shapes in profiles.items():
        profile.set_shape(name, shapes["min"], shapes["opt"], shapes["max"])
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError("\n".join(refusals.lines) or "no engine and no word why")
    return bytes(engine), network.num_layers


def graphs(place: Path) -> Iterator[tuple[str, str, Path, dict]]:
    """Name, precision, file and profiles of the graphs at a place."""
    if place.is_file():
        yield place.stem, "fixed", place, {}
        return
    manifest = json.loads((place / "lwv.json").read_text())
    for name, graph in manifest["graphs"].items():
        file = graph["file"]
        yield name, graph["precision"], place / file, manifest["profiles"].get(file, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--cards", nargs="+", default=["SM89", "SM120"])
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    known = [name for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    if unknown := [card for card in args.cards if card not in known]:
        sys.exit(f"there are no cards {' '.join(unknown)}; known are {' '.join(known)}")
    refused = 0
    for bundle in args.bundles:
        for name, precision, file, profiles in graphs(bundle):
            for card in args.cards:
                started = time.monotonic()
                place = f"{bundle.name} {name} {precision} {card}"
                try:
                    engine, layers = compile_graph(file, profiles, card)
                except RuntimeError as error:
                    refused += 1
                    print(f"{place}: REFUSED\n{error}", file=sys.stderr if args.json else sys.stdout, flush=True)
                    continue
                seconds = time.monotonic() - started
                if args.keep and bundle.is_dir():
                    target = bundle / "engines" / f"{name}.{card.lower()}.engine"
                    target.parent.mkdir(exist_ok=True)
                    target.with_suffix(".partial").write_bytes(engine)
                    os.replace(target.with_suffix(".partial"), target)
                told = {"graph": name, "card": card.lower(), "layers": layers, "bytes": len(engine), "seconds": seconds}
                if args.json:
                    print(json.dumps(told | {"version": trt.__version__}), flush=True)
                else:
                    print(f"{place}: {layers} layers, {len(engine) / 1e6:.1f} MB in {seconds:.1f} s", flush=True)
    if refused:
        sys.exit(f"{refused} graphs were refused")


if __name__ == "__main__":
    main()
