"""What a plan leaves in floats is computed in floats, from the numbers that the quantized graph has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.graph.integer_rules import LOOKED_UP, OWN
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.reference import evaluate

_IMAGE = (1, 8, 12, 12)


class _Shifted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 20


class _Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class _ScaledOne(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tensor([1.0, 8.0, *[1.0] * 14])[:, None, None]


class _LastNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


_NORMS = {
    "layer norm of shifted": (_Shifted(), _LastNorm(16)),
    "layer norm of uneven channels": (_ScaledOne(), _LastNorm(16)),
    "instance norm": (_Shifted(), nn.InstanceNorm2d(16)),
    "group norm": (nn.Identity(), nn.GroupNorm(4, 16)),
}


def _graph(tflite: Any, module: nn.Module, keep_float: Sequence[str] = ()) -> ir.Model:
    rng = np.random.default_rng(0)
    graph = tflite.graph_of(module, torch.zeros(_IMAGE))
    samples = [{"input0": rng.standard_normal(_IMAGE).astype(np.float32)} for _ in range(4)]
    return apply(
        graph,
        make_plan(
            graph,
            calibrate(graph, samples, options=QuantizationOptions(keep_float=tuple(keep_float))),
            options=QuantizationOptions(keep_float=tuple(keep_float)),
        ),
    )


def _sqnr_db(expected: Any, actual: Any) -> float:
    return float(10 * np.log10(np.square(expected).sum() / np.square(expected - actual).sum()))


def _against_graph(tflite: Any, graph: ir.Model, resolver: str) -> tuple[float, list[str], tuple[str, ...]]:
    """SQNR of the file against the graph in dB, its operators, and its notes."""
    x = np.random.default_rng(1).standard_normal(_IMAGE).astype(np.float32)
    name = graph.graph.outputs[0].name or ""
    emitted = tflite.to_tflite(graph, metadata={}, io="int8")
    ran = tflite.run(emitted, [x], resolver)
    return _sqnr_db(evaluate(graph, {"input0": x}, keep=[name])[name], ran.outputs[0]), ran.operators, emitted.notes


@pytest.mark.parametrize("resolver", ["reference", "xnnpack"])
@pytest.mark.parametrize("name", list(_NORMS))
def test_a_normalization_is_not_rounded_inside(tflite: Any, name: str, resolver: str) -> None:
    torch.manual_seed(0)
    before, norm = _NORMS[name]
    module = nn.Sequential(nn.Conv2d(8, 16, 3), before, norm, nn.Conv2d(16, 8, 1))
    sqnr_db, operators, notes = _against_graph(tflite, _graph(tflite, module), resolver)
    assert operators.count("DEQUANTIZE") == 1
    assert operators.count("QUANTIZE") == 1
    island = operators[operators.index("DEQUANTIZE") + 1 : operators.index("QUANTIZE")]
    assert [note.split()[0] for note in notes] == island
    assert sqnr_db > 40  # of integers that differ by one step here and there; rounded inside it was below 30


def test_a_chain_in_float_is_rounded_at_its_ends_only(tflite: Any) -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(torch.exp(torch.sigmoid(self.first(x)) * 4))
            return y

    torch.manual_seed(0)
    names = [node.outputs[0].name for node in tflite.graph_of(Chain(), torch.zeros(_IMAGE)).graph]
    sqnr_db, operators, _ = _against_graph(tflite, _graph(tflite, Chain(), names[1:-1]), "reference")
    assert operators == ["CONV_2D", "DEQUANTIZE", "LOGISTIC", "MUL", "EXP", "QUANTIZE", "CONV_2D"]
    assert sqnr_db > 40


def test_a_large_depthwise_kernel_in_float_stays_so_in_parts(tflite: Any) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.Conv2d(8, 8, 1))
    graph = _graph(tflite, module, ["1"])
    _, operators, notes = _against_graph(tflite, graph, "reference")
    assert operators[:2] == ["CONV_2D", "DEQUANTIZE"]
    assert operators[-2:] == ["QUANTIZE", "CONV_2D"]
    assert [note.split()[0] for note in notes] == operators[2:-2]


_KEPT = {
    "leaky relu": nn.Sequential(nn.Conv2d(8, 8, 1), nn.LeakyReLU(), nn.Conv2d(8, 8, 1)),
    "relu": nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1)),
    "maximum pool": nn.Sequential(nn.Conv2d(8, 8, 1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1)),
    "sigmoid": nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid(), nn.Conv2d(8, 8, 1)),
}


@pytest.mark.parametrize("name", list(_KEPT))
def test_one_operator_between_pairs_stays_float_where_that_was_asked_for(tflite: Any, name: str) -> None:
    torch.manual_seed(0)
    graph = _graph(tflite, _KEPT[name], ["1"])
    sqnr_db, operators, notes = _against_graph(tflite, graph, "reference")
    (note,) = notes
    assert operators == ["CONV_2D", "DEQUANTIZE", note.split()[0], "QUANTIZE", "CONV_2D"]
    assert note.endswith("stays float: it was asked for")
    assert sqnr_db > 40


_LOOKED_UP = {
    "Elu": nn.ELU(), "Celu": nn.CELU(0.3), "Selu": nn.SELU(), "Mish": nn.Mish(), "Softplus": nn.Softplus(),
    "Cos": _Function(torch.cos), "Sin": _Function(torch.sin),
    "Log": _Function(lambda x: (x.abs() + 1).log()), "Sqrt": _Function(lambda x: x.abs().sqrt()),
    "Reciprocal": _Function(lambda x: 1 / (x.abs() + 1)),
}  # fmt: skip


def test_the_functions_that_are_looked_up_are_all_here() -> None:
    """But for those that no plan keeps: torch spells Softsign out, and what is not of `OWN` has no integers there."""
    assert _LOOKED_UP.keys() == LOOKED_UP - {"Softsign"} - (LOOKED_UP - OWN)


@pytest.mark.parametrize("operator", _LOOKED_UP)
def test_a_function_that_stays_float_between_integers_is_computed(tflite: Any, operator: str) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(8, 16, 3), _LOOKED_UP[operator], nn.Conv2d(16, 8, 1))
    graph = tflite.graph_of(module.eval(), torch.zeros(_IMAGE))
    names = [node.outputs[0].name for node in graph.graph if node.op_type == operator]
    assert names
    graph = _graph(tflite, module, names)
    loss_db, operators, _ = _against_graph(tflite, graph, "reference")
    assert "GATHER" not in operators
    assert loss_db > 45


def test_a_value_that_the_graph_does_not_round_keeps_its_name_as_floats(tflite: Any) -> None:
    """What is rounded behind a move is rounded before it: these integers are no value of the graph."""

    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(16, 64), nn.Conv2d(1, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(torch.tanh(self.first(x)).reshape(1, 1, 8, 8))
            return y

    torch.manual_seed(0)
    graph = tflite.graph_of(Moved(), torch.zeros(1, 16))
    samples = [{"input0": np.random.default_rng(0).standard_normal((1, 16)).astype(np.float32)}]
    options = QuantizationOptions(keep_float=("first", "tanh", "reshape"))
    graph = apply(graph, make_plan(graph, calibrate(graph, samples, options=options), options=options))
    rounded = {node.inputs[0].name for node in graph.graph if node.op_type == "QuantizeLinear"}
    assert "tanh" not in rounded
    interpreter = Interpreter(model_content=tflite.to_tflite(graph, metadata={}).data)
    dtypes = {tensor["name"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert (dtypes["tanh"], dtypes["tanh/quantized"], dtypes["reshape"]) == (np.float32, np.int8, np.int8)


class _States(nn.Module):
    """A recurrent layer whose last states are results beside its steps."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, states = self.layer(x)
        flat = states if isinstance(states, tuple) else (states,)
        return (y.unsqueeze(-1), *(state.squeeze(0).unsqueeze(-1) for state in flat))


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_state_that_is_rounded_for_others_stays_float_inside_of_its_layer(
    tflite: Any, layer: type[nn.LSTM | nn.GRU | nn.RNN], length: int
) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    samples = [{"input0": rng.standard_normal((length, 1, 8)).astype(np.float32)} for _ in range(8)]
    graph = tflite.graph_of(_States(layer(8, 16)), torch.zeros((length, 1, 8)))
    graph = apply(graph, make_plan(graph, calibrate(graph, samples)))
    emitted = tflite.to_tflite(graph, metadata={})
    names = [value.name for value in graph.graph.outputs]
    for sample in samples:
        computed = tflite.run(emitted, [sample["input0"]], "reference").outputs
        expected = evaluate(graph, sample, keep=names)
        for name, output in zip(names, computed, strict=True):
            np.testing.assert_allclose(output, expected[name], rtol=0, atol=1e-6)
    assert not [note for note in emitted.notes if "RESHAPE" in note]


class _BiasBehindReshape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((x @ self.weight).reshape(1, 1, 6) + self.bias)


def test_a_product_that_takes_the_bias_behind_its_reshape_goes_by_another_name(tflite: Any) -> None:
    torch.manual_seed(0)
    graph = tflite.graph_of(_BiasBehindReshape(), torch.zeros((1, 8)))
    product = next(node.outputs[0].name for node in graph.graph if node.op_type == "MatMul")
    data = tflite.to_tflite(graph, metadata={}).data
    interpreter = Interpreter(model_content=data)
    assert next(detail["op_name"] for detail in interpreter._get_ops_details()) == "FULLY_CONNECTED"
    assert product not in {detail["name"] for detail in interpreter.get_tensor_details()}
