"""Logarithms, reciprocals and powers of what 8 bits round to zero: float where that tells, integers where it does not.

Members: log of a softmax, a sigmoid, sums of exponentials (spelled out and as ReduceLogSum), with a guard by sum and by
clamp; log2; an entropy; softplus spelled out; 1 / root, 1 / (1 + exp), negative powers; divisors that a sigmoid or an
exponential makes; a layer between them; functions whose
domains end (acosh, acos, asin, atanh); zeros whose reciprocals are large beside a sample without any. And what
stays integers: log1p, roots, a logarithm of numbers far from zero.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from quantize_graphs import Graph, data
from test_quantize_idioms import Of, worst_db
from torch import Tensor, nn
from torch.nn import functional

import edgeconv
from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.quantize import Plan, calibrate, make_plan
from edgeconv.quantize._histogram import Histogram
from edgeconv.quantize._make_plan import parameters_of
from edgeconv.quantize._steep import _decibels

_Function = Callable[[Tensor], Tensor]
STEEP: dict[str, _Function] = {
    "log of softmax": lambda y: (y * 4).softmax(-1).add(1e-8).log(),
    "log of sigmoid": lambda y: (y * 6).sigmoid().log(),
    "log of a clamp": lambda y: y.abs().clamp(min=1e-5).log(),
    "log2": lambda y: y.abs().add(1e-5).log2(),
    "softplus": lambda y: (y * 4).exp().add(1).log(),
    "root": lambda y: y.square().add(1e-2).rsqrt(),
    "logistic": lambda y: 1 / (1 + (-y * 3).exp()),
    "entropy": lambda y: -((p := (y * 3).softmax(-1)) * p.log()).sum(-1),
    "log of averages": lambda y: functional.avg_pool2d(y.unsqueeze(0).abs() ** 4, (1, 2)).add(1e-5).log(),
    "power": lambda y: y.square().add(1e-5).pow(-0.5),
    "divisor": lambda y: y / (y * 3).sigmoid(),
    "acosh": lambda y: (1 + y.abs()).acosh(),
    "acos": lambda y: y.clamp(-1, 1).acos(),
    "asin": lambda y: (y * 2).clamp(-1, 1).asin(),
    "atanh": lambda y: y.clamp(-0.999, 0.999).atanh(),
}
FLAT: dict[str, _Function] = {
    "log1p": lambda y: y.abs().log1p(),
    "far from zero": lambda y: (y.sigmoid() + 1).log(),
}


def _module(function: _Function) -> Of:
    torch.manual_seed(0)
    return Of(lambda m, x: function(m.layer(x)), layer=nn.Linear(8, 8))


def _samples() -> list[tuple[Tensor]]:
    return [(torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(seed)),) for seed in range(6)]


def test_a_logarithm_reads_the_numbers_that_a_layer_beside_it_reads_rounded(tmp_path: Path) -> None:
    """The layer's eight bits made zero of 0.01, and the logarithm of it was minus infinity."""
    torch.manual_seed(0)
    layers = {"layer": nn.Conv2d(4, 8, 3), "after": nn.Conv2d(8, 8, 1)}
    module = Of(lambda m, x: ((y := m.layer(x).mul(30).abs() + 0.01).log(), m.after(y)), **layers)
    samples = [torch.randn(1, 4, 10, 10, generator=torch.Generator().manual_seed(seed)) for seed in range(6)]
    quantization = edgeconv.Quantization(batches=lambda: [{"x": sample.numpy()} for sample in samples])
    options = {"input_names": ["x"], "output_names": ["log", "layer"], "quantization": quantization}
    result = edgeconv.export(module, samples[:1], tmp_path, name="m", variants="int8", **options)
    logarithm = module(samples[0])[0].detach().numpy()
    for artifact in result.artifacts:
        stored = artifact.inputs[0].to_file(samples[0].numpy())
        if artifact.format == "onnx":
            computed = onnxruntime.InferenceSession(artifact.path).run(["log"], {"x": stored})[0]
        else:
            computed = Interpreter(str(artifact.path)).get_signature_runner()(x=stored)["log"]
        np.testing.assert_allclose(artifact.outputs[0].from_file(computed), logarithm, atol=0.05)


@pytest.mark.parametrize("case", STEEP)
def test_small_numbers_are_told_apart(case: str, tmp_path: Path) -> None:
    found = worst_db(tmp_path, _module(STEEP[case]), _samples())
    assert min(found.values()) > 24, found


@pytest.mark.parametrize("case", FLAT)
def test_what_integers_tell_apart_stays_in_integers(case: str, tmp_path: Path) -> None:
    batches = [{"x": x.numpy()} for (x,) in _samples()]
    result = edgeconv.export(
        _module(FLAT[case]).eval(),
        _samples()[0],
        tmp_path,
        name="m",
        variants="int8",
        input_names=["x"],
        quantization=edgeconv.Quantization(batches=lambda: batches),
    )
    assert not [note for note in result.notes if "tells apart" in note]


def test_a_logarithm_of_sums_is_finite(tmp_path: Path) -> None:
    import onnx
    import onnx_ir as ir

    g = Graph(0, input=(1, 4, 16))
    g.constant("w", np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32) * 2)
    g.constant("axes", np.array([2]))
    g.add("ReduceLogSum", [g.add("Exp", [g.add("MatMul", ["input", "w"], "y")], "e"), "axes"], "sum")
    model = g.model("sum")
    onnx.save(ir.to_proto(model), tmp_path / "in.onnx")
    batches = data(model, 6)
    batches[0]["input"][:, 0] = -8 * np.sign(batches[0]["input"][:, 0])
    result = edgeconv.export_onnx(
        tmp_path / "in.onnx",
        tmp_path / "out",
        name="m",
        variants="int8",
        quantization=edgeconv.Quantization(batches=lambda: batches),
    )
    (wanted,) = onnxruntime.InferenceSession(tmp_path / "in.onnx").run(None, batches[0])
    for artifact in result.artifacts:
        feed = artifact.inputs[0].to_file(batches[0]["input"])
        if artifact.format == "onnx":
            (raw,) = onnxruntime.InferenceSession(artifact.path).run(None, {artifact.inputs[0].name: feed})
        else:
            raw = next(iter(Interpreter(str(artifact.path)).get_signature_runner()(input=feed).values()))
        np.testing.assert_allclose(artifact.outputs[0].from_file(raw), wanted, atol=0.05 * np.abs(wanted).max())


