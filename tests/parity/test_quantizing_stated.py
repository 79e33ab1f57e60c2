"""Link 2 of what rounds by itself: a module or a program trained for int8, a file with QuantizeLinear."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.ao.quantization.fx._decomposed
from crossed import diagonal
from torch import Tensor, nn
from torch.ao import quantization as ao
from torch.ao.quantization import quantize_fx as fx
from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize

import edgeconv
from edgeconv.capture import open_onnx
from edgeconv.capture.torch import _trained
from edgeconv.capture.torch.call import called
from edgeconv.core import Sample
from edgeconv.core.verdicts import Link, Verdict
from edgeconv.flow.source import OnnxSource, Source, TorchSource
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


class WithHead(Trained):
    """A head besides, as some networks are trained with, whose result is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.head(x)
        return super().forward(x)


def _trained_module(backend: str, kind: type[Trained] = Trained) -> nn.Module:
    torch.manual_seed(0)
    module = ao.fuse_modules_qat(kind().train(), [["first.0", "first.1", "first.2"]])
    module = ao.QuantWrapper(module).train()
    module.qconfig = ao.get_default_qat_qconfig(backend)
    module = ao.prepare_qat(module)
    for _ in range(4):
        module(torch.randn(4, 3, 8, 8))
    return module.eval().apply(ao.disable_observer)


class Sums(Trained):
    """The sum as Python writes it, for torch's graph mode."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.pool(x + self.second(x)).flatten(1))


def _of_graph_mode(backend: str) -> Any:
    torch.manual_seed(0)
    module = fx.prepare_qat_fx(Sums().train(), ao.get_default_qat_qconfig_mapping(backend), (_DATA,))
    for _ in range(4):
        module(torch.randn(4, 3, 8, 8))
    return module.eval().apply(ao.disable_observer)


def _with_learned_scales() -> nn.Module:
    torch.manual_seed(0)
    learned = _LearnableFakeQuantize.with_args
    activation = learned(observer=ao.MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    weight = learned(
        observer=ao.MovingAverageMinMaxObserver,
        quant_min=-127,
        quant_max=127,
        dtype=torch.qint8,
        qscheme=torch.per_tensor_symmetric,
    )
    module = ao.QuantWrapper(Trained().train())
    module.qconfig = ao.QConfig(activation=activation, weight=weight)
    module = ao.prepare_qat(module)
    for _ in range(3):
        module(torch.randn(4, 3, 8, 8))
    for part in module.modules():
        if isinstance(part, _LearnableFakeQuantize):
            part.toggle_observer_update(False)
            part.zero_point.data += 0.4  # training leaves real numbers
    return module.eval()


def _other_forms(source: str) -> nn.Module:
    """What torch.ao makes of a prepared module, or of other fake quantizations, that has numbers of its own."""
    if source == "learned":
        return _with_learned_scales()
    if source == "converted":
        return ao.convert(_trained_module("x86"))
    prepared = _of_graph_mode("x86")
    return {"graph mode": lambda m: m, "converted graph": fx.convert_fx, "reference": fx.convert_to_reference_fx}[
        source
    ](prepared)


_FORMS = ("converted", "graph mode", "converted graph", "reference", "learned")
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


_Made = tuple[tuple[StatedRounding, ...], list[ir.Model], Mapping[str, np.ndarray]]


def _made(source: str, folder: Path) -> _Made:
    if source == "one scale":
        return _of_stored()
    if source.startswith("program"):
        return _of_program(is_fresh=source == "program as converted")
    if source == "file":
        return _of_file(_FILE, folder)
    return _of_module(_other_forms(source) if source in _FORMS else _trained_module(source))


class Stored(nn.Module):
    """What a program of torchao computes whose weights have one scale."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        for name, shape in (("first", (4, 3, 3, 3)), ("second", (2, 4, 1, 1))):
            data = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
            self.register_buffer(name, data)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.ops.quantized_decomposed
        for name, scale in (("first", 0.01), ("second", 0.02)):
            integers = steps.quantize_per_tensor(x, scale * 2, 3, -128, 127, torch.int8)
            x = steps.dequantize_per_tensor(integers, scale * 2, 3, -128, 127, torch.int8)
            weight = steps.dequantize_per_tensor(getattr(self, name), scale, 0, -127, 127, torch.int8)
            x = nn.functional.conv2d(x, weight)
        integers = steps.quantize_per_tensor(x, 0.3, 0, -128, 127, torch.int8)
        result: Tensor = steps.dequantize_per_tensor(integers, 0.3, 0, -128, 127, torch.int8)
        return result


def _of_stored() -> _Made:
    module, (x,), names = called(torch.export.export(Stored(), (_DATA,)), (), {})
    return _of(TorchSource(module, (x,), names), Sample("x", {names[0]: x.numpy()}))


