"""Link 1, call by call: a call that is captured wrongly is found, whatever lies behind it; right ones never are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir import convenience
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.capture import capture, take_calls
from edgeconv.capture.torch import _fast
from edgeconv.capture.torch._builder import Builder, Result
from edgeconv.core import Sample
from edgeconv.core.verdicts import LinkResult, Verdict
from edgeconv.devices import ProgramRun
from edgeconv.flow import links
from edgeconv.flow.rewriting import Rewriting, rewritten
from edgeconv.flow.source import TorchSource
from edgeconv.parity import Golden
from edgeconv.parity.rewriting import _call_sides, capturing
from edgeconv.parity.rewriting._call_sides import CallSides
from edgeconv.progress import Silent

Change = Callable[[Builder, Callable[..., Result], dict[str, Any]], Result]


class Behind(nn.Module):
    """Layers with all that an entry may get wrong, behind which only a class and two comparisons are left."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, eps=1e-3), nn.LeakyReLU(0.2))
        self.clamp = nn.Hardtanh(-3.0, 70.0)
        self.norm = nn.LayerNorm(6)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.clamp(self.stem(x))
        y = functional.max_pool2d(y, 3, 2, padding=1)
        y = torch.div(y, 0.37, rounding_mode="floor") + self.act(functional.relu(y))
        y = self.norm(y.flatten(2).transpose(1, 2))
        return y.softmax(-1).argmax(-1), (y >= 0.5).any(1)