@pytest.mark.parametrize("zeros", [True, False])
def test_many_zeros_do_not_hide_a_bad_sample(zeros: bool) -> None:
    g = Graph(0, input=(1, 4, 16))
    g.constant("w", np.eye(16, dtype=np.float32))
    g.constant("guard", np.float32(1e-4))
    square = g.add("Mul", [g.add("MatMul", ["input", "w"], "y"), "y"], "square")
    root = g.add("Sqrt", [g.add("Add", [square, "guard"], "sum")], "root")
    g.add("Div", [g.constant("one", np.float32(1)), root], "output")
    model = g.model("output")
    generator = np.random.default_rng(0)
    batches = [{"input": generator.uniform(-6, 6, (1, 4, 16)).astype(np.float32)} for _ in range(20)]
    batches += [{"input": np.zeros((1, 4, 16), np.float32)} for _ in range(20 * zeros)]
    kept = make_plan(model, calibrate(model, batches, options=QuantizationOptions(observer="min-max"))).kept_float
    assert kept["y"] == "Div tells apart what 8 bits would not"


_SHIFTS = torch.tensor([-19.0, 2.0, 0.0, -8.0, -3.0, 1.0])[:, None]


@pytest.mark.parametrize("shifted", [True, False])
def test_a_softmax_that_is_written_out_divides_by_no_zero(shifted: bool, tmp_path: Path) -> None:
    def softmax(y: Tensor) -> Tensor:
        y = y + _SHIFTS
        y = (y - y.amax(-1, keepdim=True) if shifted else y).exp()
        return y / y.sum(-1, keepdim=True)

    found = worst_db(tmp_path, _module(softmax), _samples())
    assert min(found.values()) > 24, found


def test_the_reason_names_the_function() -> None:
    g = Graph(0, input=(1, 4, 16))
    g.constant("w", np.eye(16, dtype=np.float32) * 6)
    g.add("Log", [g.add("Softmax", [g.add("MatMul", ["input", "w"], "y")], "p")], "output")
    model = g.model("output")
    kept = make_plan(model, calibrate(model, data(model, 4))).kept_float
    assert set(kept) == {"p", "output"}
    assert kept["p"] == "Log tells apart what 8 bits would not"


def test_a_reciprocal_of_zeros_hides_no_error_of_other_numbers() -> None:
    seen, generator = Histogram(), np.random.default_rng(0)
    for array in (np.zeros(6400, np.float32), generator.uniform(-6, 6, 6400).astype(np.float32)):
        seen.add(array, "")
    parameters = parameters_of(seen.low, seen.high, "int8")
    assert _decibels(lambda numbers: 1 / np.sqrt(numbers**2 + 1e-4), seen, parameters) < 10
    assert _decibels(np.positive, seen, parameters) > 45


def test_a_logarithm_of_small_int16_numbers_is_computed_in_float(tmp_path: Path) -> None:
    """LiteRT's table of 512 lines over the whole range has one for all numbers near zero."""
    module = _module(lambda y: y.relu().add(1e-3).log())
    quantization = edgeconv.Quantization(batches=lambda: [{"x": sample[0].numpy()} for sample in _samples()])
    options = {"formats": "tflite", "input_names": ["x"], "quantization": quantization, "devices": ("litert",)}
    result = edgeconv.export(module, _samples()[0], tmp_path, name="m", variants="int16x8", **options)
    assert result.report is not None
    (comparison,) = result.report.comparisons
    assert comparison.metrics is not None
    assert comparison.metrics.sqnr_db > 35


class _Boxes(nn.Module):
    """Sizes of boxes beside scores, as one convolution makes them: exp(x) times an anchor, and a sigmoid."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 8, 8)
        self.spread = spread
        self.register_buffer("anchors", torch.tensor([10.0, 13.0, 33.0, 23.0]).reshape(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        return torch.cat([(y[:, :4] * self.spread).exp() * self.anchors, y[:, 4:].sigmoid()], 1)


@pytest.mark.parametrize(("spread", "kept"), [(0.5, set()), (2.5, {"exp", "mul_1"})])
def test_sizes_of_boxes_that_are_far_apart_stay_float(spread: float, kept: set[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = _Boxes(spread).eval()
    images = [np.random.default_rng(seed).normal(size=(1, 3, 64, 64)).astype(np.float32) for seed in range(44)]
    result = edgeconv.export(
        module, (torch.from_numpy(images[0]),), tmp_path, name="m", variants="int8", input_names=["x"],
        devices=("onnxruntime", "litert"),
        samples=[edgeconv.Sample(f"s{i}", {"x": x}) for i, x in enumerate(images[:4])],
        quantization=edgeconv.Quantization(batches=lambda: [{"x": x} for x in images[4:]]),
    )  # fmt: skip
    assert result.report is not None
    in_float = Plan.from_json((tmp_path / "m.int8.plan.json").read_text()).kept_float
    assert {name for name, why in in_float.items() if why.startswith("what Exp makes")} == kept
    assert min(row.metrics.sqnr_db for row in result.report.comparisons if row.metrics is not None) > 27
