"""float16 files of what float16 cannot compute, in both formats, on ordinary rows, zero rows and rows times 1e-4.

Members: guards of normalize (1e-12; p = 1 and 2; by max, clamp, a sum), of logarithms, of quotients, of RMSNorm,
LayerNorm, InstanceNorm and GroupNorm, of standard deviations and of cosines; exponentials and what is written with
them; sums, means, products and squares beyond 65504; constants, weights and statistics that float16 does not hold,
large, small and beside 1; masks of -1e9 and -inf, constant and computed. And what needs none of it: no cast, and the
metadata that XNNPACK asks for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from torch import nn
from torch.nn import functional

from edgeconv.capture import capture
from edgeconv.core import Emitted
from edgeconv.emit.half_precision import float32_region
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.rewrite import optimize


class _Of(nn.Module):
    def __init__(self, function: Callable[..., torch.Tensor], parts: dict[str, Any]) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self, x)


def _linear(scale: float = 1.0) -> nn.Linear:
    torch.manual_seed(0)
    made = nn.Linear(16, 16)
    made.weight.data *= scale
    made.bias.data *= scale
    return made


def _norm_of_small_variances() -> nn.BatchNorm1d:
    made = nn.BatchNorm1d(16, eps=1e-12)
    made.running_var.data = torch.linspace(1e-10, 1e-9, 16)
    return made


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-12)


def _similarity(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Structural similarity, whose variances are differences of squares."""
    means, pool = [functional.avg_pool2d(one, 3, 1) for one in (a, b)], functional.avg_pool2d
    variances = [pool(one * one, 3, 1) - mean**2 for one, mean in zip((a, b), means, strict=True)]
    shared = pool(a * b, 3, 1) - means[0] * means[1]
    above = (2 * means[0] * means[1] + 1e-4) * (2 * shared + 9e-4)
    return above / ((means[0] ** 2 + means[1] ** 2 + 1e-4) * (sum(variances) + 9e-4))


def _masked(m: nn.Module, x: torch.Tensor, number: float) -> torch.Tensor:
    mask = torch.triu(torch.ones(4, 4, dtype=torch.bool), 1)
    return (m.l(x) @ x.T).masked_fill(mask, number).softmax(-1) @ x


