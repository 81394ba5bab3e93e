"""An adapter file of ONNX Runtime's own making, for the reader in `model`.

    python scripts/reference/adapter_file.py tests/fixtures/written_by_onnxruntime.onnx_adapter

Two tensors: `a`, float32 [2, 3] of 0, 0.5, 1 …, and `b`, float16 [3, 1] of -1, 0.25, 8.
"""

import sys

import numpy
import onnxruntime

TENSORS = {
    "a": numpy.arange(6, dtype=numpy.float32).reshape(2, 3) / 2,
    "b": numpy.array([[-1.0], [0.25], [8.0]], dtype=numpy.float16),
}


def main() -> None:
    adapter = onnxruntime.AdapterFormat()
    adapter.set_adapter_version(3)
    adapter.set_model_version(5)
    adapter.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(tensor) for name, tensor in TENSORS.items()})
    adapter.export_adapter(sys.argv[1])


if __name__ == "__main__":
    main()
