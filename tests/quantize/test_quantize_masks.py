"""Masks of attentions, and infinities, in integers.

Members, masks: -inf, -1e9, -1e4, -100, finfo.min; masked_fill, where, a sum, a difference, a product with zeros and
ones; constant, computed of an input of floats, integers or booleans, the input itself; before and after a scale; with
a bias; of two layers; rows that are masked whole; before a maximum of windows, axes or operands, before a clamp, what
saturates, gates itself (SiLU, Mish, GELU in both forms), compares or takes the largest few, as pads, parts that are
joined, and numbers filled in; where a maximum, a minimum, the largest few are, and a sort of all before what is cut out
of it; exponentials whose sums have logarithms; a square in a GELU that others read. Infinities: operands of Max, Min,
Clip, Where, Pad; scalars and vectors; infinities that an output shows; two of them in a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from crossed import slow_but
from onnx import helper
from quantize_graphs import Graph, data
from test_quantize_idioms import Of, worst_db
from torch import nn
from torch.nn import functional

from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.errors import QuantizeError
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.progress import Silent
from edgeconv.quantize import bounds_of, calibrate

_INF, _LOWEST = float("-inf"), float(torch.finfo(torch.float32).min)
_CAUSAL = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)
_Scores = Callable[..., torch.Tensor]


def _filled(number: float) -> torch.Tensor:
    return torch.zeros(6, 6).masked_fill(_CAUSAL, number)


_CONSTANT: dict[str, _Scores] = {
    "filled with -inf": lambda y: y.masked_fill(_CAUSAL, _INF),
    "filled with the lowest": lambda y: y.masked_fill(_CAUSAL, _LOWEST),
    "where": lambda y: torch.where(_CAUSAL, torch.tensor(-1e9), y),
    "a sum with -inf": lambda y: (y + _filled(_INF)) / 8**0.5,
    "a sum with -1e9": lambda y: y / 8**0.5 + _filled(-1e9),
    "a sum with -100": lambda y: y + _filled(-100.0),
    "a difference": lambda y: y - 1e9 * _CAUSAL.float(),
    "rows masked whole": lambda y: y.masked_fill(_CAUSAL.flip(1), -1e9),
}
_COMPUTED: dict[str, _Scores] = {
    "a product": lambda y, m: y + (1 - m)[:, None] * -1e9,
    "a product the other way round": lambda y, m: y + (m - 1)[:, None] * 1e4,
    "filled": lambda y, m: y.masked_fill((m == 0)[:, None], _INF),
    "where, then a sum": lambda y, m: y + torch.where(m == 0, -1e9, 0.0)[:, None],
}


def _attention(scores: _Scores) -> Of:
    torch.manual_seed(0)
    return Of(lambda m, x, *mask: scores(m.layer(x) @ x.transpose(1, 2), *mask).softmax(-1) @ x, layer=nn.Linear(8, 8))


def _inputs() -> list[torch.Tensor]:
    return [torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(10)]


def _padding() -> list[torch.Tensor]:
    return [(torch.arange(6) < 2 + seed % 5).float()[None] for seed in range(10)]


@pytest.mark.parametrize("case", _CONSTANT)
def test_a_constant_mask_costs_nothing(case: str, tmp_path: Path) -> None:
    found = worst_db(tmp_path, _attention(_CONSTANT[case]), [(x,) for x in _inputs()])
    assert min(found.values()) > 27, found


@pytest.mark.parametrize("case", _COMPUTED)
def test_a_computed_mask_costs_nothing(case: str, tmp_path: Path) -> None:
    samples = list(zip(_inputs(), _padding(), strict=True))
    found = worst_db(tmp_path, _attention(_COMPUTED[case]), samples)
    assert min(found.values()) > 27, found


@pytest.mark.parametrize("number", [_INF, -1e9])
def test_a_mask_may_be_the_input(number: float, tmp_path: Path) -> None:
    masks = [torch.where(one == 0, number, 0.0) for one in _padding()]
    module = _attention(lambda y, m: y + m[:, None])
    found = worst_db(tmp_path, module, list(zip(_inputs(), masks, strict=True)))
    assert min(found.values()) > 27, found


_UNSEEN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "padded": lambda y: functional.max_pool2d(functional.pad(y, (1, 1, 1, 1), value=-1e9), 3, 2),
    "padded with -inf": lambda y: functional.max_pool2d(functional.pad(y, (1, 1, 1, 1), value=_INF), 3, 2),
    "padded with the lowest": lambda y: functional.max_pool2d(functional.pad(y, (1, 1, 1, 1), value=_LOWEST), 3, 2),
    "padded for two pools": lambda y: functional.max_pool2d(
        functional.max_pool2d(functional.pad(y, (2, 2, 2, 2), value=-1e9), 3, 1), 3, 1
    ),
    "before an activation": lambda y: functional.max_pool2d(functional.pad(y, (1, 1, 1, 1), value=-1e9).relu(), 3, 2),
    "clamped": lambda y: functional.pad(y, (1, 1, 1, 1), value=-1e9).clamp(-1, 1),
    "joined": lambda y: functional.max_pool2d(torch.cat([y, torch.full((1, 8, 12, 2), -1e9)], 3), 3, 2),
    "filled": lambda y: functional.max_pool2d(y.masked_fill(torch.arange(12) % 2 == 0, -1e9), 3, 2),
    "added": lambda y: functional.max_pool2d(y - 1e9 * (torch.arange(12) % 2 == 0).float(), 3, 2),
    "of axes": lambda y: functional.pad(y, (2, 2, 2, 2), value=-1e9).amax((2, 3), keepdim=True).expand(-1, -1, 4, 4),
    "of operands": lambda y: torch.maximum(functional.pad(y, (1, 1, 1, 1), value=-1e9)[:, :, :12, :12], y),
    "smallest": lambda y: torch.minimum(functional.pad(y, (1, 1, 1, 1), value=1e9)[:, :, :12, :12], y),
    "saturating": lambda y: functional.pad(y, (1, 1, 1, 1), value=-1e9).tanh(),
    "gating itself": lambda y: functional.silu(functional.pad(y, (1, 1, 1, 1), value=-1e9)),
    "in a GELU": lambda y: functional.gelu(functional.pad(y, (1, 1, 1, 1), value=-1e9)),
    "in a GELU by tanh": lambda y: functional.gelu(functional.pad(y, (1, 1, 1, 1), value=-1e9), approximate="tanh"),
    "in a Mish": lambda y: functional.mish(functional.pad(y, (1, 1, 1, 1), value=-1e9)),
    "in an ELU": lambda y: functional.elu(functional.pad(y, (1, 1, 1, 1), value=-1e9)),
    "in a softplus": lambda y: functional.softplus(functional.pad(y, (1, 1, 1, 1), value=-1e9)),
    "in a hard sigmoid": lambda y: functional.hardsigmoid(functional.pad(y, (1, 1, 1, 1), value=-1e9)),
    "sloped, then clamped": lambda y: functional.leaky_relu(functional.pad(y, (1, 1, 1, 1), value=-1e9), 0.3).clamp(
        -1, 1
    ),
    "the largest few": lambda y: functional.pad(y, (1, 1, 1, 1), value=-1e9).topk(4, dim=3)[0],
    "compared": lambda y: (
        (functional.pad(y, (1, 1, 1, 1), value=-1e9) > 0.1).float().mean(1, True).expand(-1, 8, -1, -1)
    ),
    "moved before it gates": lambda y: functional.silu(
        functional.pad(y, (1, 1, 1, 1), value=-1e9).transpose(2, 3).mul(2.0)
    ),
    "in powers": lambda y: functional.pad(y, (1, 1), value=-1e9).logsumexp(3, keepdim=True).expand(-1, -1, -1, 4),
}


_ALIKE = ("padded", "padded for two pools", "before an activation", "joined", "filled", "smallest", "in a Mish")


@pytest.mark.parametrize("case", slow_but([case for case in _UNSEEN if case not in _ALIKE], _UNSEEN))
def test_what_a_maximum_cannot_tell_costs_nothing(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    function = _UNSEEN[case]
    module = Of(lambda m, x: m.b(function(m.a(x))), a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 4, 3))
    images = [(torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed)),) for seed in range(6)]
    found = worst_db(tmp_path, module, images)
    least = 20 if case == "compared" else 29  # half a step turns a comparison of numbers that are nearly equal
    assert min(found.values()) > least, found


_LAST = torch.tensor([False, False, False, True])
_RANKS = torch.tensor([[-0.1, -5.0, -6.0, 0.0], [-4.0, -3.5, -2.0, -1.0], [-5.5, -6.0, -5.0, -0.5]])
_PLACES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "of a maximum": lambda x: torch.where(_LAST, -1e9, x).argmax(1),
    "of a minimum": lambda x: torch.where(_LAST, 1e9, -x).argmin(1),
    "of the largest few": lambda x: x.masked_fill(_LAST, -1e9).topk(2, 1)[1],
    "of the smallest few": lambda x: (-x).masked_fill(_LAST, 1e9).topk(2, 1, largest=False)[1],
    "of a sort": lambda x: x.masked_fill(_LAST, -1e9).sort(1)[1][:, 1:],
}


@pytest.mark.parametrize("case", _PLACES)
def test_a_place_is_told_by_the_distance_to_the_next(case: str, tmp_path: Path) -> None:
    found = worst_db(tmp_path, Of(lambda m, x: _PLACES[case](x)), [(_RANKS,)])
    assert min(found.values()) > 200, found


_SORTED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "first": lambda y: y.masked_fill(_EVERY_THIRD, -1e9).sort(1, descending=True)[0][:, :4],
    "last": lambda y: y.masked_fill(_EVERY_THIRD, -1e9).sort(1)[0][:, 4:],
    "in the middle": lambda y: y.masked_fill(_EVERY_THIRD, -1e9).sort(1)[0][:, 5],
    "with its places": lambda y: (
        (found := y.masked_fill(_EVERY_THIRD, -1e9).sort(1))[0][:, 4:].float() + found[1][:, 4:]
    ),
    "all": lambda y: y.masked_fill(_EVERY_THIRD, -2.0).sort(1)[0],
}
_EVERY_THIRD = torch.arange(8) % 3 == 0


@pytest.mark.parametrize("case", _SORTED)
def test_what_is_cut_out_of_a_sort_needs_no_mask(case: str, tmp_path: Path) -> None:
    samples = [(torch.randn(4, 8, generator=torch.Generator().manual_seed(seed)),) for seed in range(6)]
    found = worst_db(tmp_path, Of(lambda m, x: _SORTED[case](x)), samples)
    assert min(found.values()) > 27, found


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_each_sum_of_exponentials_has_its_own_scale(reduce: str, tmp_path: Path) -> None:
    shift = torch.tensor([-19.0, 2.0, 0.0, -8.0])[:, None]
    module = Of(lambda m, x: getattr((x + shift).masked_fill(_EVERY_THIRD, -1e9).exp(), reduce)(1).log())
    samples = [(torch.randn(4, 8, generator=torch.Generator().manual_seed(seed)),) for seed in range(6)]
    found = worst_db(tmp_path, module, samples)
    assert min(found.values()) > 35, found


def test_a_square_in_a_gelu_may_have_other_readers() -> None:
    g = Graph(0, input=(1, 4, 8))
    for name, number in {"half": 0.5, "one": 1.0, "cubic": 0.044715, "slope": math.sqrt(2 / math.pi)}.items():
        g.constant(name, np.array(number, np.float32))
    g.constant("low", np.array([0] * 7 + [-1e3], np.float32))
    x = g.add("Add", ["input", "low"], "x")
    square = g.add("Mul", [x, x], "square")
    cube = g.add("Mul", [g.add("Mul", [square, x], "x3"), "cubic"], "scaled")
    tanh = g.add("Tanh", [g.add("Mul", [g.add("Add", [x, cube], "sum"), "slope"], "argument")], "tanh")
    product = g.add("Mul", [x, g.add("Add", [tanh, "one"], "gate")], "product")
    g.add("Mul", [product, "half"], "gelu")
    alone, beside = g.model("gelu"), g.model("gelu", "square")
    assert "x" in bounds_of(alone, lambda: data(alone, 2))
    assert "x" not in bounds_of(beside, lambda: data(beside, 2))


def test_large_numbers_without_a_gap_are_no_mask() -> None:
    g = Graph(0, input=(1, 4, 8))
    g.constant("scale", np.array(1e4, np.float32))
    g.constant("shift", np.array([0, 100] * 4, np.float32))
    place = g.add("ArgMax", [g.add("Add", [g.add("Mul", ["input", "scale"], "large"), "shift"], "sum")], "at", axis=2)
    g.add("Cast", [place], "place", to=1)
    model = g.model("place")
    assert bounds_of(model, lambda: data(model, 4)) == {}


def test_a_mask_that_two_layers_read_serves_both(tmp_path: Path) -> None:
    def forward(m: nn.Module, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        masked = (1 - mask)[:, None] * -1e9
        for layer in (m.a, m.b):
            x = (layer(x) @ x.transpose(1, 2) + masked).softmax(-1) @ x
        return x

    torch.manual_seed(0)
    module = Of(forward, a=nn.Linear(8, 8), b=nn.Linear(8, 8))
    found = worst_db(tmp_path, module, list(zip(_inputs(), _padding(), strict=True)))
    assert min(found.values()) > 25, found


def test_int16_loses_nothing_either(tmp_path: Path) -> None:
    found = worst_db(tmp_path, _attention(_CONSTANT["filled with -inf"]), [(x,) for x in _inputs()], "int16x8")
    assert min(found.values()) > 45, found


def test_what_no_softmax_reads_keeps_its_range() -> None:
    g = Graph(0, input=(1, 4, 4))
    g.constant("low", np.array([0, 0, 0, -1e3], np.float32))
    g.add("Softmax", [g.add("Add", ["input", "low"], "sum")], "score")
    model = g.model("score", "sum")  # an output: whoever reads it can tell
    assert bounds_of(model, lambda: data(model, 2)) == {}
    low, _ = calibrate(model, data(model, 2), options=QuantizationOptions(observer="min-max")).range_of("sum")
    assert low < -900


def test_a_bound_is_where_a_softmax_stops_telling_apart() -> None:
    g = Graph(0, input=(1, 4, 4))
    g.constant("low", np.array([0, 0, 0, -1e3], np.float32))
    g.add("Softmax", [g.add("Add", ["input", "low"], "sum")], "score")
    model = g.model("score")
    batches = data(model, 2)
    least = min(batch["input"][..., :3].max(axis=-1).min() for batch in batches)
    bounds = bounds_of(model, lambda: batches)
    assert bounds["sum"] == (pytest.approx(least - math.log(4 * 2**12), abs=1e-5), math.inf)
    assert set(bounds) == {"sum", "low"}


_EXTREMES: dict[str, list[onnx.NodeProto]] = {
    "max": [helper.make_node("Max", ["c", "low"], ["y"])],
    "min": [helper.make_node("Min", ["high", "c"], ["y"])],
    "both": [helper.make_node("Max", ["c", "low"], ["m"]), helper.make_node("Min", ["m", "high"], ["y"])],
    "max of some": [helper.make_node("Max", ["c", "some"], ["y"])],
    "clip": [helper.make_node("Clip", ["c", "low", "half"], ["y"])],
    "where": [
        helper.make_node("Greater", ["c", "half"], ["g"]),
        helper.make_node("Where", ["g", "c", "low"], ["m"]),
        helper.make_node("Max", ["m", "half"], ["y"]),
    ],
    "shown": [helper.make_node("Greater", ["c", "half"], ["g"]), helper.make_node("Where", ["g", "c", "low"], ["y"])],
}


def _extreme(case: str) -> onnx.ModelProto:
    infinite = np.float32(np.inf)
    constants = {
        "w": np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32),
        "low": -infinite,
        "high": infinite,
        "half": np.float32(0.5),
        "some": np.array([-np.inf, 0, -1, -np.inf], np.float32).reshape(1, 4, 1, 1),
    }
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), *_EXTREMES[case]]
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, [1, 4, 6, 6])],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in read],
    )
    return onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("variant", ["fp32", "int8", "int16x8"])
@pytest.mark.parametrize("case", _EXTREMES)
def test_an_infinite_operand_is_no_broken_weight(case: str, variant: str, tmp_path: Path) -> None:
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    import edgeconv

    onnx.save(_extreme(case), tmp_path / "in.onnx")
    rng = np.random.default_rng(1)
    batches = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
    quantization = edgeconv.Quantization(batches=lambda: batches)
    result = edgeconv.export_onnx(
        tmp_path / "in.onnx", tmp_path / "out", name="o", variants=variant, quantization=quantization
    )
    (wanted,) = onnxruntime.InferenceSession(tmp_path / "in.onnx").run(None, batches[0])
    finite = np.isfinite(wanted)
    for artifact in result.artifacts:
        (spec,), feed = artifact.inputs, artifact.inputs[0].to_file(batches[0]["x"])
        if artifact.format == "onnx":
            (raw,) = onnxruntime.InferenceSession(artifact.path).run(None, {spec.name: feed})
        else:
            raw = next(iter(Interpreter(str(artifact.path)).get_signature_runner()(x=feed).values()))
        made = artifact.outputs[0].from_file(raw)
        np.testing.assert_allclose(made[finite], wanted[finite], atol=1e-4 if variant == "fp32" else 0.3)
        np.testing.assert_array_equal(made[~finite], wanted[~finite])


def test_what_is_nan_is_told() -> None:
    g = Graph(0, input=(1, 4))
    g.constant("c", np.array([1, np.nan, 1, 1], np.float32))
    g.add("Relu", [g.add("Max", ["input", "c"], "m")], "y")
    model = g.model("y")
    with pytest.raises(QuantizeError, match="NaN"):
        list(variants_of(model, ("int8",), Quantization(batches=lambda: data(model, 2)), Silent()))


@pytest.mark.parametrize("clamp", ["plain", "moved", "scaled"])
def test_spikes_of_an_input_that_is_clamped_cost_nothing(clamp: str, tmp_path: Path) -> None:
    """The input is rounded before it is clamped, so its range ends where the clamp's does."""
    clamped: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "plain": lambda x: x.clamp(0, 1),
        "moved": lambda x: x.transpose(2, 3).clamp(0, 1),
        "scaled": lambda x: (x / 2).clamp(0, 0.5),
    }
    samples = [(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)),) for seed in range(8)]
    for seed, (x,) in enumerate(samples):
        x[0, seed % 3, seed, 0] = 60.0
    module = Of(lambda m, x: m.layer(clamped[clamp](x)), layer=nn.Conv2d(3, 8, 3))
    found = worst_db(tmp_path, module, samples)
    assert min(found.values()) > 30, found