_CASES: dict[str, tuple[Callable[..., torch.Tensor], dict[str, Any]]] = {
    "normalize": (lambda m, x: functional.normalize(x, dim=-1), {}),
    "normalize, p = 1, then a layer": (lambda m, x: m.l(functional.normalize(x, p=1, dim=-1)), {"l": _linear()}),
    "normalize behind a layer": (
        lambda m, x: functional.normalize(m.l(x) - m.l.bias, dim=-1),
        {"l": _linear()},
    ),
    "norm and clamp": (lambda m, x: x / x.norm(dim=-1, keepdim=True).clamp_min(1e-10), {}),
    "reciprocal of a norm": (lambda m, x: 1 / (x.norm(dim=-1, keepdim=True) + 1e-12) * x, {}),
    "a quotient": (lambda m, x: x[:, :8] / (x[:, 8:].abs() + 1e-8), {}),
    "a share": (lambda m, x: x / (x.abs().sum(-1, keepdim=True) + 1e-9), {}),
    "cosine similarity": (lambda m, x: functional.cosine_similarity(x, m.l(x), dim=-1), {"l": _linear()}),
    "standard deviation": (
        lambda m, x: (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-10),
        {},
    ),
    "logarithm": (lambda m, x: torch.log(x.relu() + 1e-8), {}),
    "logarithm of a clamp": (lambda m, x: torch.log(torch.clamp_min(x.abs(), 1e-10)), {}),
    "logarithm of a softmax": (lambda m, x: torch.log(m.l(x * 8).softmax(-1) + 1e-10), {"l": _linear()}),
    "RMSNorm": (lambda m, x: _rms(x), {}),
    "LayerNorm": (lambda m, x: m.n(x), {"n": nn.LayerNorm(16, eps=1e-12)}),
    "LayerNorm of 1e-7": (lambda m, x: m.n(x), {"n": nn.LayerNorm(16, eps=1e-7)}),
    "InstanceNorm": (lambda m, x: m.n(x.view(1, 4, 4, 4)), {"n": nn.InstanceNorm2d(4, eps=1e-8, affine=True)}),
    "GroupNorm": (lambda m, x: m.n(x), {"n": nn.GroupNorm(4, 16, eps=1e-12)}),
    "softplus by hand": (lambda m, x: torch.log(1 + torch.exp(x * 20)), {}),
    "softmax by hand": (lambda m, x: torch.exp(x * 6) / torch.exp(x * 6).sum(-1, keepdim=True), {}),
    "logsumexp": (lambda m, x: torch.logsumexp(x * 20, -1), {}),
    "a long sum": (lambda m, x: (x * 100).view(-1, 16, 1).expand(-1, 16, 256).sum((1, 2)) * 1e-4, {}),
    "a long mean": (lambda m, x: (x.abs() * 1000).view(-1, 16, 1).expand(-1, 16, 256).mean((1, 2)), {}),
    "squares": (lambda m, x: ((x * 1000) ** 2).mean(-1).sqrt(), {}),
    "squares by a product": (lambda m, x: (x * 1000 * (x * 1000)).mean(-1).sqrt(), {}),
    "a pool of squares": (lambda m, x: functional.lp_pool2d(x.view(1, 1, 8, 8), 2, 2), {}),
    "covariances": (lambda m, x: _similarity(x.view(1, 1, 8, 8), x.view(1, 1, 8, 8) / 2 + 0.1), {}),
    "a product": (lambda m, x: (x.abs() * 4 + 1).prod(-1).log(), {}),
    "large constants": (lambda m, x: (x * 1e6 + 2e5) / 1e6, {}),
    "a quotient by what is left of one": (
        lambda m, x: x / (1 - (x.abs() * 9).clamp(max=1 - 1e-6)) * 1e-6,
        {},
    ),
    "a logarithm of what is left of one": (lambda m, x: torch.log(1 - (x * 20).sigmoid().clamp(max=1 - 1e-6)), {}),
    "logit": (lambda m, x: torch.logit((x * 20).sigmoid(), 1e-6), {}),
    "artanh": (lambda m, x: torch.atanh((x * 9).clamp(-1 + 1e-6, 1 - 1e-6)), {}),
    "a choice beside one": (
        lambda m, x: 1 / (1 - torch.where(x.abs() * 9 > 0.99999, 0.99999, x * 0)) * 1e-5,
        {},
    ),
    "large bounds": (lambda m, x: x.clamp(-1e9, 1e9), {}),
    "small weights": (lambda m, x: m.l(x) * 1e7, {"l": _linear(1e-7)}),
    "large weights": (lambda m, x: m.l(x) * 1e-5, {"l": _linear(1e6)}),
    "small variances": (lambda m, x: m.n(x), {"n": _norm_of_small_variances()}),
    **{
        f"{relation.__name__} of a tiny number": (
            lambda m, x, relation=relation: torch.where(relation(x.abs(), 1e-8), x * 0, 1 / x),
            {},
        )
        for relation in (torch.lt, torch.le)
    },
    **{
        f"{relation.__name__} of a tiny number": (
            lambda m, x, relation=relation: torch.where(relation(x.abs(), 1e-8), 1 / x, x * 0),
            {},
        )
        for relation in (torch.gt, torch.ge)
    },
    "sinc": (lambda m, x: torch.where(x.abs() < 1e-8, 1.0, x.sin() / torch.where(x.abs() < 1e-8, 1.0, x)), {}),
    "a mask of -1e9": (lambda m, x: _masked(m, x, -1e9), {"l": _linear()}),
    "a mask of -inf": (lambda m, x: _masked(m, x, float("-inf")), {"l": _linear()}),
}


def _rows() -> dict[str, torch.Tensor]:
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(3))
    zero, small = x.clone(), x.clone()
    zero[1], small[2] = 0, x[2] * 1e-4
    return {"ordinary": x, "a zero row": zero, "a small row": small, "all small": x * 1e-4}


def _graph(module: nn.Module, x: torch.Tensor) -> ir.Model:
    return optimize(capture(module.eval(), (x,), input_names=["x"], output_names=["y"]))


