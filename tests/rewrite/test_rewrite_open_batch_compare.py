"""Whatever is made from the batch size or chosen by it is refused, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from edgeconv.capture import capture
from edgeconv.errors import RewriteError
from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize
from edgeconv.rewrite.open_batch import free_batch

SIZES = (11, 2)


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def captured(module: nn.Module, *shape: int) -> tuple[ir.Model, ir.Model]:
    one, other = (capture(module, (torch.randn(n, *shape),), input_names=["x"], output_names=[]) for n in SIZES)
    return one, other


def compared(module: nn.Module, *shape: int) -> ir.Model:
    model, other = captured(module, *shape)
    return free_batch(model, inputs=["x"], beside=other)


REFUSED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "a divisor": (
        lambda x: x.mean((2, 3)) / x.shape[0],
        "Div takes a constant.*11 with a batch of 11, 2 with one of 2",
    ),
    "a sum of ones": (
        lambda x: x.mean((2, 3)) @ torch.ones(4, x.shape[0]).sum(1, keepdim=True),
        "MatMul takes a constant that is made from the batch size",
    ),
    "a bound that no noise meets": (lambda x: x.clamp(max=100.0 * x.shape[0]), "1100 with a batch of 11, 200 with"),
    "repeated rows of another value": (lambda x: x + torch.ones(x.shape[0], 1, 1, 1) / x.shape[0], "Add takes"),
    "an attribute": (lambda x: F.leaky_relu(x, 1 / x.shape[0]), "LeakyRelu has other sizes, attributes or inputs"),
    "a branch": (lambda x: x.relu() if x.shape[0] > 4 else x.sigmoid(), "Relu with a batch of 11 is Sigmoid with one"),
    "one more operator": (lambda x: x.relu().sin() if x.shape[0] % 2 else x.relu(), "Sin with .* is nothing with"),
    "another input": (
        lambda x: x.sin() + (x.sin() if x.shape[0] > 4 else x),
        "with a batch of 11",
    ),
    "a constant output": (lambda x: (x, torch.ones(3) * x.shape[0]), "takes a constant that is made from the batch"),
    "an axis as long as the batch": (
        lambda x: x.flatten(1)[:, :44].reshape(22, 2 * x.shape[0]).reshape(-1, 44),
        "Reshape has other sizes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_the_batch_size_is_refused(name: str) -> None:
    function, message = REFUSED[name]
    with pytest.raises(RewriteError, match=message) as caught:
        compared(Function(function), 4, 3, 5)
    assert "the batch cannot be left open" in caught.value.what
    assert "dynamic_batch" in caught.value.hint


def test_a_refusal_names_the_torch_module() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), Function(lambda x: x * x.shape[0])))
    with pytest.raises(RewriteError) as caught:
        compared(module, 3, 4, 4)
    assert caught.value.where == "1.1"


def _with_changed_weight(change: float) -> ir.Model:
    """Two captures of a layer, in one of which a weight was changed."""
    one, other = captured(nn.Linear(5, 3), 5)
    weight = next(value for value in other.graph.initializers.values() if len(value.shape) == 2)
    array = weight.const_value.numpy().copy()
    array[1, 2] *= np.float32(1 + change)
    assert (array != weight.const_value.numpy()).sum() == 1
    weight.const_value = ir.tensor(array)
    return free_batch(one, inputs=["x"], beside=other)


def test_the_last_bit_of_a_constant_is_rounding_and_a_millionth_is_not() -> None:
    """torch computes 22 sines in vectors of several and 4 one by one, which may differ in the last bit."""
    _with_changed_weight(2.0**-23)
    with pytest.raises(RewriteError, match="takes a constant that is made from the batch size"):
        _with_changed_weight(1e-6)


def _branches(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_full((x.shape[0], 1, *x.shape[2:]), 0.5)], 1)


def _tokens(x: Tensor) -> Tensor:
    y = x.flatten(2).transpose(1, 2)
    y = (y @ y.transpose(1, 2) / y.shape[-1] ** 0.5).softmax(-1) @ y
    return y.transpose(1, 2).reshape(x.shape)


def _layers(channels: int) -> dict[str, tuple[nn.Module, int]]:
    """Layers of so many channels, and how many come out."""
    return {
        "convolution": (nn.Conv2d(channels, 4, 3, padding=1), 4),
        "norm": (nn.BatchNorm2d(channels), channels),
        "group norm": (nn.GroupNorm(1, channels), channels),
        "layer norm": (nn.LayerNorm([channels, 4, 4]), channels),
        "dropout": (nn.Dropout(0.5), channels),
        "activation": (nn.Hardswish(), channels),
        "pool": (nn.AvgPool2d(3, 1, 1), channels),
        "resize": (Function(lambda x: F.interpolate(F.interpolate(x, size=(7, 7)), size=(4, 4))), channels),
        "shuffle": (nn.ChannelShuffle(channels), channels),
        "plane": (Function(_branches), channels + 1),
        "attention": (Function(_tokens), channels),
        "excitation": (Function(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()), channels),
        "merge": (Function(lambda x: (x.flatten(0, 1).cumsum(1) / x.shape[1]).view(x.shape)), channels),
    }


LAYERS = sorted(_layers(1))


def _network(names: list[str], culprit: int | None) -> nn.Sequential:
    torch.manual_seed(0)
    channels, layers = 2, []
    for index, name in enumerate(names):
        layer, channels = _layers(channels)[name]
        layers.append(layer)
        if index == culprit:
            layers.append(Function(lambda x: x + 1e-3 * x.shape[0]))
    return nn.Sequential(*layers).eval()


@settings(deadline=None, max_examples=10)
@given(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=5), st.data())
def test_networks_pass_and_one_with_a_batch_size_in_it_does_not(names: list[str], data: st.DataObject) -> None:
    """As captured and as optimized; what passes gives torch's values at other sizes, 1 among them."""
    network = _network(names, None)
    one, other = captured(network, 2, 4, 4)
    model = free_batch(one.clone(), inputs=["x"], beside=other.clone())
    free_batch(optimize(one), inputs=["x"], beside=optimize(other))
    network.double()
    for batch in (1, 3):
        x = torch.randn(batch, 2, 4, 4, dtype=torch.float64)
        with torch.no_grad():
            wanted = network(x).numpy()
        np.testing.assert_allclose(evaluate(model, {"x": x.numpy()})["output"], wanted, rtol=1e-7, atol=1e-7)
    culprit = data.draw(st.integers(0, len(names) - 1))
    with pytest.raises(RewriteError, match="made from the batch size"):
        compared(_network(names, culprit), 2, 4, 4)
