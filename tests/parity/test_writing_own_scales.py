"""Link 3 of integers that the writer of a `.tflite` file puts between the graph's: each scale follows from others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from crossed import diagonal
from hypothesis import given, settings
from hypothesis import strategies as st
from test_writing import emitted, judged, quantized
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.core.artifacts import Emitted
from edgeconv.core.verdicts import Verdict
from edgeconv.emit.tflite._quantization import of_constant, of_interval
from edgeconv.flow.variant import Variant
from edgeconv.parity.writing import Graph, TfliteFile
from edgeconv.parity.writing._own_scales import OwnScales, _simplest
from edgeconv.reference import tflite
from edgeconv.reference.tflite import Quantization, TfliteGraph

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "HardSwish": functional.hardswish,
    "HardSwish by hand": lambda x: x * functional.hardsigmoid(x),
    "HardSigmoid": functional.hardsigmoid,
    "sum of magnitudes": lambda x: torch.cat([x[:, :7], torch.linalg.vector_norm(x, 1, 1, keepdim=True)], 1),
    "sum of rows": lambda x: x + 0.01 * x.sum((2, 3), keepdim=True),
    "sum of two": lambda x: x[:, :2].sum(1, keepdim=True) + x,
    "PReLU": lambda x: functional.prelu(x, torch.linspace(-0.1, 0.5, 8)),
    "padded average": lambda x: functional.avg_pool2d(x, 3, 2, 1),
    "pixels": lambda x: functional.pixel_shuffle(x, 2).repeat(1, 4, 1, 1),
    "soft shrink": lambda x: functional.softshrink(x, 0.2),
    "SiLU": functional.silu,
    "reflected": lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect"),
    "products": lambda x: (x.flatten(2).softmax(-1) @ x.flatten(2).transpose(1, 2)).unsqueeze(-1),
    "resized": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    "chosen in floats": torch.atan,
    "chosen of another sign": torch.asinh,
    "two tables": functional.selu,
    "two tables of shrinkage": lambda x: functional.softshrink(x, 0.1),
    "gate": lambda x: functional.threshold(x, 0.1, 0.0),
    "gate and a table": lambda x: functional.threshold(x, 0.1, -0.3),
    "gate of magnitudes": lambda x: functional.hardshrink(x.abs() - 0.3, 0.1),
    "a part of one": lambda x: functional.relu6(1.7 - x) * 0.3,
}


class Between(nn.Module):
    """A function between two convolutions."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.form, self.second = nn.Conv2d(3, 8, 3, padding=1), form, nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.form(self.first(x)))


def _emitted(form: str, variant: str) -> tuple[Variant, dict[str, np.ndarray], Emitted]:
    torch.manual_seed(0)
    made, inputs = quantized(Between(FORMS[form]).eval(), torch.randn(1, 3, 12, 12), variant)
    return made, inputs, emitted(made, "tflite")


def _faults(file: TfliteGraph, made: Variant, contents: Emitted) -> list[str]:
    borders = (contents.inputs, contents.outputs, contents.intermediates)
    return [line for _, line in TfliteFile(file, Graph(made.model), *borders).misread()]


def _others(quantization: Quantization, dtype: str) -> Iterator[Quantization]:
    """One unit in the last place, a hundredth, a factor of two; the next zero point, where there is one."""
    scale, zero = np.float32(quantization.scales[0]), quantization.zero_points[0]
    ends = np.nextafter(scale, np.float32(np.inf)), np.nextafter(scale, np.float32(0))
    for other in (*ends, scale * np.float32(1.01), scale * np.float32(0.99), scale * 2, scale / 2):
        yield replace(quantization, scales=(float(other),))
    if dtype == "int8":
        yield replace(quantization, zero_points=(zero + 1 if zero < 0 else zero - 1,))


@pytest.mark.parametrize(("form", "variant"), diagonal([*FORMS], ["int8", "int16x8"]))
def test_each_scale_that_the_graph_does_not_state_follows_from_others(form: str, variant: str) -> None:
    made, _, contents = _emitted(form, variant)
    file, graph = tflite.read(contents.data), Graph(made.model)
    assert not _faults(file, made, contents)
    stated = {
        index
        for index, name in TfliteFile(
            file, graph, contents.inputs, contents.outputs, contents.intermediates
        )._integers()
        if name in graph.quantizers
    }
    computed = {index for operator in file.operators for index in operator.outputs}
    missed = []
    for index in sorted(computed - stated):
        tensor = file.tensors[index]
        for other in _others(tensor.quantization, tensor.dtype) if tensor.quantization is not None else ():
            tensors = [
                replace(item, quantization=other) if at == index else item for at, item in enumerate(file.tensors)
            ]
            if not _faults(replace(file, tensors=tuple(tensors)), made, contents):
                missed.append((tensor.name, tensor.quantization, other))
    assert not missed


