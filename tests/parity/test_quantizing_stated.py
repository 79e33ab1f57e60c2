"""Link 2 of what rounds by itself: a module trained for int8, a file with QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization as ao

import edgeconv
from edgeconv.capture import open_onnx
from edgeconv.capture.torch import _trained
from edgeconv.core import Sample
from edgeconv.core.verdicts import Link, Verdict
from edgeconv.flow.source import OnnxSource, TorchSource
from edgeconv.flow.stated import stated_of
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.graph.edit import constant
from edgeconv.parity.quantizing import StatedRounding, keeping
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize


class Trained(nn.Module):
    """Two convolutions, a sum, an average and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.sum = torch.ao.nn.quantized.FloatFunctional()
        self.pool, self.last = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.sum.add(x, self.second(x))
        return self.last(self.pool(x).flatten(1))


def _trained_module(backend: str) -> nn.Module:
    torch.manual_seed(0)
    module = ao.fuse_modules_qat(Trained().train(), [["first.0", "first.1", "first.2"]])
    module = ao.QuantWrapper(module).train()
    module.qconfig = ao.get_default_qat_qconfig(backend)
    module = ao.prepare_qat(module)
    for _ in range(4):
        module(torch.randn(4, 3, 8, 8))
    return module.eval().apply(ao.disable_observer)


_DATA = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))

_FILE = """<ir_version: 9, opset_import: ["": 18]> g (float[1, 3, 6, 6] x) => (float[1, 4, 6, 6] y)
    <float s = {0.02}, int8 z = {-3}, float t = {0.05}, uint8 u = {7}, float[4] ws = {0.01, 0.02, 0.015, 0.03},
     int8[4] wz = {0, 0, 0, 0}, int8[4, 3, 1, 1] w = {1, -127, 3, 100, 5, -6, 127, 8, 9, 10, -11, 12},
     float[4] b = {0.1, 0.2, -0.3, 0.4}> {
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear<axis = 0>(w, ws, wz)
        c = Conv(xd, wd, b)
        cq = QuantizeLinear(c, t, u)
        cd = DequantizeLinear(cq, t, u)
        r = Relu(cd)
        rq = QuantizeLinear(r, s, z)
        y = DequantizeLinear(rq, s, z)
    }"""


def _made(source: str, folder: Path) -> tuple[tuple[StatedRounding, ...], list[ir.Model]]:
    """What a source states, the graph that is captured, what that is rewritten to, and what files are written from."""
    if source == "file":
        onnx.save(onnx.parser.parse_model(_FILE), folder / "m.onnx")
        of_file = OnnxSource(open_onnx(folder / "m.onnx"), {"x": (1, 3, 6, 6)})
        stated, graph = stated_of(of_file, of_file.noise()), of_file.graph()
    else:
        module = TorchSource(_trained_module(source), (_DATA,), ("x",))
        stated, graph = stated_of(module, Sample("x", {"x": _DATA.numpy()})), module.graph()
    captured = graph.clone()
    rewritten = optimize(graph)
    (variant,) = variants_of(rewritten, ("int8",), Quantization(), Silent())
    return tuple(stated), [captured, rewritten.clone(), variant.model.clone()]


def _pair(model: ir.Model) -> tuple[ir.Node, list[ir.Node]]:
    node = [node for node in model.graph if node.op_type == "QuantizeLinear"][1]
    return node, [use.node for use in node.outputs[0].uses()]


def _weight(model: ir.Model) -> ir.Node:
    stored = (node for node in model.graph if node.op_type == "DequantizeLinear")
    return next(node for node in stored if (data := constant(node.inputs[0])) is not None and data.ndim > 1)


def _put(node: ir.Node, index: int, array: np.ndarray) -> None:
    node.replace_input_with(index, ir.Value(name="planted", const_value=ir.tensor(array, name="planted")))


