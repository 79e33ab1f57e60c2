"""Channels whose ranges are alike, as none is near zero, and of which some hardly vary: each keeps what it varies.

Members: means beside logarithms of variances that two layers make and a Concat joins (vectors, maps, series), that one
layer makes, that are split or sliced again, clamped or moved behind; a part of one channel among many; the channels of
a Split that one layer makes. And what stays in integers: channels that all vary little, one of many of one layer,
constants, a join that a layer reads, 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from crossed import slow_but
from quantize_graphs import Graph
from torch import Tensor, nn

import edgeconv
from edgeconv.core import Array
from edgeconv.quantize import calibrate, make_plan

_MEANS, _DEVIATIONS = np.array([2.0, -1.0, -3.0, -2.0]), np.array([1.5, 0.8, 0.02, 0.3])
_Function = Callable[["Gaussian", Tensor], Tensor]


class Gaussian(nn.Module):
    """Two means and two logarithms of variances, of layers of their own and of one layer, by kind of the layers."""

    def __init__(self, function: _Function, layer: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.function = function
        self.mean, self.log, self.both = layer(8, 2), layer(8, 2), layer(8, 4)
        for last, at in ((self.mean, slice(0, 2)), (self.log, slice(2, 4)), (self.both, slice(0, 4))):
            weight = last.weight.data.flatten(1)
            factors = torch.from_numpy(_DEVIATIONS[at]).float()[:, None] / weight.norm(dim=1, keepdim=True)
            last.weight.data = (weight * factors).reshape(last.weight.shape)
            last.bias.data = torch.from_numpy(_MEANS[at]).float()

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


_VECTORS, _MAPS = (1, 8), (1, 8, 6, 6)
HEADS: dict[str, tuple[tuple[int, ...], _Function]] = {
    "joined": (_VECTORS, lambda m, x: torch.cat([m.mean(x), m.log(x)], 1)),
    "joined maps": (_MAPS, lambda m, x: torch.cat([m.mean(x), m.log(x)], 1)),
    "joined, clamped": (_VECTORS, lambda m, x: torch.cat([m.mean(x), m.log(x)], 1).clamp(-8, 8)),
    "joined, moved": (_MAPS, lambda m, x: torch.cat([m.mean(x), m.log(x)], 1).flatten(2).transpose(1, 2)),
    "joined, sliced": (_MAPS, lambda m, x: torch.cat([m.mean(x), m.log(x)], 1)[:, 1:]),
    "one layer": (_VECTORS, lambda m, x: m.both(x)),
    "one layer of maps": (_MAPS, lambda m, x: m.both(x)),
    "one layer, split": (_MAPS, lambda m, x: torch.cat([part.flatten(2) for part in m.both(x).split(2, 1)], 1)),
}


_ALIKE = ("joined, clamped", "joined, sliced", "one layer of maps")


@pytest.mark.parametrize("name", slow_but([name for name in HEADS if name not in _ALIKE], HEADS))
def test_a_channel_that_hardly_varies_keeps_what_it_does(name: str, tmp_path: Path) -> None:
    shape, function = HEADS[name]
    module = Gaussian(function, nn.Linear if shape == _VECTORS else lambda a, b: nn.Conv2d(a, b, 1)).eval()
    rng = np.random.default_rng(0)
    batches = [{"x": rng.uniform(-1.7, 1.7, shape).astype(np.float32)} for _ in range(76)]
    result = edgeconv.export(
        module,
        (torch.zeros(shape),),
        tmp_path,
        name="net",
        input_names=["x"],
        variants="int8",
        quantization=edgeconv.Quantization(batches=lambda: batches[:64]),
        samples=[edgeconv.Sample(f"unseen {index}", batch) for index, batch in enumerate(batches[64:])],
        devices=("onnxruntime", "litert"),
    )
    assert result.report.verdict.value == "pass", [row.reason for row in result.report.comparisons]
    assert any("deviations of 0.0" in note for note in result.notes)
    expected = [module(torch.from_numpy(batch["x"])).detach().numpy() for batch in batches[64:]]
    for artifact in result.artifacts:
        inputs = [{"x": artifact.inputs[0].to_file(batch["x"])} for batch in batches[64:]]
        if artifact.format == "onnx":
            session = onnxruntime.InferenceSession(artifact.path)
            raw = [session.run(None, one)[0] for one in inputs]
        else:
            runner = Interpreter(str(artifact.path)).get_signature_runner()
            raw = [next(iter(runner(**one).values())) for one in inputs]
        found = _decibels([artifact.outputs[0].from_file(array) for array in raw], expected)
        assert min(found) > 20, (artifact.format, found)


def _decibels(computed: list[Array], expected: list[Array]) -> list[float]:
    """What each channel varies over its error."""
    shape = expected[0].shape
    axis = min(range(1, len(shape)), key=lambda index: shape[index])
    actual, exact = (
        np.concatenate([np.moveaxis(array, axis, 0).reshape(shape[axis], -1) for array in arrays], 1)
        for arrays in (computed, expected)
    )
    error = np.maximum(np.square(actual - exact).mean(1), 1e-30)  # a net of this one layer is float as a whole
    return [float(left) for left in 10 * np.log10(exact.var(1) / error)]


def _graph(deviations: list[float], *, parts: int = 1, behind: str = "") -> tuple[Graph, str]:
    """Channels of 3 and more, and of such deviations, of one convolution or of several that are joined."""
    g = Graph(0, input=(1, 4, 8, 8))
    names = []
    for index, some in enumerate(np.array_split(np.array(deviations, np.float32), [len(deviations) - parts + 1])):
        if not len(some):
            continue
        names.append(g.conv("input", f"layer{index}", (len(some), 4, 1, 1)))
        weight = g.constants[f"{names[-1]}.weight"]
        weight *= (some / np.linalg.norm(weight.reshape(len(some), -1), axis=1)).reshape(-1, 1, 1, 1)
        g.constants[f"{names[-1]}.bias"][:] = 3.0
    output = g.add("Concat", names, "joined", axis=1) if len(names) > 1 else names[0]
    return (g, g.conv(output, "last", (2, len(deviations), 1, 1))) if behind == "Conv" else (g, output)


@pytest.mark.parametrize(
    ("deviations", "parts", "behind", "scheme", "kept"),
    [
        ([1.5, 0.02], 1, "", "int8", {"layer0"}),
        ([1.5, 0.02], 2, "", "int8", {"joined"}),
        ([1.5] * 29 + [0.02], 2, "", "int8", {"joined"}),
        ([1.5] * 29 + [0.02], 1, "", "int8", set()),
        ([0.02, 0.03], 1, "", "int8", set()),
        ([0.02, 0.03], 2, "", "int8", set()),
        ([1.5, 1e-8], 1, "", "int8", set()),
        ([1.5, 1e-8], 2, "", "int8", set()),
        ([1.5, 0.02], 1, "Conv", "int8", set()),
        ([1.5, 0.02], 2, "Conv", "int8", set()),
        ([1.5, 0.02], 1, "", "int16x8", set()),
        ([1.5, 0.02], 2, "", "int16x8", set()),
    ],
)
def test_only_what_a_common_scale_would_swallow_stays_float(
    deviations: list[float], parts: int, behind: str, scheme: str, kept: set[str]
) -> None:
    g, output = _graph(deviations, parts=parts, behind=behind)
    model = g.model(output)
    rng = np.random.default_rng(1)
    batches = [{"input": rng.standard_normal((1, 4, 8, 8)).astype(np.float32)} for _ in range(4)]
    plan = make_plan(model, calibrate(model, batches), scheme=scheme)
    assert plan.kept_float.keys() == kept
    assert all("dB of the smallest would be left" in reason for reason in plan.kept_float.values())