def _run(emitted: Emitted, x: torch.Tensor) -> np.ndarray:
    if emitted.data[4:8] == b"TFL3":
        runner = Interpreter(model_content=emitted.data).get_signature_runner()
        return np.asarray(emitted.outputs[0].from_file(runner(x=emitted.inputs[0].to_file(x.numpy()))["y"]))
    return np.asarray(onnxruntime.InferenceSession(emitted.data).run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize("write", [to_onnx, to_tflite], ids=["onnx", "tflite"])
@pytest.mark.parametrize("case", _CASES)
def test_what_float16_cannot_compute_is_computed(case: str, write: Callable[..., Emitted]) -> None:
    module = _Of(*_CASES[case])
    rows = _rows()
    emitted = write(_graph(module, rows["ordinary"]), metadata={}, weights="float16")
    for name, x in rows.items():
        wanted = module(x).detach().numpy()
        error = np.square(_run(emitted, x) - wanted).sum()
        assert error <= 1e-4 * np.square(wanted).sum(), name  # 40 dB


def test_only_the_region_around_a_guard_is_float32() -> None:
    module = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), _Of(lambda m, x: functional.normalize(x, dim=-1), {}))
    module.append(nn.Linear(16, 4))
    emitted = to_onnx(_graph(module, _rows()["ordinary"]), metadata={}, weights="float16")
    proto = onnx.load_from_string(emitted.data)
    halves = {tensor.name for tensor in proto.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    weights = [name for node in proto.graph.node if node.op_type == "Gemm" for name in node.input[1:]]
    assert len(weights) == 4
    assert halves >= set(weights)
    assert len(emitted.notes) == 1
    assert "ReduceL2" in emitted.notes[0]


def _metadata(emitted: Emitted) -> dict[str, bytes]:
    model = schema.ModelT.InitFromPackedBuf(emitted.data, 0)
    return {entry.name.decode(): bytes(model.buffers[entry.buffer].data) for entry in model.metadata}


def _allows_float16(text: str) -> bool:
    """As the delegate reads it: inference types, "acc", one accumulation type, and nothing else; both of float16."""
    inference, accumulates, accumulation = text.partition("acc")
    types = [inference[at : at + 4] for at in range(0, len(inference), 4)]
    return bool(accumulates) and set(types) <= {"fp16", "bf16"} and "fp16" in types and accumulation == "fp16"


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), nn.Softmax(-1),
    )  # fmt: skip


def test_a_network_of_ordinary_numbers_says_that_xnnpack_may_compute_in_float16() -> None:
    graph = _graph(_network(), torch.zeros(1, 3, 12, 12))
    half, full = (to_tflite(graph, metadata={}, weights=kind) for kind in ("float16", "float32"))
    assert _allows_float16(_metadata(half)["reduced_precision_support"].decode())
    assert half.notes == ()
    assert "reduced_precision_support" not in _metadata(full)
    nodes = onnx.load_from_string(to_onnx(graph, metadata={}, weights="float16").data).graph.node
    assert sum(node.op_type == "Cast" for node in nodes) == 2  # of the input and of the output


@pytest.mark.parametrize("case", ["normalize", "LayerNorm", "a mask of -1e9", "squares", "large constants"])
def test_no_other_graph_says_so(case: str) -> None:
    emitted = to_tflite(_graph(_Of(*_CASES[case]), _rows()["ordinary"]), metadata={}, weights="float16")
    assert "reduced_precision_support" not in _metadata(emitted)
    assert "float32 computed" in emitted.notes[0]


_SELF_COMPARISONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a row": lambda x: x >= x[:, 2:3],
    "the largest": lambda x: x == x.amax(-1, keepdim=True),
    "the largest of a window": lambda x: functional.max_pool1d(x.reshape(-1, 4, 4), 3, 1, 1) == x.reshape(-1, 4, 4),
    "the largest of two copies": lambda x: x < torch.maximum(x.roll(1, -1), x),
    "the best": lambda x: torch.topk(x, 3).values[:, 2:] <= x,
    "by a difference": lambda x: (x - x[:, 2:3]) >= 0,
    "by a difference of a window": lambda x: (
        (functional.max_pool1d(y := x.reshape(-1, 4, 4), 3, 1, 1) - y).flatten(1) <= 0
    ),
    "by a difference's size": lambda x: (x - x[:, 2:3]).abs() < 1e-6,
    "by a quotient": lambda x: x / x[:, 2:3] == 1,
    "by a quotient's floor": lambda x: (x / x[:, 2:3]).floor(),
    "by the sign of a difference": lambda x: (x - x[:, 2:3]).sign(),
    "by a quotient as an integer": lambda x: (x / x[:, 2:3]).int(),
    "behind an exponential": lambda x: (y := torch.exp(x)) <= y[:, :1],
}


_CONSTANTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a clamp's end": lambda x: functional.relu6(x) == 6,
    "filled": lambda x: x.masked_fill(x > 1, 0.25) == 0.25,
    "a difference of two layers' results": lambda x: (x - x.sigmoid()) > 0,
}


@pytest.mark.parametrize("case", _CONSTANTS)
def test_a_constant_is_no_common_source(case: str) -> None:
    module = _Of(lambda m, x: _CONSTANTS[case](m.before(x)), {"before": _linear()})
    graph = _graph(module, torch.randn(8, 16)).graph
    assert not float32_region(graph)


_HANDED_ON: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "softplus": functional.softplus,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "selu": functional.selu,
    "celu": functional.celu,
    "pixel shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "nearest": lambda x: functional.interpolate(x, scale_factor=2),
    "bilinear": lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"),
    "log softmax": lambda x: functional.log_softmax(x, 1),
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "triangle": torch.tril,
    "largest": lambda x: torch.topk(x, 2, 1).values,
    "unpooled": lambda x: functional.max_unpool2d(*functional.max_pool2d(x, 2, return_indices=True), 2),
    "scattered": lambda x: torch.zeros_like(x).scatter(1, torch.zeros(1, 1, 8, 8, dtype=torch.long), x[:, :1]),
    "sampled": lambda x: functional.grid_sample(x, torch.full((1, 2, 2, 2), 0.3), align_corners=False),
}


@pytest.mark.parametrize("case", _HANDED_ON)
def test_what_hands_squares_on_and_their_readers_are_float32(case: str) -> None:
    """A runtime that adds no casts of its own, as onnxruntime does, would make infinity of 300²."""
    module = _Of(lambda m, x: _HANDED_ON[case](x * x) * 0.25, {})
    graph = _graph(module, torch.randn(1, 4, 8, 8)).graph
    floats = {node for node in graph if node.outputs[0].dtype == ir.DataType.FLOAT}
    assert floats <= float32_region(graph).keys()


@pytest.mark.parametrize("bounded", [torch.sigmoid, torch.atan, torch.asinh, torch.sign, functional.softsign])
def test_what_is_bounded_ends_the_region(bounded: Callable[[torch.Tensor], torch.Tensor]) -> None:
    graph = _graph(_Of(lambda m, x: bounded(x * x) * 0.25, {}), torch.randn(1, 4, 8, 8)).graph
    assert graph[-1] not in float32_region(graph)


@pytest.mark.parametrize("first", ["as it comes", "behind a layer", "behind a sigmoid"])
@pytest.mark.parametrize("case", _SELF_COMPARISONS)
def test_numbers_are_compared_with_themselves_at_one_precision(case: str, first: str) -> None:
    before = {"as it comes": nn.Identity(), "behind a layer": _linear(), "behind a sigmoid": nn.Sigmoid()}[first]
    module = _Of(lambda m, x: _SELF_COMPARISONS[case](m.before(x)).float() + 0.5, {"before": before})
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(5))
    x[:, 3] = x[:, 2]
    emitted = to_onnx(_graph(module, x), metadata={}, weights="float16")
    np.testing.assert_array_equal(_run(emitted, x), module(x).detach().numpy())


@pytest.mark.parametrize("write", [to_onnx, to_tflite], ids=["onnx", "tflite"])
@pytest.mark.parametrize("moved", [False, True], ids=["constant", "moved"])
def test_places_of_a_grid_are_not_rounded(moved: bool, write: Callable[..., Emitted]) -> None:
    """Of 300 pixels a row, float16 takes another for one place in nine."""
    grid = torch.rand(1, 40, 50, 2, generator=torch.Generator().manual_seed(3)) * 1.8 - 0.9

    def sampled(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        image = x.reshape(1, 2, 30, 300)
        places = m.grid + image[:, :1, :1, :1].reshape(1, 1, 1, 1) * 1e-3 if moved else m.grid
        return functional.grid_sample(image, places, mode="nearest", align_corners=False)

    module = _Of(sampled, {"grid": nn.Parameter(grid, requires_grad=False)})
    x = torch.randint(-50, 50, (2, 9000), generator=torch.Generator().manual_seed(4)) / 4
    emitted = write(_graph(module, x), metadata={}, weights="float16")
    np.testing.assert_array_equal(_run(emitted, x).reshape(1, 2, 40, 50), module(x).numpy())
