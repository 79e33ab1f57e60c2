"""Linear layers over more than two axes, a MatMul and an Add in the graph: the vector is added before they round.

Members thought of: three and four axes, one scale and one per channel, the vector on either side of the Add, a ReLU
behind, 16 bits; the layer or its Add in float by choice, before and after calibration; a vector that something else
reads, which wants 8 bits; one of two layers; and sums that are no bias, of a matrix or of a single number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from quantize_graphs import Graph, data
from torch import nn

import edgeconv
from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.emit.tflite import to_tflite
from edgeconv.graph.edit import constant
from edgeconv.quantize import Plan, apply, calibrate, keep_operators, make_plan
from edgeconv.reference.tflite import read

_RNG = np.random.default_rng(0)
_WEIGHT, _BIAS = _RNG.standard_normal((8, 4)).astype(np.float32), _RNG.standard_normal(4).astype(np.float32)


def _graph(shape: tuple[int, ...] = (1, 6, 8), *, first: bool = False, bias: Any = _BIAS) -> Graph:
    """x @ weight + bias, named ``"sum"``."""
    graph = Graph(0, x=shape)
    graph.constant("weight", _WEIGHT)
    graph.constant("bias", bias)
    graph.add("MatMul", ["x", "weight"], "product")
    graph.add("Add", ["bias", "product"] if first else ["product", "bias"], "sum")
    return graph


def _plan(model: ir.Model, scheme: str = "int8", **options: Any) -> Plan:
    return make_plan(model, calibrate(model, data(model, 4)), scheme=scheme, options=QuantizationOptions(**options))


def _bias_of(model: ir.Model) -> tuple[np.ndarray, np.ndarray]:
    """Integers and scales of what the Add adds."""
    (add,) = [node for node in model.graph if node.op_type == "Add"]
    (dequantize,) = [
        node
        for value in add.inputs
        if value is not None and (node := value.producer()) is not None and constant(node.inputs[0]) is not None
    ]
    integers, scales = (constant(dequantize.inputs[place]) for place in (0, 1))
    assert integers is not None
    assert scales is not None
    return integers, scales


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 2, 3, 8)])
def test_a_vector_behind_a_product_is_a_bias(
    shape: tuple[int, ...], first: bool, per_channel: bool, scheme: str
) -> None:
    model = _graph(shape, first=first).model("sum")
    plan = _plan(model, scheme, per_channel=per_channel)
    assert set(plan.tensors) == {"x", "sum"}
    integers, scales = _bias_of(apply(model, plan))
    np.testing.assert_allclose(
        scales, np.resize(plan.weights["product"].scales, 4) * plan.tensors["x"].scale, rtol=1e-6
    )
    np.testing.assert_allclose(integers * scales.astype(np.float64), _BIAS, atol=scales.max())
    assert integers.dtype == np.int32


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 2, 3, 8)])
def test_the_file_has_one_layer_and_no_sum(shape: tuple[int, ...], per_channel: bool, scheme: str) -> None:
    model = _graph(shape).model("sum")
    quantized = apply(model, _plan(model, scheme, per_channel=per_channel))
    file = read(to_tflite(quantized, metadata={}, io="int16" if scheme == "int16x8" else "int8").data)
    names = [operator.name for operator in file.operators]
    assert names.count("CONV_2D" if per_channel else "FULLY_CONNECTED") == 1
    assert "ADD" not in names


def test_a_clamp_behind_is_part_of_the_layer() -> None:
    graph = _graph()
    graph.add("Relu", ["sum"], "y")
    model = graph.model("y")
    plan = _plan(model)
    assert set(plan.tensors) == {"x", "y"}
    names = [item.name for item in read(to_tflite(apply(model, plan), metadata={}, io="int8").data).operators]
    assert set(names) <= {"CONV_2D", "RESHAPE"}


def test_a_layer_in_float_takes_its_sum_along() -> None:
    model = _graph().model("sum")
    before = _plan(model, keep_float=("product",))
    after = keep_operators(model, _plan(model), ["product"])
    for plan in (before, after):
        assert {"product", "sum"} <= set(plan.kept_float)
        assert not [node for node in apply(model, plan).graph if node.op_type == "QuantizeLinear"]


def test_a_sum_in_float_leaves_a_layer_that_rounds_by_itself() -> None:
    model = _graph().model("sum")
    plan = _plan(model, keep_float=("sum",))
    assert set(plan.tensors) == {"x", "product"}
    assert set(plan.weights) == {"product"}
    assert "product" in calibrate(model, data(model, 4)).histograms  # it may be found out later that the sum is


def test_a_vector_that_something_else_reads_has_eight_bits() -> None:
    graph = _graph()
    graph.add("Mul", ["sum", "bias"], "y")
    assert {"product", "sum", "bias"} <= set(_plan(graph.model("y")).tensors)


def test_two_layers_may_have_one_vector() -> None:
    graph = _graph()
    graph.constant("other", 2 * _WEIGHT)
    graph.add("MatMul", ["x", "other"], "product2")
    graph.add("Add", ["product2", "bias"], "sum2")
    model = graph.model("sum", "sum2")
    plan = _plan(model)
    assert set(plan.tensors) == {"x", "sum", "sum2"}
    adds = [node for node in apply(model, plan).graph if node.op_type == "Add"]
    makers = [add.inputs[1].producer() for add in adds if add.inputs[1] is not None]
    integers = [constant(maker.inputs[0]) for maker in makers if maker is not None]
    assert all(array is not None and array.dtype == np.int32 for array in integers)
    assert not np.array_equal(*integers)  # in the steps of its own layer


@pytest.mark.parametrize("bias", [np.float32(0.5), _RNG.standard_normal((6, 4)).astype(np.float32)])
def test_other_sums_are_no_bias(bias: np.ndarray) -> None:
    model = _graph(bias=np.asarray(bias)).model("sum")
    assert {"product", "sum"} <= set(_plan(model).tensors)


class _Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(nn.functional.gelu(self.first(x)))


def test_both_formats_add_the_vector_before_they_round(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batches = [{"x": torch.randn(1, 12, 16).numpy()} for _ in range(4)]
    result = edgeconv.export(
        _Mixer().eval(),
        (torch.from_numpy(batches[0]["x"]),),
        tmp_path,
        name="m",
        variants=("int8",),
        input_names=["x"],
        quantization=edgeconv.Quantization(batches=lambda: batches),
        devices=("onnxruntime", "litert", "litert-reference"),
    )
    assert result.report is not None
    assert {row.verdict.value for row in result.report.comparisons} == {"pass"}
    (tflite,) = [artifact.path for artifact in result.artifacts if artifact.format == "tflite"]
    assert [item.name for item in read(Path(tflite).read_bytes()).operators].count("ADD") == 1  # of x
