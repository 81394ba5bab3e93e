"""Matrices quantized by ONNX Runtime's own quantizer, for quantize/tests.

    python scripts/reference/block_matrix.py tests/fixtures/block_matrix.json

Symmetric, for `MatMulNBits`: weights, codes and scales in the layout of the operator, at several block sizes, with inputs that
fill no whole block, and what the operator computes of one input with float activations (accuracy level 1).
"""

import argparse
import json
from pathlib import Path

import numpy
import onnx
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime.capi import _pybind_state as native

ROWS = 5
CASES = [(bits, block, columns) for bits in (4, 8) for block, columns in [(16, 40), (32, 64), (64, 64), (128, 200)]]


def quantize(weight: numpy.ndarray, bits: int, block: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Codes `[rows, blocks, bytes]` and scales `[rows, blocks]` of `weight` `[rows, columns]`."""
    rows, columns = weight.shape
    blocks = -(-columns // block)
    codes = numpy.zeros((rows, blocks, block * bits // 8), dtype=numpy.uint8)
    scales = numpy.zeros((rows, blocks), dtype=numpy.float32)
    zeros = numpy.zeros((rows, -(-blocks * bits // 8)), dtype=numpy.uint8)
    run = native.quantize_matmul_4bits if bits == 4 else native.quantize_matmul_8bits
    run(codes, numpy.ascontiguousarray(weight.T), scales.reshape(-1), zeros.reshape(-1), block, rows, columns, True)
    return codes, scales


def multiply(x: numpy.ndarray, codes: numpy.ndarray, scales: numpy.ndarray, bits: int, block: int) -> numpy.ndarray:
    """What `MatMulNBits` makes of `x` `[1, columns]`."""
    columns, rows = x.shape[1], codes.shape[0]
    attributes = {"K": columns, "N": rows, "bits": bits, "block_size": block, "accuracy_level": 1}
    node = helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", **attributes)
    initializers = [
        helper.make_tensor("codes", TensorProto.UINT8, codes.shape, codes.tobytes(), raw=True),
        helper.make_tensor("scales", TensorProto.FLOAT, scales.shape, scales.tobytes(), raw=True),
    ]
    border = lambda name, size: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size])  # noqa: E731
    graph = helper.make_graph([node], "g", [border("x", columns)], [border("y", rows)], initializers)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    generator = numpy.random.default_rng(7)
    cases = []
    for bits, block, columns in CASES:
        weight = generator.standard_normal((ROWS, columns), dtype=numpy.float32)
        x = generator.standard_normal((1, columns), dtype=numpy.float32)
        codes, scales = quantize(weight, bits, block)
        case = {"bits": bits, "block_size": block, "columns": columns}
        values = {"weights": weight, "codes": codes, "scales": scales, "input": x}
        values["output"] = multiply(x, codes, scales, bits, block)
        cases.append(case | {name: array.reshape(-1).tolist() for name, array in values.items()})
    versions = {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__, "numpy": numpy.__version__}
    args.file.write_text(json.dumps({"versions": versions, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