@pytest.mark.parametrize(("form", "part"), [("HardSwish", "/part"), ("sum of rows", "/mean")])
def test_link_3_breaks_at_a_scale_of_the_writer_s_own_that_is_a_unit_off(form: str, part: str, tmp_path: Path) -> None:
    from test_writing_own_integers import _scaled

    made, inputs, contents = _emitted(form, "int16x8")
    path = tmp_path / "net.tflite"
    assert judged(made, inputs, contents, contents.data, path).verdict is Verdict.PASS
    told = judged(made, inputs, contents, _scaled(contents.data, part, 1 + 2.0**-23), path)
    assert told.verdict is Verdict.FAIL
    assert "is the file's own, and its scale" in told.reason
    assert told.where.endswith(part)


def test_what_floats_gate_keeps_its_steps_whatever_range_it_has() -> None:
    """Magnitudes, of which half of the integers stand for none."""
    signed, gate = Quantization((0.1,), (0,), 0), Quantization((float(np.float32(1 / 255)),), (-128,), 0)
    one = tflite.Tensor("one", (1,), "float32", None, np.ones(1, np.float32))

    def faults(product: Quantization) -> list[tuple[str, str]]:
        integers = {"x": signed, "size": signed, "gate": gate, "product": product}
        tensors = [tflite.Tensor(name, (1, 4), "int8", steps) for name, steps in integers.items()]
        tensors += [tflite.Tensor(name, (1, 4), "float32") for name in ("real", "above", "clamped")] + [one]
        steps = (("ABS", (0,), 1), ("DEQUANTIZE", (1,), 4), ("RELU", (4,), 5), ("MINIMUM", (5, 7), 6))
        steps += (("QUANTIZE", (6,), 2), ("MUL", (1, 2), 3))
        operators = tuple(tflite.Operator(name, read, (written,), {}, 1) for name, read, written in steps)
        return [*OwnScales(TfliteGraph(tuple(tensors), operators, (0,), (3,)), [0, 1], {}).faults()]

    assert faults(signed) == []
    assert [name for name, _ in faults(replace(signed, zero_points=(1,)))] == ["product"]


@pytest.mark.parametrize(("number", "text"), [(3, 3.0), (1 / 6, 1 / 6), (0.1, 0.1), (-0.3, -0.3), (144, 144.0)])
def test_the_simplest_fraction_near_a_rounded_number_is_what_it_was(number: float, text: float) -> None:
    near = float(np.float32(number))
    low, high = sorted((near * (1 - 1e-7), near * (1 + 1e-7)))
    assert _simplest(low, high) == text


@settings(deadline=None, max_examples=400)
@given(
    scale=st.floats(2.0**-13, 8, width=32),
    zero=st.integers(-128, 127),
    number=st.sampled_from([1.0000002, 1 / 6, 0.1, 0.2, 3.0, 1.7, 0.7310585786, 30.63067, 2.718281828, 255 / 6]),
)
def test_a_product_with_any_number_has_the_scale_that_follows(scale: float, zero: int, number: float) -> None:
    """Six times 0.1666667, as Paddle's exporter writes a sixth, is 1.0000002, and no fraction."""
    factor = np.full(1, number, np.float32)
    steps = of_constant(factor, "int8")
    source = Quantization((scale,), (zero,), 0)
    result = of_interval(*(float(factor[0]) * scale * (end - zero) for end in (-128, 127)), "int8")
    tensors = (
        tflite.Tensor("x", (1, 4), "int8", source),
        tflite.Tensor("by", (1,), "int8", Quantization(steps.scale, steps.zero_point, 0), steps.quantized(factor)),
        tflite.Tensor("y", (1, 4), "int8", Quantization(result.scale, result.zero_point, 0)),
    )
    graph = TfliteGraph(tensors, (tflite.Operator("MUL", (0, 1), (2,), {}, 1),), (0,), (2,))
    assert [*OwnScales(graph, [0], {}).faults()] == []