def _of_program(*, is_fresh: bool) -> _Made:
    """A program of torchao for XNNPACK; torch.ao registers its operators.

    What convert_pt2e has just made has other names of nodes than what was saved and loaded: of the overload, too.
    """
    program = torch.export.load(Path(__file__).parents[1] / "capture" / "trained_programs" / "xnnpack_converted.pt2")
    module, (x,), names = called(program, (), {})
    for node in module.graph.nodes if is_fresh else ():
        if "quantize_per_" in str(node.target):
            node._rename(f"{node.target.__name__.replace('.', '_')}_{len(node.name)}")
    return _of(TorchSource(module, (x,), names), Sample("x", {names[0]: x.numpy()}))


def _of_file(text: str, folder: Path) -> _Made:
    onnx.save(onnx.parser.parse_model(text), folder / "m.onnx")
    source = OnnxSource(open_onnx(folder / "m.onnx"), {"x": (1, 3, 6, 6)})
    return _of(source, source.noise())


def _of_module(module: nn.Module) -> _Made:
    module, (x,), (name,) = called(module, (_DATA,), {})
    return _of(TorchSource(module, (x,), (name,)), Sample("x", {name: x.numpy()}))


def _of(source: Source, sample: Sample) -> _Made:
    """What a source states, and the graphs: captured, what that is rewritten to, what files are written from."""
    graph = source.graph()
    captured = graph.clone()
    stated = stated_of(source, sample, captured)
    rewritten = optimize(graph)
    (variant,) = variants_of(rewritten, ("int8",), Quantization(), Silent())
    return tuple(stated), [captured, rewritten.clone(), variant.model.clone()], sample.inputs


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
    _drop(model, _pair(model)[0])


def _drop(model: ir.Model, node: ir.Node) -> None:
    readers = [use.node for use in node.outputs[0].uses()]
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


@pytest.mark.parametrize("source", ["x86", "qnnpack", "file", "program", "program as converted", "one scale", *_FORMS])
def test_what_a_source_states_of_its_roundings_is_in_its_graphs(source: str, tmp_path: Path) -> None:
    stated, graphs, inputs = _made(source, tmp_path)
    assert stated
    assert keeping(stated, *graphs, inputs) is None
    for at, (name, plant) in [(at, item) for at in (0, 2) for item in FAULTS.items()]:
        planted = [graph.clone() for graph in graphs]
        if name == "permuted" and np.ptp(_constant(_weight(planted[at]), 1)) == 0:
            continue
        plant(planted[at])
        link = keeping(stated, *planted, inputs)
        assert link is not None, (at, name)
        assert link.verdict is Verdict.FAIL
        assert "source" in link.reason or "read back" in link.reason


def _clamp(model: ir.Model) -> ir.Node:
    """What cuts off in front of a rounding."""
    clamps = (node for node in model.graph if node.op_type == "Clip")
    return next(node for node in clamps if any(use.node.op_type == "QuantizeLinear" for use in node.outputs[0].uses()))


def _without_clamp(model: ir.Model) -> None:
    clamp = _clamp(model)
    clamp.outputs[0].replace_all_uses_with(clamp.inputs[0])


def _other_clamp(model: ir.Model) -> None:
    """Cuts off one integer later."""
    clamp = _clamp(model)
    rounding = next(use.node for use in clamp.outputs[0].uses() if use.node.op_type == "QuantizeLinear")
    at = len(clamp.inputs) - 1
    _put(clamp, at, _constant(clamp, at) + (1 if at == 2 else -1) * _constant(rounding, 1).reshape(()))


@pytest.mark.parametrize(
    ("source", "plant", "at"), diagonal(["x86", "graph mode"], [_without_clamp, _other_clamp], [0, 2])
)
def test_the_seven_bits_of_x86_are_held(
    source: str, plant: Callable[[ir.Model], None], at: int, tmp_path: Path
) -> None:
    stated, graphs, inputs = _made(source, tmp_path)
    assert any(item.limits == (0, 127) for item in stated)
    planted = [graph.clone() for graph in graphs]
    plant(planted[at])
    link = keeping(stated, *planted, inputs)
    assert link is not None
    assert "cut off at" in link.reason


@pytest.mark.parametrize("source", ["qnnpack", "converted", "program", "file"])
def test_the_biases_of_a_source_are_held(source: str, tmp_path: Path) -> None:
    stated, graphs, inputs = _made(source, tmp_path)
    layers = [node for node in graphs[2].graph if node.op_type in ("Conv", "Gemm") and len(node.inputs) > 2]
    assert layers
    for at in range(len(layers)):
        planted = graphs[2].clone()
        node = next(node for node in planted.graph if node.outputs[0].name == layers[at].outputs[0].name)
        bias = _constant(node, 2)
        bias.reshape(-1)[-1] = np.nextafter(bias.reshape(-1)[-1], np.float32(9))
        _put(node, 2, bias)
        link = keeping(stated, graphs[0], graphs[1], planted, inputs)
        assert link is not None
        assert "another bias" in link.reason


def test_roundings_whose_results_nothing_uses_are_not_asked_for() -> None:
    stated, graphs, inputs = _of_module(_trained_module("qnnpack", WithHead))
    assert not any("head.activation" in item.name for item in stated)
    assert any("second.activation" in item.name for item in stated)
    assert keeping(stated, *graphs, inputs) is None
    # One that a capture loses is missed all the same.
    captured = graphs[0].clone()
    node, readers = _pair(captured)
    for reader in readers:
        reader.outputs[0].replace_all_uses_with(node.inputs[0])
    captured.graph.remove([*readers, node], safe=True)
    module = _trained_module("qnnpack", WithHead)
    source, sample = TorchSource(module, (_DATA,), ("x",)), Sample("x", {"x": _DATA.numpy()})
    assert len(stated_of(source, sample, captured)) == len(stated)


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


