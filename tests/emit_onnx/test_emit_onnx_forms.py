"""Forms that onnxruntime runs fast: what it makes of them when it loads the file, and that they compute the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

import edgeconv
from edgeconv.capture import capture
from edgeconv.emit.onnx import to_onnx
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize


class Spelled(nn.Module):
    """GELU as older repositories write it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1.0 + torch.erf(x * 0.7071067811865476))


class Twice(nn.Module):
    """GELU's argument is read by others too, and its result is an output."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = functional.gelu(x)
        return y, x + y


GELUS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "erf": (nn.GELU, {"Gelu"}),
    "tanh": (lambda: nn.Sequential(nn.GELU(approximate="tanh"), nn.Conv2d(8, 4, 1)), {"FastGelu"}),
    "spelled": (Spelled, {"Gelu"}),
    "twice": (Twice, {"Gelu"}),
}


def run(module: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> tuple[list[str], float]:
    """The operators after onnxruntime has loaded the file, and the largest difference from float64 torch."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = copy.deepcopy(module).double().eval()(x.double())
    expected = outputs if isinstance(outputs, tuple) else (outputs,)
    names = [f"y{index}" for index in range(len(expected))]
    model = optimize(capture(module.eval(), (x,), input_names=["x"], output_names=names))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    data = to_onnx(model, metadata={}).data
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    got = session.run(names, {"x": x.numpy()})
    error = max(float(np.abs(a - b.numpy()).max()) for a, b in zip(got, expected, strict=True))
    return [node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node], error


@pytest.mark.parametrize("name", GELUS)
def test_gelu_is_one_operator_of_onnxruntime(name: str, tmp_path: Path) -> None:
    make, expected = GELUS[name]
    operators, error = run(nn.Sequential(nn.Conv2d(8, 8, 1), make()), (2, 8, 6, 6), tmp_path)
    assert expected <= set(operators)
    assert not {"Erf", "Tanh"} & set(operators)
    assert error < 2e-6


class Residual(nn.Module):
    """A GELU beside what reads the same value."""

    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.conv, self.approximate = nn.Conv2d(8, 8, 1), approximate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y + functional.gelu(y, approximate=self.approximate)


@pytest.mark.parametrize(("approximate", "expected"), [("none", "Gelu"), ("tanh", "FastGelu")])
def test_gelu_between_integers_is_one_operator_of_onnxruntime(approximate: str, expected: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((1, 8, 6, 6)).astype(np.float32)
    graph = optimize(
        capture(Residual(approximate).eval(), (torch.from_numpy(x),), input_names=["x"], output_names=["y"])
    )
    quantized = apply(graph, make_plan(graph, calibrate(graph, [{"x": x}])))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        to_onnx(quantized, metadata={}).data, options, providers=["CPUExecutionProvider"]
    )
    operators = [node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node]
    assert expected in operators
    assert not {"Erf", "Tanh"} & set(operators)
    assert "QLinearAdd" in operators, "what else reads the value reads its integers"
    exact = evaluate(quantized, {"x": x}, keep=["y"])["y"]
    assert 10 * np.log10(np.square(exact).sum() / np.square(session.run(None, {"x": x})[0] - exact).sum()) > 45


class Beside(nn.Module):
    """A GELU by tanh, whose halved argument something else computes, too."""

    def __init__(self, other: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.other = other

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(x, approximate="tanh") + self.other(x)


@pytest.mark.parametrize(
    "other", [functional.gelu, lambda x: x * 0.5, lambda x: (x / 2).sin(), lambda x: x * torch.full((8, 1, 1), 0.5)]
)
def test_halves_that_onnxruntime_takes_into_a_gelu_leave_what_others_read(
    other: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    _, error = run(nn.Sequential(nn.Conv2d(8, 8, 1), Beside(other)), (2, 8, 6, 6), tmp_path)
    assert error < 2e-6


def test_depthwise_convolutions_fill_the_blocks_of_onnxruntime(tmp_path: Path) -> None:
    """As in ShuffleNetV2 with 58 channels: three convolutions without a change of layout between them."""
    unit = nn.Sequential(nn.Conv2d(8, 58, 1), nn.ReLU(), nn.Conv2d(58, 58, 3, 1, 1, groups=58), nn.Conv2d(58, 16, 3))
    operators, error = run(unit, (1, 8, 9, 9), tmp_path)
    assert operators.count("Conv") + operators.count("FusedConv") == 3
    assert {tuple(tensor.dims) for tensor in onnx.load(tmp_path / "loaded.onnx").graph.initializer} >= {(64, 1, 3, 3)}
    assert error < 2e-6


class Scaled(nn.Module):
    """A scaled value, scaled again for a product of matrices, and read beside it."""

    def __init__(self, first: Callable[[torch.Tensor], torch.Tensor], turned: bool) -> None:
        super().__init__()
        self.first, self.turned = first, turned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.first(x)
        return ((q * 0.5) @ (q.mT if self.turned else x)).softmax(-1) @ q


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("first", [lambda x: x * 3.0, lambda x: x / 3.0, lambda x: x.relu() * 2.0])
def test_scales_that_onnxruntime_takes_into_products_leave_what_others_read(
    first: Callable[[torch.Tensor], torch.Tensor], turned: bool, tmp_path: Path
) -> None:
    """The file did not load: a value was dropped that another product reads."""
    _, error = run(Scaled(first, turned), (1, 4, 4), tmp_path)
    assert error < 1e-5


def test_attention_of_a_scaled_value_with_itself_loads(tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = x.relu() * 1.5
            return functional.scaled_dot_product_attention(q, q, q)

    shape = (1, 2, 4, 8)
    _, error = run(Net(), shape, tmp_path)
    assert error < 1e-5
    quantization = edgeconv.Quantization(batches=lambda: [{"x": np.ones(shape, np.float32)}])
    options = {"input_names": "x", "variants": "int8", "formats": "onnx", "quantization": quantization}
    (artifact,) = edgeconv.export(Net(), (torch.ones(shape),), tmp_path / "out", name="net", **options).artifacts
    onnxruntime.InferenceSession(artifact.path)
