"""A file of integers of another converter: right ones pass, and each wrong layer, constant or scale is named."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from edgeconv.core import NHWC, TensorSpec
from edgeconv.parity.writing import Ends, OnValues, integer_faults
from edgeconv.parity.writing._real_file import RealFile, real_tflite
from edgeconv.parity.writing._tflite_integers import tflite_integers, tflite_misread
from edgeconv.reference.tflite import Operator, Quantization, Tensor, TfliteGraph, evaluate

RNG = np.random.default_rng(3)
CHANNELS = (3, 8, 8, 6)
WEIGHTS = [RNG.standard_normal((o, 3, 3, i)) / 5 for i, o in itertools.pairwise(CHANNELS)]
BIASES = [RNG.standard_normal(o) / 2 for o in CHANNELS[1:]]
X = RNG.standard_normal((1, 3, 12, 12))
RELU, NONE, SAME, VALID = 1, 0, 0, 1
FLAT = {"stride_w": 1, "stride_h": 1, "dilation_w_factor": 1, "dilation_h_factor": 1}


@dataclass
class File:
    """What a file says of itself."""

    graph: TfliteGraph
    constants = MappingProxyType[str, Any]({})  # floats, of which files of integers have none

    @property
    def integers(self) -> dict[str, tuple[Any, Any]]:
        return dict(tflite_integers(self.graph))

    @property
    def misread(self) -> tuple[tuple[str, str], ...]:
        return tuple(tflite_misread(self.graph))

    @property
    def real(self) -> RealFile:
        return real_tflite(self.graph)


def _layers(fused: tuple[int, ...] = (RELU, RELU, NONE)) -> tuple[Operator, ...]:
    """Each reads the one before:"""
    return tuple(
        Operator("CONV_2D", (3 * at, 3 * at + 1, 3 * at + 2), (3 * at + 3,),
                 {**FLAT, "padding": SAME, "fused_activation_function": fused[at]})
        for at in range(3)
    )  # fmt: skip


def _in_floats() -> dict[str, np.ndarray]:
    """The module's values in torch's layout."""
    tensors = [Tensor("x", (1, 12, 12, 3), "float32")]
    for at, (weight, bias) in enumerate(zip(WEIGHTS, BIASES, strict=True)):
        tensors += [
            Tensor(f"w{at}", weight.shape, "float32", data=weight),
            Tensor(f"b{at}", bias.shape, "float32", data=bias),
        ]
        tensors += [Tensor(f"y{at}", (1, 12, 12, len(bias)), "float32")]
    values = evaluate(TfliteGraph(tuple(tensors), _layers(), (0,), (9,)), {"x": X.transpose(0, 2, 3, 1)})
    return {name: values[name].transpose(0, 3, 1, 2) for name in ("x", "y0", "y1", "y2")}


VALUES = _in_floats()


def _quantized(
    factors: tuple[np.ndarray, ...] = (), rounding: Callable[[np.ndarray], np.ndarray] = np.rint
) -> TfliteGraph:
    """Integers as TFLite's quantization specification has them; `factors` even out what the first layers make."""
    ones = [np.ones(count) for count in CHANNELS]
    scaled = [ones[0], *factors, *ones[1 + len(factors) :]]
    tensors = [Tensor("t0", (1, 12, 12, 3), "int8", _range(X))]
    for at, (weight, bias) in enumerate(zip(WEIGHTS, BIASES, strict=True)):
        real = weight * scaled[at + 1][:, None, None, None] / scaled[at]
        scale = np.abs(real).max((1, 2, 3)) / 127
        data = tensors[-1].quantization
        assert data is not None
        stored = np.clip(rounding(real / scale[:, None, None, None]), -127, 127).astype(np.int8)
        tensors += [Tensor(f"t{3 * at + 1}", real.shape, "int8", _scales(scale), stored)]
        of_bias = scale * data.scales[0]
        stored = np.rint(bias * scaled[at + 1] / of_bias).astype(np.int32)
        tensors += [Tensor(f"t{3 * at + 2}", bias.shape, "int32", _scales(of_bias), stored)]
        value = VALUES[f"y{at}"].transpose(0, 2, 3, 1) * scaled[at + 1]
        tensors += [Tensor(f"t{3 * at + 3}", value.shape, "int8", _range(value))]
    return TfliteGraph(tuple(tensors), _layers(), (0,), (9,))


def _range(values: np.ndarray) -> Quantization:
    least, greatest = min(0.0, float(values.min())), float(values.max())
    scale = (greatest - least) / 255
    return Quantization((scale,), (round(-128 - least / scale),), 0)


def _scales(scales: np.ndarray) -> Quantization:
    return Quantization(tuple(map(float, scales)), (0,) * len(scales), 0)