_HEAD = _FILE.partition("xq = ")[0]
_TWICE = {
    "one value": """
        cq = QuantizeLinear(c, t, u)
        cd = DequantizeLinear(cq, t, u)
        eq = QuantizeLinear(c, t, u)
        ed = DequantizeLinear(eq, t, u)
    """,
    "equal values": """
        cq = QuantizeLinear(c, t, u)
        cd = DequantizeLinear(cq, t, u)
        e = Conv(xd, wd, b)
        eq = QuantizeLinear(e, t, u)
        ed = DequantizeLinear(eq, t, u)
    """,
    "one behind the other": """
        cq = QuantizeLinear(c, t, u)
        cd = DequantizeLinear(cq, t, u)
        eq = QuantizeLinear(cd, t, u)
        ed = DequantizeLinear(eq, t, u)
    """,
    "two values": """
        cq = QuantizeLinear(c, t, u)
        cd = DequantizeLinear(cq, t, u)
        e = Neg(c)
        eq = QuantizeLinear(e, t, u)
        ed = DequantizeLinear(eq, t, u)
    """,
}


def _twice(name: str) -> str:
    return f"""{_HEAD}
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear<axis = 0>(w, ws, wz)
        c = Conv(xd, wd, b)
        {_TWICE[name]}
        a = Add(cd, ed)
        aq = QuantizeLinear(a, s, z)
        y = DequantizeLinear(aq, s, z)
    }}"""


def _rounding(model: ir.Model, name: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == "QuantizeLinear" and node.outputs[0].name == name)


def _merge(model: ir.Model, name: str, into: str) -> None:
    """Lets the readers of one rounding read another's integers."""
    node, other = _rounding(model, name), _rounding(model, into)
    ir.convenience.replace_all_uses_with(node.outputs[0], other.outputs[0])
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    model.graph.remove(node, safe=True)
    if maker is not None and not any(value.uses() for value in maker.outputs):
        model.graph.remove(maker, safe=True)


@pytest.mark.parametrize("name", _TWICE)
def test_a_rounding_that_another_one_repeats_may_be_left_out_and_no_other(name: str, tmp_path: Path) -> None:
    stated, graphs, inputs = _of_file(_twice(name), tmp_path)
    captured = graphs[0]
    assert keeping(stated, *graphs, inputs) is None
    merged, dropped = captured.clone(), captured.clone()
    _merge(merged, "eq", "cq")
    link = keeping(stated, captured, captured, merged, inputs)
    assert (link is None) == (name != "two values"), link
    assert keeping(stated, merged, merged, merged, inputs) is not None  # a capture leaves none out
    _drop(dropped, _rounding(dropped, "eq"))
    link = keeping(stated, captured, captured, dropped, inputs)
    assert (link is None) == (name == "one behind the other"), link


def test_what_is_no_part_of_the_result_or_a_constant_is_not_asked_for(tmp_path: Path) -> None:
    text = f"""{_HEAD}
        xq = QuantizeLinear(x, s, z)
        xd = DequantizeLinear(xq, s, z)
        wd = DequantizeLinear<axis = 0>(w, ws, wz)
        c = Conv(xd, wd, b)
        r = Relu(c)
        rq = QuantizeLinear(r, t, u)
        rd = DequantizeLinear(rq, t, u)
        n = Neg(t)
        nq = QuantizeLinear(n, s, z)
        nd = DequantizeLinear(nq, s, z)
        a = Add(c, nd)
        aq = QuantizeLinear(a, t, u)
        y = DequantizeLinear(aq, t, u)
    }}"""
    stated, graphs, inputs = _of_file(text, tmp_path)
    assert {item.name for item in stated if item.integers is None} == {"xq", "aq"}
    assert keeping(stated, *graphs, inputs) is None


class Again(nn.Module):
    """One fake quantization that is called three times, the last time on what it has rounded, and two of one value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        one = ao.FakeQuantize.with_args(observer=ao.MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
        self.shared, self.left, self.right = one(), one(), one()

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(x)
        y = self.conv(x)
        return self.shared(self.left(y) + self.last(self.right(y))) + self.shared(x)


def test_each_call_of_a_fake_quantization_is_held(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Again().train()
    for _ in range(3):
        module(torch.randn(2, 3, 8, 8))
    stated, graphs, inputs = _of_module(module.eval().apply(ao.disable_observer))
    assert {item.name for item in stated} == {"shared", "shared@1", "shared@2", "left", "right"}
    assert keeping(stated, *graphs, inputs) is None
    for at in (0, 2):
        planted = [graph.clone() for graph in graphs]
        _drop(planted[at], _rounding(planted[at], "shared@1.quantizelinear"))
        link = keeping(stated, *planted, inputs)
        assert link is not None
        assert link.where == "shared@1"
