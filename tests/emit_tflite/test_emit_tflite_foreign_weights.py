"""Weights that another quantizer stored: as they are wherever TFLite can have them so.

Else their layer is computed in floats (scales along the inputs), or channels are rounded again (beyond int8); either is
noted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from edgeconv.reference import evaluate

_IMAGE = (1, 8, 8, 8)


def _model(operator: str, weight: np.ndarray, scale: Any, zero: Any, axis: int = 0, **attributes: Any) -> ir.Model:
    """x -> pair -> layer of these integers -> pair -> y."""
    pairs = {"a": ("x", 0.05), "y": ("b", 1 / 16)}
    nodes = [helper.make_node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w"], axis=axis)]
    constants = {"w_q": weight, "w_s": np.array(scale, np.float32), "w_z": np.array(zero, weight.dtype)}
    for name, (source, step) in pairs.items():
        if name == "y":
            nodes.append(helper.make_node(operator, ["a", "w"], ["b"], **attributes))
        for kind, output, input_ in (("Quantize", f"{name}_q", source), ("Dequantize", name, f"{name}_q")):
            nodes.append(helper.make_node(f"{kind}Linear", [input_, f"{name}_s", f"{name}_z"], [output]))
        constants |= {f"{name}_s": np.array(step, np.float32), f"{name}_z": np.array(0, np.int8)}
    rank = weight.ndim
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, _IMAGE[:rank])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(shape_inference.infer_shapes(proto))


def _compared(tflite: Any, model: ir.Model) -> tuple[float, tuple[str, ...]]:
    """SQNR of the file against the graph in dB, and notes."""
    emitted = tflite.to_tflite(model, metadata={}, io="int8")
    declared = model.graph.inputs[0].shape
    assert declared is not None
    x = np.random.default_rng(0).standard_normal(declared.numpy()).astype(np.float32) * 2
    (actual,) = tflite.run(emitted, [x], "reference").outputs
    expected = evaluate(model, {"x": x}, keep=["y"])["y"]
    assert np.abs(expected).max() < 127 / 16  # nothing is clipped
    assert np.ptp(expected) > 2
    error = actual - expected
    sqnr_db = 10 * np.log10(np.square(expected).sum() / max(np.square(error).sum(), 1e-20))
    assert np.abs(np.rint(error * 16)).max() <= 1
    return float(sqnr_db), emitted.notes


def _integers(low: int, high: int, dtype: Any, shape: tuple[int, ...] = (12, 8, 3, 3)) -> np.ndarray:
    return np.random.default_rng(1).integers(low, high + 1, shape).astype(dtype)


_SCALES = [0.0005 + 0.0001 * at for at in range(12)]
_EXACT = {
    "uint8 about 128": _model("Conv", _integers(0, 255, np.uint8), 0.001, 128),
    "uint8 about 120": _model("Conv", _integers(0, 247, np.uint8), 0.001, 120),
    "int8 about 20": _model("Conv", _integers(-108, 127, np.int8), 0.001, 20),
    "uint8 by channel": _model("Conv", _integers(20, 230, np.uint8), _SCALES, list(range(110, 122))),
    "depthwise": _model("Conv", _integers(20, 230, np.uint8, (8, 1, 3, 3)), 0.003, 120, group=8),
    "transposed": _model("ConvTranspose", _integers(0, 247, np.uint8, (8, 12, 3, 3)), 0.001, 120),
    "product": _model("MatMul", _integers(0, 247, np.uint8, (8, 12)), 0.004, 120),
    "product by rows": _model(
        "Gemm", _integers(0, 255, np.uint8, (12, 8)), [0.004] * 6 + [0.002] * 6, [128] * 12, transB=1
    ),
}
_MIXED = np.concatenate([_integers(0, 247, np.uint8, (11, 8, 3, 3)), _integers(0, 255, np.uint8, (1, 8, 3, 3))])
_BEYOND = _model("Conv", _MIXED, 0.001, 120)  # one channel
_ALONG_INPUTS = {
    "conv": _model("Conv", _integers(-127, 127, np.int8), _SCALES[:8], [0] * 8, axis=1),
    "transposed": _model("ConvTranspose", _integers(-127, 127, np.int8, (8, 12, 3, 3)), _SCALES[:8], [0] * 8, axis=0),
    "phases": _model(
        "ConvTranspose", _integers(-127, 127, np.int8, (8, 12, 2, 2)), _SCALES[:8], [0] * 8, axis=0, strides=[2, 2]
    ),
    "product": _model("MatMul", _integers(-127, 127, np.int8, (8, 12)), [4 * s for s in _SCALES[:8]], [0] * 8, axis=0),
}


@pytest.mark.parametrize("name", list(_EXACT))
def test_zero_points_are_taken_off_exactly(tflite: Any, name: str) -> None:
    sqnr_db, notes = _compared(tflite, _EXACT[name])
    assert notes == ()
    assert sqnr_db > 45  # all equal but for ties; rounded again it was 35 to 40


def test_what_is_rounded_again_is_noted(tflite: Any) -> None:
    sqnr_db, (note,) = _compared(tflite, _BEYOND)
    assert note.startswith("the weights of 'y' are rounded to int8 again in 1 of 12 channels")
    assert sqnr_db > 35


@pytest.mark.parametrize("name", list(_ALONG_INPUTS))
def test_scales_along_the_inputs_leave_their_layer_in_floats(tflite: Any, name: str) -> None:
    sqnr_db, notes = _compared(tflite, _ALONG_INPUTS[name])
    assert notes
    assert all("stays float: the scales of its weights lie along their inputs" in note for note in notes)
    assert sqnr_db > 45  # all equal but for ties; rounded again it was 35 to 40