def told(graph: TfliteGraph) -> list[str]:
    """One line for each fault."""
    constants = {f"w{at}": weight.transpose(0, 3, 1, 2) for at, weight in enumerate(WEIGHTS)}
    constants |= {f"b{at}": bias for at, bias in enumerate(BIASES)}
    ends = Ends([TensorSpec("x", (1, 12, 12, 3), "int8", NHWC)], [TensorSpec("y2", (1, 12, 12, 6), "int8", NHWC)])
    samples = [OnValues({"x": X}, VALUES)]
    return [text for _, text in integer_faults(File(graph), [constants], samples, ends).faults]


def _with(graph: TfliteGraph, at: int, **changes: Any) -> TfliteGraph:
    tensors = list(graph.tensors)
    tensors[at] = replace(tensors[at], **changes)
    return replace(graph, tensors=tuple(tensors))


def _stored(graph: TfliteGraph, at: int) -> np.ndarray:
    return np.asarray(graph.tensors[at].data).copy()


def test_the_nearest_integers_are_right_and_use_a_telling_part_of_their_bound() -> None:
    graph = _quantized()
    assert told(graph) == []
    constants = {f"w{at}": weight.transpose(0, 3, 1, 2) for at, weight in enumerate(WEIGHTS)}
    ends = Ends([TensorSpec("x", (1, 12, 12, 3), "int8", NHWC)], [TensorSpec("y2", (1, 12, 12, 6), "int8", NHWC)])
    found = integer_faults(File(graph), [constants], [OnValues({"x": X}, VALUES)], ends)
    assert found.layers == 3
    assert 0.1 < found.used < 1


@pytest.mark.parametrize("seed", range(5))
def test_evened_channels_and_learned_roundings_are_right(seed: int) -> None:
    rng = np.random.default_rng(seed)
    factors = tuple(np.exp(rng.uniform(-1, 1, count)) for count in CHANNELS[1:3])

    def learned(array: np.ndarray) -> np.ndarray:
        up = rng.random(array.shape) < 0.5
        return np.where(rng.random(array.shape) < 0.3, np.where(up, np.ceil(array), np.floor(array)), np.rint(array))

    assert told(_quantized(factors)) == []
    assert told(_quantized((), learned)) == []
    assert told(_quantized(factors, learned)) == []


@pytest.mark.parametrize("at", [1, 4, 7])
def test_one_weight_three_steps_off_is_told(at: int) -> None:
    graph = _quantized()
    stored = _stored(graph, at)
    stored[1, 2, 0, 1] += 3 if stored[1, 2, 0, 1] < 100 else -3
    (text, *_) = told(_with(graph, at, data=stored))
    assert text.startswith(f"constant t{at}: 1 of ")


@pytest.mark.parametrize("at", [2, 5, 8])
def test_a_bias_that_is_off_by_two_steps_of_the_output_is_told(at: int) -> None:
    graph = _quantized()
    bias, result = graph.tensors[at].quantization, graph.tensors[at + 1].quantization
    assert bias is not None
    assert result is not None
    stored = _stored(graph, at)
    stored[2] += round(2 * result.scales[0] / bias.scales[2])
    (text, *_) = told(_with(graph, at, data=stored))
    assert text.startswith(f"constant t{at}: 1 of ")


def _activation(graph: TfliteGraph) -> TfliteGraph:
    """Where the range does not begin at zero, which would be a ReLU itself."""
    return replace(graph, operators=_layers((RELU, RELU, RELU)))


def _padding(graph: TfliteGraph) -> TfliteGraph:
    """One cell of SAME's padding moves to the other side."""
    pads = Tensor("pads", (4, 2), "int32", data=np.array([(0, 0), (2, 0), (1, 1), (0, 0)], np.int32))
    padded = replace(graph.tensors[3], name="padded", shape=(1, 14, 14, 8))
    first, second, third = graph.operators
    moved = replace(second, inputs=(11, 4, 5), options={**second.options, "padding": VALID})
    operators = (first, Operator("PAD", (3, 10), (11,), {}), moved, third)
    return replace(graph, tensors=(*graph.tensors, pads, padded), operators=operators)


def _rotated(graph: TfliteGraph) -> TfliteGraph:
    return _with(graph, 4, data=_stored(graph, 4)[:, ::-1, ::-1])


@pytest.mark.parametrize("fault", [_activation, _padding, _rotated])
@pytest.mark.parametrize("evened", [False, True])
def test_a_layer_that_computes_something_else_is_named(
    fault: Callable[[TfliteGraph], TfliteGraph], evened: bool
) -> None:
    factors = tuple(np.exp(np.linspace(-0.5, 0.5, count)) for count in CHANNELS[1:3]) if evened else ()
    lines = told(fault(_quantized(factors)))
    assert lines
    assert evened or any(name in line for line in lines for name in ("t4", "t6", "t9", "padded"))


def test_a_bias_of_zeros_may_have_any_scale() -> None:
    graph = _quantized()
    zeros = _with(graph, 2, data=np.zeros(8, np.int32), quantization=Quantization((0.5,), (0,), 0))
    assert not any("scale" in line for line in told(zeros))
    off = _with(graph, 2, quantization=Quantization((0.5,), (0,), 0))
    assert any("scale of the bias" in line for line in told(off))