def _constant(node: ir.Node, index: int) -> np.ndarray:
    array = constant(node.inputs[index])
    assert array is not None
    return array.copy()


def _scale_of_pair(model: ir.Model) -> None:
    node, readers = _pair(model)
    other = np.nextafter(_constant(node, 1), np.float32(np.inf))
    for each in (node, *readers):
        _put(each, 1, other)


def _zero_point(model: ir.Model) -> None:
    node, readers = _pair(model)
    other = _constant(node, 2) + np.ones((), _constant(node, 2).dtype)
    for each in (node, *readers):
        _put(each, 2, other)


def _one_side(model: ir.Model) -> None:
    node, readers = _pair(model)
    _put(readers[0], 1, np.nextafter(_constant(node, 1), np.float32(0)))


def _another_s(model: ir.Model) -> None:
    first = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    node, readers = _pair(model)
    for each in (node, *readers):
        _put(each, 1, _constant(first, 1))
        _put(each, 2, _constant(first, 2))


def _dropped(model: ir.Model) -> None:
    node, readers = _pair(model)
    for reader in readers:
        for use in list(reader.outputs[0].uses()):
            use.node.replace_input_with(use.idx, node.inputs[0])
        model.graph.remove(reader, safe=True)
    model.graph.remove(node, safe=True)


def _integer(model: ir.Model) -> None:
    integers = _constant(_weight(model), 0)
    integers.reshape(-1)[4] += 1
    _put(_weight(model), 0, integers)


def _least_integer(model: ir.Model) -> None:
    integers = _constant(_weight(model), 0)
    integers.reshape(-1)[int(np.argmin(integers))] = -128
    integers.reshape(-1)[int(np.argmax(integers))] -= 1
    _put(_weight(model), 0, integers)


def _scale_of_weight(model: ir.Model) -> None:
    scales = _constant(_weight(model), 1)
    scales.reshape(-1)[-1] = np.nextafter(scales.reshape(-1)[-1], np.float32(np.inf))
    _put(_weight(model), 1, scales)


def _permuted(model: ir.Model) -> None:
    _put(_weight(model), 1, np.roll(_constant(_weight(model), 1), 1))


FAULTS: dict[str, Callable[[ir.Model], None]] = {
    "scale": _scale_of_pair,
    "zero point": _zero_point,
    "one side": _one_side,
    "another's": _another_s,
    "dropped": _dropped,
    "integer": _integer,
    "-128": _least_integer,
    "scale of a weight": _scale_of_weight,
    "permuted": _permuted,
}


@pytest.mark.parametrize("source", ["x86", "qnnpack", "file"])
def test_what_a_source_states_of_its_roundings_is_in_its_graphs(source: str, tmp_path: Path) -> None:
    stated, graphs = _made(source, tmp_path)
    assert keeping(stated, *graphs) is None
    for at, (name, plant) in [(at, item) for at in (0, 2) for item in FAULTS.items()]:
        planted = [graph.clone() for graph in graphs]
        if name == "permuted" and np.ptp(_constant(_weight(planted[at]), 1)) == 0:
            continue
        plant(planted[at])
        link = keeping(stated, *planted)
        assert link is not None, (at, name)
        assert link.verdict is Verdict.FAIL
        assert "source" in link.reason or "read back" in link.reason


def test_a_capture_that_reads_another_scale_breaks_link_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = _trained.rounding

    def other(scale: Tensor, *rest: object) -> _trained.Rounding:
        return right(scale * (1 + 2.0**-23), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(_trained, "rounding", other)
    module = _trained_module("qnnpack")
    edgeconv.export(module, (_DATA,), tmp_path, name="m", formats="onnx", variants="int8", devices="onnxruntime")
    (artifact,) = json.loads((tmp_path / "parity.json").read_text())["artifacts"]
    link = next(link for link in artifact["links"] if link["link"] == Link.ROUNDING.value)
    assert link["verdict"] == Verdict.FAIL.value
    assert "than its source" in link["reason"]