def network(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def args_of(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def judged(module: nn.Module, args: Sequence[Tensor], *, path: str = "auto") -> LinkResult | None:
    names = [f"input{at}" for at in range(len(args))]
    model = capture(module, tuple(args), input_names=names, output_names=[], path=path)  # type: ignore[arg-type]
    calls = take_calls(model)
    assert calls is not None
    inputs = {name: value.numpy() for name, value in zip(names, args, strict=True)}
    return capturing(model, ProgramRun(calls.program), calls.values, inputs)


def plant(monkeypatch: pytest.MonkeyPatch, operator: str, change: Change) -> None:
    entry = _fast.TABLE[operator]
    wrong = {**_fast.TABLE, operator: lambda b, **arguments: change(b, entry, arguments)}
    monkeypatch.setattr(_fast, "TABLE", wrong)


def stated(name: str, other: object) -> Change:
    return lambda b, entry, arguments: entry(b, **{**arguments, name: other})


def left_out(b: Builder, entry: Callable[..., Result], arguments: dict[str, Any]) -> Result:
    result: ir.Value = arguments["x"]
    return result


def as_greater(b: Builder, entry: Callable[..., Result], arguments: dict[str, Any]) -> Result:
    return b.add("Greater", arguments["x"], b.scalar(arguments["other"], arguments["x"].dtype), dtype=ir.DataType.BOOL)


FAULTS: dict[str, tuple[str, Change, str]] = {
    "eps-of-batch-norm": ("aten.batch_norm.default", stated("eps", 1.1e-3), "stem.1 is "),
    "slope": ("aten.leaky_relu.default", stated("negative_slope", 0.21), "stem.2 is "),
    "limit-that-no-sample-reaches": ("aten.hardtanh.default", stated("max_val", 60.0), "[-3, 70] instead of [-3, 60]"),
    "eps-of-layer-norm": ("aten.layer_norm.default", stated("eps", 1.05e-5), "the eps of LayerNormalization norm is"),
    "activation-left-out": ("aten.relu.default", left_out, "capture leaves it out"),
    "form-of-gelu": ("aten.gelu.default", stated("approximate", "tanh"), "act is "),
    "padding": ("aten.max_pool2d.default", stated("padding", [1, 0]), "max_pool2d is "),
    "rounding-mode": ("aten.div.Tensor_mode", stated("rounding_mode", "trunc"), "by aten.div.Tensor_mode"),
    "axis-of-softmax": ("aten.softmax.int", stated("dim", 1), "softmax is "),
    "greater-for-greater-or-equal": ("aten.ge.Scalar", as_greater, "by aten.ge.Scalar(0.5)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_call_that_is_captured_wrongly_is_named(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, (operator, change, told) = network(Behind), FAULTS[fault]
    args = args_of((1, 3, 12, 14))
    if fault == "padding":  # the shape has to be torch's
        args = args_of((1, 3, 12, 12))
        change = lambda b, entry, arguments: _cropped(b, entry(b, **arguments))  # noqa: E731
    assert judged(module, args) is None
    plant(monkeypatch, operator, change)
    link = judged(module, args, path="fast")
    assert link is not None
    assert link.verdict is Verdict.FAIL
    assert told in link.reason
    assert operator in link.reason
    assert "\n" not in link.reason


def _cropped(b: Builder, pooled: Result) -> ir.Value:
    """The first column twice, and the last one not at all."""
    assert isinstance(pooled, ir.Value)
    width = int(pooled.shape[3])  # type: ignore[index, arg-type]
    return b.concat([b.slice(pooled, 3, 0, 1), b.slice(pooled, 3, 0, width - 1)], 3)


class Spread(nn.Module):
    """Behind which only a class is left."""

    def forward(self, x: Tensor) -> Tensor:
        return x.std((2, 3)).argmax(1)


def _without_squares(b: Builder, entry: Callable[..., Result], arguments: dict[str, Any]) -> Result:
    result = entry(b, **arguments)
    square = next(node for node in b.graph if node.op_type == "Mul" and node.inputs[0] is node.inputs[1])
    convenience.replace_all_uses_with(square.outputs[0], square.inputs[0])
    return result


def test_no_response_excuses_a_nan_in_place_of_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    args = args_of((1, 4, 6, 7))
    assert judged(Spread(), args) is None
    plant(monkeypatch, "aten.std.correction", _without_squares)
    plant(monkeypatch, "aten.std.dim", _without_squares)
    link = judged(Spread(), args, path="fast")
    assert link is not None
    assert link.verdict is Verdict.FAIL


def test_the_link_of_an_export_breaks_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The outputs are classes: the sample, and the sample times 64, say nothing of an eps before them."""
    plant(monkeypatch, *FAULTS["eps-of-layer-norm"][:2])
    link = _link(network(Behind), args_of((1, 3, 12, 14)), batched=())
    assert link.verdict is Verdict.FAIL
    assert link.where == "norm"
    assert "without the rewrite" not in link.reason


def test_a_graph_whose_batch_is_open_is_judged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    args = args_of((3, 3, 12, 14))
    assert _link(network(Behind), args, batched=("x",)).verdict is Verdict.PASS
    plant(monkeypatch, *FAULTS["limit-that-no-sample-reaches"][:2])
    assert _link(network(Behind), args, batched=("x",)).where == "clamp"


def _link(module: nn.Module, args: tuple[Tensor, ...], batched: tuple[str, ...]) -> LinkResult:
    source = TorchSource(module, args, ("x",), batched=batched)
    model, rewriting, _ = rewritten(source, (), Silent(), is_proved=True)
    assert isinstance(rewriting, Rewriting)
    sample = Sample("noise", {"x": args[0].numpy()})
    run = source.run([sample], [value.name or "" for value in model.graph.outputs], "float64")
    return links._rewrites(rewriting, Golden((sample,), run))


def _written(x: Tensor) -> Tensor:
    y = functional.relu_(x * 2 - 1)
    y[:, 1] *= 3.0
    part = y[:, 2]
    part[part < 0.5] = -part[part < 0.5]
    y.add_(y.flatten(1).mean()).clamp_(-0.7, 2.5)
    return y.view(2, -1).abs_().view(2, 4, 6)


def _ranked(x: Tensor) -> tuple[Tensor, ...]:
    y = functional.relu(x)  # many equal numbers
    values, places = y.topk(3, -1)
    ordered, order = y.sort(1, descending=True)
    most, at = y.max(-1)
    return values, places, ordered, order, most, at, y.argmax()


def _looked_up(x: Tensor) -> Tensor:
    table = torch.arange(40.0).view(10, 4) * 0.1
    places = (x.abs() * 2).long().clamp(0, 9)
    return table[places].sum(-1) + functional.embedding(places, table)[..., 0] + torch.bucketize(x, table[:, 0])


def _split(x: Tensor) -> Tensor:
    a, b, c = x.split([1, 2, 1], 1)
    mean = x.std(1, keepdim=True)
    return torch.cat([c, a * b, functional.dropout(mean, 0.5, training=False)], 1).log_softmax(1)


def _random_numbers(x: Tensor) -> Tensor:
    return functional.softplus(x, 3.0) + functional.selu(x) + functional.logsigmoid(x) + torch.expm1(x) + x.cosh().log()


RIGHT: dict[str, Callable[..., Any]] = {
    "written-in-place": _written,
    "ranked-with-ties": _ranked,
    "looked-up": _looked_up,
    "split": _split,
    "functions-of-their-own": _random_numbers,
}


class Of(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.mark.parametrize("path", ["auto", "official"])
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_captured_rightly_is_never_called_wrong(name: str, path: str) -> None:
    if path == "official" and name == "written-in-place":
        path = "auto"  # torch's exporter has no form of it
    assert judged(Of(RIGHT[name]), args_of((2, 4, 6)), path=path) is None


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN], ids=["lstm", "gru", "rnn"])
def test_recurrent_layers_hold(make: Callable[..., nn.Module]) -> None:
    assert judged(network(lambda: make(5, 4, 2, bidirectional=True)), args_of((3, 2, 5))) is None


def _programs_run(function: Callable[..., Any], *args: Tensor) -> ProgramRun:
    return ProgramRun(torch.export.export(Of(function), args))


def test_an_array_in_the_place_of_a_written_result_is_seen_by_its_views() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x * 2
        part = y[:2]
        y.add_(1)
        return part * 10

    run = _programs_run(forward, torch.zeros(3))
    add = next(name for name, call in run.calls.items() if call.operator == "aten.add_.Tensor")
    last = list(run.calls)[-1]
    values = run.values({"x": np.zeros(3), add: np.array([5.0, 6.0, 7.0])}, [add, last])
    assert values[add].tolist() == [1, 1, 1]
    assert values[last].tolist() == [50, 60]
    assert not {name for name, call in run.calls.items() if call.operator == "aten.slice.Tensor"} & run.holdable


def test_a_call_that_torch_refuses_is_left_out_with_what_follows_from_it() -> None:
    def forward(x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        picked = x[places]
        return picked + 1, x - 1

    program = torch.export.export(_Two(forward), (torch.zeros(3), torch.zeros(2, dtype=torch.int64)))
    run = ProgramRun(program)
    x, places = run.inputs
    values = run.values({x: np.arange(3.0), places: np.array([0, 7])}, list(run.calls))
    assert [run.calls[name].operator for name in values] == ["aten.sub.Tensor"]


class _Two(Of):
    def forward(self, x: Tensor, places: Tensor) -> Any:  # type: ignore[override]
        return self.function(x, places)


def test_of_more_values_than_memory_holds_every_other_call_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    module, args = network(Behind), args_of((2, 3, 12, 12))
    model = capture(module, args, input_names=["input0"], output_names=[])
    calls = take_calls(model)
    assert calls is not None
    run, inputs = ProgramRun(calls.program), {"input0": args[0].numpy()}
    whole = CallSides(model, run, calls.values, inputs)
    most = sum(array.size for array in whole.results.values()) // 2
    monkeypatch.setattr(_call_sides, "_MOST_HELD", most)
    thinned = CallSides(model, run, calls.values, inputs)
    assert 0 < len(thinned.results) <= len(whole.results) // 2
    assert judged(module, args) is None
