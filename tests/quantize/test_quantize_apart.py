"""Outputs of parts whose ranges differ: each keeps a scale of its own.

Members: boxes in pixels beside scores; joined along channels, along the last axis, of several levels that are joined
again; moved, reshaped, sliced or split behind the join; clamped, scaled, pooled, enlarged, masked or added to behind
it; joined in other words (a Where of a constant mask, a sum of padded or masked parts); taken out again, by an
application or for a layer; three parts, a constant among them; both formats, integers at the border. Boxes and scores
that one layer makes as its channels (Conv, Gemm), to the output, moved, sliced, a function of one slice, levels joined
before they are split, scaled by a constant per channel. And what stays in integers: parts alike, a join that a layer
reads, 16 bits, features, a channel of many that no input shows.
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
from quantize_graphs import Graph, data
from torch import Tensor, nn
from torch.nn import functional

import edgeconv
from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.quantize import calibrate, make_plan

_Joined = Callable[[Tensor, Tensor], Tensor]


class Detector(nn.Module):
    """Boxes of 0 to 640 and scores of 0 to 1, of 4 and 5 channels."""

    def __init__(self, joined: _Joined) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.box, self.score = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 5, 1)
        self.joined = joined

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.joined(self.box(x).sigmoid() * 640, (self.score(x) * 4 - 3).sigmoid())


JOINS: dict[str, tuple[_Joined, int]] = {  # and the axis of the channels
    "channels": (lambda b, s: torch.cat([b, s], 1), 1),
    "channels of rows": (lambda b, s: torch.cat([b.flatten(2), s.flatten(2)], 1), 1),
    "the last axis": (lambda b, s: torch.cat([b.permute(0, 2, 3, 1), s.permute(0, 2, 3, 1)], -1), 3),
    "moved behind": (lambda b, s: torch.cat([b, s], 1).flatten(2).transpose(1, 2), 2),
    "levels": (lambda b, s: torch.cat([torch.cat([b, s], 1).flatten(2), torch.cat([b + 1, s], 1).flatten(2)], 2), 1),
    "three": (lambda b, s: torch.cat([b, s[:, :1] * 20, s[:, 1:]], 1), 1),
    "sliced behind": (lambda b, s: torch.cat([b, s], 1)[:, :, 1:], 1),
    "clamped": (lambda b, s: torch.cat([b, s], 1).clamp(0, 600), 1),
    "rectified": (lambda b, s: torch.cat([b, s - 0.02], 1).relu(), 1),
    "scaled behind": (lambda b, s: torch.cat([b, s], 1) * torch.tensor([0.5] * 4 + [1.0] * 5).view(1, 9, 1, 1), 1),
    "pooled": (lambda b, s: functional.max_pool2d(torch.cat([b, s], 1), 2), 1),
    "averaged": (lambda b, s: functional.avg_pool2d(torch.cat([b, s], 1), 3, 1, 1), 1),
    "the largest of rows": (lambda b, s: torch.cat([b, s], 1).amax(3), 1),
    "enlarged": (lambda b, s: functional.interpolate(torch.cat([b, s], 1), scale_factor=2.0, mode="bilinear"), 1),
    "gathered": (lambda b, s: torch.cat([b, s], 1).flatten(2)[:, :, torch.arange(0, 64, 3)], 1),
    "added to": (lambda b, s: torch.cat([b, s], 1) + torch.cat([b, s], 1).flip(3), 1),
    "chosen by a mask": (lambda b, s: torch.where(_BOXES, torch.cat([b, s], 1), torch.cat([b * 0.5, s], 1) * 0.5), 1),
    "a sum of padded parts": (lambda b, s: functional.pad(b, _AFTER) + functional.pad(s, _BEFORE), 1),
    "a sum of masked parts": (
        lambda b, s: torch.cat([b, b, s[:, :1]], 1) * _BOXES.float() + torch.cat([s[:, 1:], s], 1) * (~_BOXES).float(),
        1,
    ),
}
_TAKEN_OUT: dict[str, _Joined] = {
    "split": lambda b, s: torch.cat([b, s], 1).split([4, 5], 1)[1] * 2,
    "sliced": lambda b, s: torch.cat([b, s], 1)[:, 4:] * 3,
    "sliced behind a clamp": lambda b, s: torch.cat([b, s], 1).clamp(0, 600)[:, 4:],
    "picked": lambda b, s: torch.cat([b, s], 1)[:, torch.arange(4, 9)] + 1,
    "sliced for a layer": lambda b, s: functional.conv2d(torch.cat([b, s], 1)[:, 4:], _SUMS),
}


_BOXES = (torch.arange(9) < 4).view(1, 9, 1, 1)
_AFTER, _BEFORE = (0, 0, 0, 0, 0, 5), (0, 0, 0, 0, 4, 0)
_SUMS = torch.full((2, 5, 1, 1), 0.3)


def _images() -> list[np.ndarray]:
    return [np.random.default_rng(seed).random((1, 3, 16, 16), np.float32) for seed in range(32)]


def _least_db(folder: Path, module: nn.Module, axis: int, io: str = "float32", *, boxes: int = 4) -> dict[str, float]:
    """SQNR of the scores alone, by format."""
    images = _images()
    result = edgeconv.export(
        module,
        (torch.from_numpy(images[0]),),
        folder,
        name="m",
        variants="int8",
        input_names=["x"],
        quantization=edgeconv.Quantization(batches=lambda: [{"x": image} for image in images], io=io),
    )
    found = {}
    for artifact in result.artifacts:
        feed = {"x": artifact.inputs[0].to_file(images[0])}
        if artifact.format == "onnx":
            raw = onnxruntime.InferenceSession(artifact.path).run(None, feed)[0]
        else:
            raw = next(iter(Interpreter(str(artifact.path)).get_signature_runner()(**feed).values()))
        expected = module(torch.from_numpy(images[0])).detach().numpy()
        scores, error = (
            np.split(array, [boxes], axis)[1] for array in (expected, artifact.outputs[0].from_file(raw) - expected)
        )
        found[artifact.format] = float(10 * np.log10((scores**2).sum() / (error**2).sum()))
    return found


_ALIKE = ("levels", "three", "sliced behind", "rectified", "averaged", "moved behind")


@pytest.mark.parametrize("name", slow_but([name for name in JOINS if name not in _ALIKE], JOINS))
def test_scores_beside_pixels_live(name: str, tmp_path: Path) -> None:
    join, axis = JOINS[name]
    found = _least_db(tmp_path, Detector(join).eval(), axis)
    assert min(found.values()) > 28, found


@pytest.mark.parametrize("name", _TAKEN_OUT)
def test_scores_that_are_taken_out_of_a_join_live(name: str, tmp_path: Path) -> None:
    found = _least_db(tmp_path, Detector(_TAKEN_OUT[name]).eval(), 1, boxes=0)
    assert min(found.values()) > 28, found


class OneLayer(nn.Module):
    """Boxes of 0 to 640 and scores of 0 to 1, or their logits, that one layer makes."""

    def __init__(self, parts: Callable[[Tensor], Tensor], *, logits: bool = False, linear: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.head: nn.Module = nn.Linear(16 * 64, 9) if linear else nn.Conv2d(16, 9, 1)
        self.parts, self.linear = parts, linear
        with torch.no_grad():
            self.head.weight[:4] *= 300
            self.head.bias[:] = torch.tensor([320.0] * 4 + [-2.0 if logits else 0.3] * 5)
            self.head.weight[4:] *= 4 if logits else 0.2

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.parts(self.head(x.flatten(1) if self.linear else x))


_SCALES = torch.tensor([640.0] * 4 + [1.0] * 5).reshape(1, 9, 1, 1)
ONE_LAYER: dict[str, tuple[OneLayer, int]] = {  # and the axis of the channels
    "raw": (OneLayer(lambda y: y), 1),
    "moved": (OneLayer(lambda y: y.flatten(2).transpose(1, 2)), 2),
    "anchors": (OneLayer(lambda y: y.reshape(1, 1, 9, 8, 8).permute(0, 1, 3, 4, 2).reshape(1, -1, 9)), 2),
    "a function of a slice": (OneLayer(lambda y: torch.cat([y[:, :4], y[:, 4:].sigmoid()], 1), logits=True), 1),
    "levels": (OneLayer(lambda y: torch.cat([y.flatten(2), y[:, :, 1:].flatten(2) + 0.1], 2)), 1),
    "scaled": (OneLayer(lambda y: (y * (1 / _SCALES)) * _SCALES), 1),
    "linear": (OneLayer(lambda y: y, linear=True), 1),
}


@pytest.mark.parametrize("name", ONE_LAYER)
def test_scores_that_a_layer_makes_beside_pixels_live(name: str, tmp_path: Path) -> None:
    module, axis = ONE_LAYER[name]
    found = _least_db(tmp_path, module.eval(), axis)
    assert min(found.values()) > 26, found


def _graph(*, factor: float, behind: str = "") -> tuple[Graph, str]:
    """Two convolutions, one of them times a factor, that are joined; and what stands behind."""
    g = Graph(0, input=(1, 4, 8, 8))
    wide = g.add("Mul", [g.conv("input", "a", (4, 4, 1, 1)), g.constant("factor", np.float32(factor))], "wide")
    output = g.add("Concat", [wide, g.conv("input", "b", (3, 4, 1, 1))], "joined", axis=1)
    if behind == "Conv":
        output = g.conv(output, "last", (2, 7, 1, 1))
    elif behind == "MaxPool":
        output = g.add("MaxPool", [output], "last", kernel_shape=[2, 2])
    elif behind == "Transpose":
        output = g.add("Transpose", [output], "last", perm=[0, 2, 3, 1])
    return g, output


@pytest.mark.parametrize(
    ("factor", "behind", "scheme", "kept"),
    [
        (500.0, "", "int8", {"joined"}),
        (500.0, "Transpose", "int8", {"joined", "last"}),
        (2.0, "", "int8", set()),
        (500.0, "Conv", "int8", set()),
        (500.0, "MaxPool", "int8", {"joined", "last"}),
        (500.0, "", "int16x8", set()),
    ],
)
def test_only_what_is_read_apart_behind_the_join_stays_float(
    factor: float, behind: str, scheme: str, kept: set[str]
) -> None:
    g, output = _graph(factor=factor, behind=behind)
    model = g.model(output)
    plan = make_plan(model, calibrate(model, data(model, 4)), scheme=scheme)
    assert plan.kept_float.keys() == kept
    assert all("at one scale the smaller would lose" in reason for reason in plan.kept_float.values())


def test_what_was_asked_for_keeps_its_reason() -> None:
    g, output = _graph(factor=500.0)
    model = g.model(output)
    options = QuantizationOptions(keep_float=("joined",))
    plan = make_plan(model, calibrate(model, data(model, 4), options=options), options=options)
    assert plan.kept_float == {"joined": "it was asked for"}


def _head(widths: list[float], *, behind: str = "") -> tuple[Graph, str]:
    """One convolution whose channels have ranges like the widths."""
    g = Graph(0, input=(1, 4, 8, 8))
    output = g.conv("input", "head", (len(widths), 4, 1, 1))
    factors = np.array(widths, np.float32)
    weight = g.constants["head.weight"]
    weight *= (factors / np.linalg.norm(weight.reshape(len(widths), -1), axis=1)).reshape(-1, 1, 1, 1)
    g.constants["head.bias"] *= factors
    if behind == "Conv":
        output = g.conv(output, "last", (2, len(widths), 1, 1))
    elif behind == "Transpose":
        output = g.add("Transpose", [output], "last", perm=[0, 2, 3, 1])
    elif behind:
        output = g.add(behind, [output], "last")
    return g, output


@pytest.mark.parametrize(
    ("widths", "behind", "scheme", "kept"),
    [
        ([500.0] * 4 + [1.0] * 5, "", "int8", {"head"}),
        ([500.0] * 4 + [1.0], "Transpose", "int8", {"head", "last"}),
        ([500.0] * 4 + [1.0], "Sigmoid", "int8", {"head"}),
        ([5.0] * 4 + [1.0] * 5, "", "int8", set()),
        ([500.0] * 29 + [1.0], "", "int8", set()),
        ([500.0] * 4 + [1.0], "Conv", "int8", set()),
        ([500.0] * 4 + [1.0], "Relu", "int8", set()),
        ([500.0] * 4 + [1.0], "", "int16x8", set()),
    ],
)
def test_only_a_last_layer_of_uneven_channels_stays_float(
    widths: list[float], behind: str, scheme: str, kept: set[str]
) -> None:
    g, output = _head(widths, behind=behind)
    model = g.model(output)
    plan = make_plan(model, calibrate(model, data(model, 4)), scheme=scheme)
    assert plan.kept_float.keys() == kept
    assert all(reason.startswith("its channels have ranges of") for reason in plan.kept_float.values())


def test_layers_that_only_their_join_makes_uneven_stay_integers() -> None:
    """Split again behind the join, so that it does not end in an output."""
    g = Graph(0, input=(1, 4, 8, 8))
    wide = g.conv("input", "wide", (4, 4, 1, 1), gain=500.0)
    g.add("Concat", [wide, g.conv("input", "narrow", (3, 4, 1, 1))], "joined", axis=1)
    bounds = [g.constant(name, np.array([at])) for name, at in (("start", 4), ("end", 7), ("axis", 1))]
    output = g.add("Sigmoid", [g.add("Slice", ["joined", *bounds], "sliced")], "scores")
    model = g.model(output)
    plan = make_plan(model, calibrate(model, data(model, 4)))
    assert plan.kept_float.keys() == {"joined", "sliced"}
    assert plan.tensors["wide"].scale > 50 * plan.tensors["narrow"].scale
