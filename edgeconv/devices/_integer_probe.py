"""A file of one operator that shows whether a processor's integer kernels saturate.

The product of four activations of 255 with four weights of 127 is 129540. Kernels that add two products in 16 bits make
65534 of it (`edgeconv.quantize` has which do, and weights with which none saturates). What the processor says of itself
would not do: an emulator passes on its host's features, and a build of the runtime may leave kernels out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from edgeconv.core import Array
from edgeconv.core.affine import quantized

INTEGER_KERNELS = "integer kernels"
"""Key of a device's environment for the result of the probe."""
EXACT = "exact"
SATURATING = "sums of two products saturate at 16 bits"

_ROWS, _COUNT, _COLUMNS = 8, 64, 32  # several of each, so that no kernel for vectors or edges is taken
_LARGEST, _WEIGHT, _STEP = 255, 127, 16384.0  # the exact sum is 127 steps, the saturated one 64: both are uint8


@cache
def integer_probe() -> tuple[bytes, Mapping[str, Array]]:
    """An ``.onnx`` file with one QLinearMatMul, and the input to give it."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "a_scale": np.float32(1),
        "a_zero": np.uint8(0),
        "b": np.full((_COUNT, _COLUMNS), _WEIGHT, np.int8),
        "b_scale": np.float32(1),
        "b_zero": np.int8(0),
        "y_scale": np.float32(_STEP),
        "y_zero": np.uint8(0),
    }
    node = helper.make_node(
        "QLinearMatMul", ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"], ["y"]
    )
    graph = helper.make_graph(
        [node],
        "probe",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [_ROWS, _COUNT])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [_ROWS, _COLUMNS])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    return model.SerializeToString(), {"a": np.full((_ROWS, _COUNT), _LARGEST, np.uint8)}


def read_probe(outputs: Sequence[Array]) -> str:
    """Whether a device's kernels are exact or saturate, by its answer to the probe."""
    # All products exact; and each pair cut off at 32767.
    totals = np.array([_COUNT * _LARGEST * _WEIGHT, _COUNT // 2 * 32767])
    exact, saturated = quantized(totals, _STEP, 0, "uint8").tolist()
    values = np.unique(np.concatenate([array.reshape(-1) for array in outputs] or [np.zeros(0)])).tolist()
    return {(exact,): EXACT, (saturated,): SATURATING}.get(tuple(values), f"unknown: the probe gave {values[:4]}")
