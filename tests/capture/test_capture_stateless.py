"""A file keeps no state: what a forward remembers is refused, and what it only writes down is not.

Members: a buffer assigned, written in place, through views and slices, by index; recurrent memory, moving averages, a
memory joined with cat, a ring, a counter in a condition; parameters; tensors in plain attributes, lists, dicts, tuples,
deques, objects; numbers in Python, with a threshold; statistics of BatchNorm; what is written before it is read, given
the value that it has, cached, or never read; inputs written in place. What is captured is on both paths. Random
operators: dropout in its forms (plain, alpha, feature, in place, inside attention), noise of each distribution, rrelu,
permutations; and those that draw nothing (p = 0, not training, not used).
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.errors import CaptureError
from edgeconv.reference import evaluate

Part = Callable[[Any], object]
Forward = Callable[[Any, Tensor], Tensor]


class Net(nn.Module):
    def __init__(self, parts: Part, function: Forward) -> None:
        super().__init__()
        parts(self)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def _buffer(*shape: int, name: str = "mem") -> Part:
    return lambda net: net.register_buffer(name, torch.zeros(shape))


def _counter(net: Any) -> None:
    net.register_buffer("n", torch.zeros((), dtype=torch.long))


def _attribute(value: Callable[[], Any], name: str = "kept") -> Part:
    return lambda net: setattr(net, name, value())


def _norm(net: Any) -> None:
    net.norm = nn.BatchNorm1d(3)


def _recurrent(net: Any, x: Tensor) -> Tensor:
    y = x + 0.9 * net.mem
    net.mem = y.detach()
    return y


def _averaged(net: Any, x: Tensor) -> Tensor:
    net.mem = 0.9 * net.mem + 0.1 * x
    return x - net.mem


def _joined(net: Any, x: Tensor) -> Tensor:
    joined = torch.cat([net.mem, x], 1)
    net.mem = joined[:, 3:]
    return joined[:, :3]


def _counted(net: Any, x: Tensor) -> Tensor:
    net.n += 1
    return torch.where(net.n > 5, x, -x)


def _counted_anew(net: Any, x: Tensor) -> Tensor:
    net.n = net.n + 1
    return torch.where(net.n > 5, x, -x)


def _corrected(net: Any, x: Tensor) -> Tensor:
    net.mem.lerp_(x, 0.1)
    net.n += 1
    return x - net.mem / (1 - 0.9**net.n)


def _part_summed(net: Any, x: Tensor) -> Tensor:
    net.mem.view(3)[0:2].add_(x[0, :2])
    return x + net.mem[:, 0:1]


def _index_added(net: Any, x: Tensor) -> Tensor:
    net.mem.index_add_(0, torch.tensor([0]), x)
    return net.mem[:1] + x


def _scratch_summed(net: Any, x: Tensor) -> Tensor:
    net.mem[:, 1:-1] += x
    return net.mem[:, :3] * 2


def _rolled(net: Any, x: Tensor) -> Tensor:
    net.mem = (net.mem + torch.tensor([1.0, 2, 3])).roll(1, 1)
    return x + net.mem


def _parameter(net: Any, x: Tensor) -> Tensor:
    net.weight.add_(1)
    return x * net.weight


def _plain(net: Any, x: Tensor) -> Tensor:
    net.kept = x + 0.5 * net.kept
    return net.kept


def _plain_in_place(net: Any, x: Tensor) -> Tensor:
    net.kept.add_(x)
    return net.kept * 2


def _in_list(net: Any, x: Tensor) -> Tensor:
    net.kept[0] = x + net.kept[0]
    return net.kept[0]


def _appended(net: Any, x: Tensor) -> Tensor:
    net.kept.append(x)
    return torch.stack(list(net.kept)).sum(0)


def _in_dict(net: Any, x: Tensor) -> Tensor:
    net.kept["y"] = net.kept.get("y", torch.zeros(1, 3)) + x
    return net.kept["y"]


def _in_object(net: Any, x: Tensor) -> Tensor:
    net.kept.y = net.kept.y + x
    return net.kept.y


def _shifted(net: Any, x: Tensor) -> Tensor:
    net.kept = (net.kept[1], x)
    return net.kept[0] + net.kept[1]


def _delayed(net: Any, x: Tensor) -> Tensor:
    y = x if net.kept is None else net.kept
    net.kept = x
    return y


def _number(net: Any, x: Tensor) -> Tensor:
    net.kept += 1
    return x * net.kept


def _threshold(net: Any, x: Tensor) -> Tensor:
    net.kept += 1
    return x if net.kept < 1000 else -x


def _statistics_read(net: Any, x: Tensor) -> Tensor:
    batch = torch.cat([x, x * x, 2 * x + 1])
    F.batch_norm(batch, net.norm.running_mean, net.norm.running_var, training=True)
    return net.norm(x)


REMEMBERS: dict[str, tuple[Part, Forward, str]] = {
    "recurrent": (_buffer(1, 3), _recurrent, "the buffer mem"),
    "moving average": (_buffer(1, 3), _averaged, "the buffer mem"),
    "joined by cat": (_buffer(1, 3), _joined, "the buffer mem"),
    "counter in where": (_counter, _counted, "the buffer n"),
    "counter in where, assigned": (_counter, _counted_anew, "the buffer n"),
    "corrected average": (lambda net: (_counter(net), _buffer(1, 3)(net)), _corrected, "the buffer"),
    "part of a view": (_buffer(1, 3), _part_summed, "the buffer mem"),
    "added by index": (_buffer(2, 3), _index_added, "the buffer mem"),
    "part of a scratch": (_buffer(1, 5), _scratch_summed, "the buffer mem"),
    "constant steps": (_buffer(1, 3), _rolled, "the buffer mem"),
    "parameter": (
        lambda net: setattr(net, "weight", nn.Parameter(torch.ones(3), requires_grad=False)), _parameter,
        "the parameter weight",
    ),
    "attribute": (_attribute(lambda: torch.zeros(1, 3)), _plain, "the attribute kept"),
    "attribute in place": (_attribute(lambda: torch.zeros(1, 3)), _plain_in_place, "the tensor kept"),
    "list": (_attribute(lambda: [torch.zeros(1, 3)]), _in_list, r"the attribute kept\[0\]"),
    "list in place": (
        _attribute(lambda: [torch.zeros(1, 3)]), lambda net, x: net.kept[0].add_(x) * 2, "a tensor that it holds"
    ),
    "grown list": (_attribute(list), _appended, r"the attribute kept\[0\]"),
    "deque": (_attribute(lambda: deque(maxlen=2)), _appended, r"the attribute kept\[0\]"),
    "dict": (_attribute(dict), _in_dict, "the attribute kept.y"),
    "object": (_attribute(lambda: SimpleNamespace(y=torch.zeros(1, 3))), _in_object, "the attribute kept.y"),
    "tuple": (_attribute(lambda: (torch.zeros(1, 3),) * 2), _shifted, "the attribute kept"),
    "delay": (_attribute(lambda: None), _delayed, "the attribute kept"),
    "number": (_attribute(lambda: 0), _number, "the attribute kept"),
    "number with a threshold": (_attribute(lambda: 0), _threshold, "the attribute kept"),
    "statistics": (_norm, _statistics_read, "the buffer norm.running_"),
}  # fmt: skip


@pytest.mark.parametrize("name", REMEMBERS)
def test_what_depends_on_earlier_calls_is_refused(name: str) -> None:
    parts, function, culprit = REMEMBERS[name]
    with pytest.raises(CaptureError, match=f"Net: forward (changes|writes to) {culprit}.* keeps no state; take the"):
        capture(Net(parts, function), (torch.randn(1, 3),), input_names=["x"], output_names=["y"])


def _written_first(net: Any, x: Tensor) -> Tensor:
    net.mem.copy_(x)
    return net.mem * 2


def _assigned_first(net: Any, x: Tensor) -> Tensor:
    net.mem = x
    return net.mem * 2


def _part_written(net: Any, x: Tensor) -> Tensor:
    net.mem[:, 0] = x[:, 0]
    return net.mem + x


def _scratch(net: Any, x: Tensor) -> Tensor:
    net.mem[:, 1:-1, 1:-1] = x.view(1, 3, 1).expand(1, 3, 3)
    return net.mem.sum(1)[:, 1:-1]


def _same_value(net: Any, x: Tensor) -> Tensor:
    net.mem = net.mem.to(torch.float64).to(x.dtype)
    net.mem.clamp_(0, 1)
    return x + net.mem


def _grid(net: Any, x: Tensor) -> Tensor:
    if net.mem.shape != x.shape:
        net.mem = torch.arange(3.0).view(1, 3)
    return x + net.mem


def _only_kept(net: Any, x: Tensor) -> Tensor:
    net.n += 1
    net.kept.append(x * 2)
    net.last = x
    return x * 3


def _cached(net: Any, x: Tensor) -> Tensor:
    if "table" not in net.kept:
        net.kept["table"] = torch.arange(3.0)
    return x * net.kept["table"]


def _batch_statistics(net: Any, x: Tensor) -> Tensor:
    batch = torch.cat([x, x * x, 2 * x + 1])
    norm = net.norm
    return F.batch_norm(batch, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=True)


def _trained_norm(net: Any, x: Tensor) -> Tensor:
    net.norm.train()
    return net.norm(torch.cat([x, x * x, 2 * x + 1]))


def _instance_statistics(net: Any, x: Tensor) -> Tensor:
    return F.instance_norm(x.view(1, 3, 1) * torch.arange(4.0), net.norm.running_mean, net.norm.running_var)


def _under_autocast(net: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        net.n += 1
        return x * 2


WRITES: dict[str, tuple[Part, Forward]] = {
    "counted under autocast": (_counter, _under_autocast),
    "only counted": (_counter, lambda net, x: (net.n.add_(1), x * 2)[1]),
    "written before it is read": (_buffer(1, 3), _written_first),
    "assigned before it is read": (_buffer(1, 3), _assigned_first),
    "a part written": (_buffer(1, 3), _part_written),
    "scratch with a border": (_buffer(1, 5, 5), _scratch),
    "given its own value": (_buffer(1, 3), _same_value),
    "filled with a constant": (_buffer(1, 3), lambda net, x: net.mem.fill_(3) * x),
    "grid in a buffer of another shape": (_buffer(1), _grid),
    "grid in an attribute": (_attribute(lambda: torch.zeros(1), "mem"), _grid),
    "never read": (lambda net: (_attribute(list)(net), _attribute(lambda: 0, "n")(net)), _only_kept),
    "cached": (_attribute(dict), _cached),
    "cached shape": (_attribute(lambda: None), lambda net, x: (setattr(net, "kept", x.shape), x * net.kept[1])[1]),
    "statistics of the batch": (_norm, _batch_statistics),
    "a norm in training mode": (_norm, _trained_norm),
    "statistics of the instance": (_norm, _instance_statistics),
    "input in place": (lambda net: None, lambda net, x: x.add_(1) * 2),
    "view of the input in place": (lambda net: None, lambda net, x: (x[:, 1:].mul_(2), x + 1)[1]),
}


# The official exporter takes three times as long, and what is written is told before either of them traces.
_OFFICIAL = [
    pytest.param(name, "official", marks=pytest.mark.slow if index % 3 else []) for index, name in enumerate(WRITES)
]


@pytest.mark.parametrize(("name", "path"), [*((name, "auto") for name in WRITES), *_OFFICIAL])
def test_what_every_call_computes_alike_is_captured(name: str, path: Literal["auto", "official"]) -> None:
    net = Net(*WRITES[name]).eval()
    before = copy.deepcopy(vars(net))
    model = capture(net, (torch.randn(1, 3),), input_names=["x"], output_names=["y"], path=path)
    assert {key: str(value) for key, value in vars(net).items()} == {key: str(value) for key, value in before.items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = torch.randn(1, 3, generator=generator)
        with torch.no_grad():
            expected = net(x.clone()).numpy()
        np.testing.assert_allclose(evaluate(model, {"x": x.numpy()})["y"], expected, rtol=1e-4, atol=1e-4)


def test_lists_and_objects_of_the_module_are_the_same_ones_afterwards() -> None:
    net = Net(_attribute(list), _appended)
    history = net.kept
    with pytest.raises(CaptureError):
        capture(net, (torch.randn(1, 3),), input_names=["x"], output_names=["y"])
    assert net.kept is history
    assert history == []


RANDOM: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "dropout": (lambda x: F.dropout(x, 0.5, True), "dropout"),
    "dropout in place": (lambda x: F.dropout(x + 0, 0.5, True, inplace=True), "dropout"),
    "alpha dropout": (lambda x: F.alpha_dropout(x, 0.5, True), "alpha_dropout"),
    "feature dropout": (lambda x: F.dropout2d(x[None], 0.5, True), "feature_dropout"),
    "feature alpha dropout": (lambda x: F.feature_alpha_dropout(x, 0.5, True), "feature_alpha_dropout"),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1), "scaled_dot_product_attention"),
    "rrelu": (lambda x: F.rrelu(x, training=True), "rrelu"),
    "noise": (lambda x: x + torch.randn(4), "randn"),
    "noise in place": (lambda x: x + torch.empty(1, 3, 4).uniform_(), "uniform"),
    "bernoulli": (lambda x: x * torch.bernoulli(torch.full((1, 3, 4), 0.5)), "bernoulli"),
    "bernoulli in place": (lambda x: x.mul(torch.empty_like(x).bernoulli_(0.5)), "bernoulli"),
    "permutation": (lambda x: x[..., torch.randperm(4)], "randperm"),
    "integers": (lambda x: x + torch.randint(0, 3, (1,)), "randint"),
    "gumbel": (F.gumbel_softmax, "exponential"),
    "pool": (lambda x: F.fractional_max_pool2d(x, 1, output_size=(2, 3)), "rand"),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_operators_are_refused_by_name(name: str) -> None:
    function, operator = RANDOM[name]
    net = nn.Sequential(nn.ReLU(), Net(lambda net: None, lambda net, x: function(x)))
    with pytest.raises(CaptureError, match=f"^1: {operator} draws random numbers in eval mode"):
        capture(net, (torch.randn(1, 3, 4),), input_names=["x"], output_names=["y"])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.dropout(x, 0.0, True),
        lambda x: F.dropout(x, 0.5, False),
        F.rrelu,
        lambda x: x * torch.rand(3, 1).shape[0],
        lambda x: F.scaled_dot_product_attention(x, x, x),
    ],
)
def test_what_could_draw_and_does_not_is_captured(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(1, 3, 4)
    net = Net(lambda net: None, lambda net, x: function(x)).eval()
    model = capture(net, (x,), input_names=["x"], output_names=["y"])
    np.testing.assert_allclose(evaluate(model, {"x": x.numpy()})["y"], net(x).numpy(), rtol=1e-5, atol=1e-6)
