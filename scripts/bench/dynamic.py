"""How fast 8 bits are with activations rounded as they come (dynamic int8), beside 8-bit weights in blocks, which is what
`lwv-export --int8` makes.

    python scripts/bench/dynamic.py BUNDLE FOLDER LWV_WRITE [--runs N] [--contexts N...]

BUNDLE is a bundle of target `ort` in 8 bits. FOLDER becomes a copy of it in which every product is ONNX Runtime's
`DynamicQuantizeMatMul` with one scale an output and one for all that is read; all else is the same. Runs alternate.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy
import onnx
from decode import run_bench
from onnx import helper, numpy_helper

DECODER = "onnx/decoder_model_merged.onnx"


def floats(node: onnx.NodeProto, initializers: dict[str, onnx.TensorProto]) -> numpy.ndarray:
    """The weights of a product, `[outputs, inputs]`."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    codes, scales = (numpy_helper.to_array(initializers[name]) for name in node.input[1:3])
    assert attributes["bits"] == 8 and len(node.input) == 3, node.name
    outputs, inputs = attributes["N"], attributes["K"]
    weights = (codes.reshape(outputs, -1, attributes["block_size"]).astype(numpy.float32) - 128) * scales.reshape(outputs, -1, 1)
    return weights.reshape(outputs, -1)[:, :inputs]


def make(bundle: Path, folder: Path) -> None:
    """The copy."""
    shutil.copytree(bundle, folder)
    model = onnx.load(bundle / DECODER)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    kept = dict(initializers)
    for index, node in enumerate(model.graph.node):
        if node.op_type != "MatMulNBits":
            continue
        weights = floats(node, initializers)
        scales = numpy.abs(weights).max(1) / 127
        scales[scales == 0] = 1
        codes = numpy.rint(weights / scales[:, None]).astype(numpy.int8).T
        names = [f"{node.name}.{part}" for part in ("codes", "scales", "zeros")]
        parts = [numpy.ascontiguousarray(codes), scales.astype(numpy.float32), numpy.zeros(len(scales), numpy.int8)]
        for name in node.input[1:3]:
            kept.pop(name, None)
        kept |= {name: numpy_helper.from_array(part, name) for name, part in zip(names, parts)}
        product = helper.make_node(
            "DynamicQuantizeMatMul", [node.input[0], *names], list(node.output), node.name, domain="com.microsoft"
        )
        model.graph.node[index].CopyFrom(product)
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept.values())
    (folder / DECODER).unlink()
    (folder / f"{DECODER}_data").unlink()
    onnx.save_model(model, folder / DECODER, save_as_external_data=True, location=Path(DECODER).name + "_data")
    manifest = json.loads((folder / "lwv.json").read_text())
    for name, file in manifest["files"].items():
        file["bytes"] = (folder / name).stat().st_size
    (folder / "lwv.json").write_text(json.dumps(manifest))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bundle", "folder", "lwv_write"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--contexts", type=int, nargs="+", default=(64, 512, 2048))
    args = parser.parse_args()
    if not args.folder.exists():
        make(args.bundle, args.folder)
    bundles = {"weights in blocks": args.bundle, "dynamic": args.folder}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as ids:
        ids.write(str(list(range(1000, 1100))))
        ids.flush()
        for length in args.contexts:
            runs = {name: [] for name in bundles}
            for index in range(args.runs):
                for name in list(bundles)[:: 1 if index % 2 == 0 else -1]:
                    runs[name].append(run_bench(args.lwv_write, bundles[name], Path(ids.name), length))
            for part, phase in enumerate(("reading", "writing")):
                blocks, dynamic = (statistics.median(run[part] for run in runs[name]) for name in bundles)
                print(f"{length:5} {phase} in blocks {blocks:.1f}, dynamic {dynamic:.1f} ({dynamic / blocks:.2f})", flush=True)


if __name__ == "__main__":
    main()
