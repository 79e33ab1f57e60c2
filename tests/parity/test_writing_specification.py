"""What a format's specification rules out in any file of integers, and what a file says in two ways."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from edgeconv.core import Array
from edgeconv.parity.writing._alike import Alike
from edgeconv.parity.writing._half_constants import narrowed_constants
from edgeconv.parity.writing._layers import LayerOff
from edgeconv.parity.writing._ranges import told_ranges
from edgeconv.parity.writing._real_file import Part, RealFile
from edgeconv.parity.writing._specification import onnx_contradictions, tflite_contradictions
from edgeconv.parity.writing._steps import steps_of
from edgeconv.parity.writing._weights import Rounding
from edgeconv.reference.tflite import Operator, Quantization, Tensor, TfliteGraph


def _tensor(name: str, dtype: str, scale: float, point: int = 0, data: Array | None = None) -> Tensor:
    return Tensor(name, (1, 4), dtype, Quantization((scale,), (point,), 0), data)


def _graph() -> TfliteGraph:
    """A matrix product, and a sigmoid of it."""
    weights, bias = np.ones((4, 4), np.int8), np.ones(4, np.int32)
    tensors = (
        _tensor("x", "int8", 0.1, 3),
        _tensor("w", "int8", 0.2, data=weights),
        _tensor("b", "int32", 0.02, data=bias),
        _tensor("y", "int8", 0.5, -7),
        _tensor("p", "int8", 1 / 256, -128),
    )
    operators = (Operator("FULLY_CONNECTED", (0, 1, 2), (3,), {}), Operator("LOGISTIC", (3,), (4,), {}))
    return TfliteGraph(tensors, operators, (0,), (4,))


@pytest.mark.parametrize(
    ("index", "scale", "point", "told"),
    [
        (1, 0.2, 1, "weights of integers have none"),
        (2, 0.02, 1, "a bias of integers has none"),
        (4, 1 / 128, -128, "specified are 0.00390625 and -128"),
        (4, 1 / 256, -127, "specified are 0.00390625 and -128"),
        (0, 0.3, 5, ""),
        (3, 0.3, 5, ""),
    ],
)
def test_what_tflite_specifies_is_no_choice(index: int, scale: float, point: int, told: str) -> None:
    graph = _graph()
    assert list(tflite_contradictions(graph, {})) == []
    tensors = list(graph.tensors)
    tensors[index] = replace(tensors[index], quantization=Quantization((scale,), (point,), 0))
    lines = [line for _, line in tflite_contradictions(replace(graph, tensors=tuple(tensors)), {})]
    assert len(lines) == bool(told)
    assert told in "".join(lines)


def test_a_tensor_may_not_have_the_name_that_the_signature_gives_to_another() -> None:
    assert list(tflite_contradictions(_graph(), {"x": "image", "p": "scores"})) == []
    lines = list(tflite_contradictions(_graph(), {"scores": "boxes", "boxes": "scores"}))
    assert [name for name, _ in lines] == ["boxes", "scores"]


@pytest.mark.parametrize(("point", "count"), [(0, 0), (1, 1)])
def test_integers_of_32_bits_have_no_zero_point_in_onnx(point: int, count: int) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 18]> g (float[1, 2] x) => (float[1, 2] y)
    <int32[2] q = {{5, 7}}, float s = {{0.5}}, int32 z = {{{point}}}> {{ b = DequantizeLinear (q, s, z)
    y = Add (x, b) }}"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    assert len(list(onnx_contradictions(model.graph))) == count


def test_floats_that_are_halves_are_told_beside_the_modules() -> None:
    due = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    narrowed = due.astype(np.float16).astype(np.float32).T.copy()
    others = {"w": due + np.float32(0.01), "v": due.T.copy(), "n": np.full((4, 8), 0.5, np.float32)}
    assert list(narrowed_constants(others, [{"due": due, "halves": np.full((4, 8), 0.5, np.float32)}])) == []
    ((name, line),) = narrowed_constants({"w": narrowed}, [{"due": due}])
    assert (name, "rounded to float16" in line) == ("w", True)


def _rounded(due: Array, scales: Array) -> tuple[Array, Array]:
    counts = np.clip(np.rint(due / scales), -127, 127)
    return counts * scales, np.broadcast_to(scales, due.shape)


def test_scales_of_other_channels_are_told() -> None:
    generator = np.random.default_rng(1)
    due = generator.standard_normal((6, 4, 3, 3)) * generator.uniform(0.9, 1.1, (6, 1, 1, 1))
    scales = np.abs(due).max((1, 2, 3), keepdims=True) / 127
    rows = generator.permutation(6)
    held, steps = _rounded(due, scales)
    moved = {"w": (held / scales * np.roll(scales, 1, 0), np.broadcast_to(np.roll(scales, 1, 0), due.shape))}
    assert list(Rounding({"w": (held, steps)}, [{"w": due}]).faults()) == []
    ((_, line),) = Rounding(moved, [{"w": due}]).faults()
    assert "by the scales of other channels" in line
    reordered = {"w": (held[rows], steps[rows])}
    assert not any("scales of other" in line for _, line in Rounding(reordered, [{"w": due}]).faults())


def test_what_no_layer_multiplies_by_is_the_nearest() -> None:
    """A grid of places is not evened out, nor is its rounding learned, whatever became of the weights beside it."""
    due = np.arange(64.0).reshape(8, 8) * 0.1
    held, steps = _rounded(due, np.array(6.3 / 127))
    held[3, 3] += float(steps[0, 0])
    constants = {"grid": (held, steps)}
    assert list(Rounding(constants, [{"grid": due}], weights={"grid"}).faults()) == []
    ((name, _),) = Rounding(constants, [{"grid": due}], weights=()).faults()
    assert name == "grid"


@pytest.mark.parametrize(
    ("scale", "told"),
    [
        (2 / 255, ""),
        (6 / 255, "the range of y is 3 times what the first sample reaches"),
        (1.5 / 255, "that of y cuts off 26 % of its numbers"),
    ],
)
def test_the_range_of_an_activation_is_told_and_no_fault(scale: float, told: str) -> None:
    part = Part("ADD", ("x",), ("y",), lambda values: [values["x"]])
    file = RealFile((part,), ("x",), ("y",), {}, {}, {"y": steps_of(scale, 0, "int8")}, {"y": "y"})
    layer = LayerOff("y", part, Alike("sum", (0,)))
    assert told_ranges([layer], file, {"sum": np.linspace(-1, 1, 101)}) == told
