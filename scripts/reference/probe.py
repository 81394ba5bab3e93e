"""A small graph of the kinds of operators that decoders are made of, for asking a card whether it computes right.

    python scripts/reference/probe.py runtime/assets/probe.onnx

Matrices of 16 bits, a norm and a softmax of 32: kernels that a library may lack for a card. Weights are sines, so that the file
is the same wherever it is made.
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, ROWS, HIDDEN = 64, 16, 128


def sines(name: str, rows: int, columns: int, dtype: type) -> TensorProto:
    places = np.arange(rows * columns, dtype=np.float64).reshape(rows, columns)
    return numpy_helper.from_array((0.2 * np.sin(places)).astype(dtype), name)


def main() -> None:
    up, down = sines("up", WIDTH, HIDDEN, np.float16), sines("down", HIDDEN, WIDTH, np.float16)
    constants = [up, down, numpy_helper.from_array(np.array([-1], np.int64), "last"), numpy_helper.from_array(np.float32(2), "two")]
    cast = lambda source, made, to: helper.make_node("Cast", [source], [made], to=to)
    nodes = [
        helper.make_node("Pow", ["x", "two"], ["squares"]),
        helper.make_node("ReduceMean", ["squares", "last"], ["mean"], keepdims=1),
        helper.make_node("Sqrt", ["mean"], ["size"]),
        helper.make_node("Div", ["x", "size"], ["normed"]),
        cast("normed", "halves", TensorProto.FLOAT16),
        helper.make_node("MatMul", ["halves", "up"], ["wide"]),
        helper.make_node("Sigmoid", ["wide"], ["gate"]),
        helper.make_node("Mul", ["wide", "gate"], ["gated"]),
        helper.make_node("MatMul", ["gated", "down"], ["narrow"]),
        cast("narrow", "scores", TensorProto.FLOAT),
        helper.make_node("Softmax", ["scores"], ["y"], axis=-1),
    ]
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [ROWS, WIDTH])
    graph = helper.make_graph(nodes, "probe", [value("x")], [value("y")], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, sys.argv[1])


if __name__ == "__main__":
    main()
