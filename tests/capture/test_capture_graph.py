"""What a captured graph holds, and what it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.nn import DepthwiseSeparableConv


def _capture(module: nn.Module, *args: Tensor, outputs: tuple[str, ...] = ()) -> ir.Model:
    return capture(module, args, input_names=[f"in{i}" for i in range(len(args))], output_names=outputs)


def test_nothing_of_the_exporter_stays() -> None:
    model = _capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardswish(), nn.Flatten()), torch.randn(1, 3, 8, 8))
    data = ir.to_proto(model).SerializeToString()
    for trace in (b"pkg.torch", b"pytorch", b".py", b"aten", str(Path.cwd()).encode()):
        assert trace not in data
    for node in model.graph:
        assert set(node.metadata_props) == {"edgeconv.module"}
        assert node.op_type != "Constant"


def test_every_value_has_shape_and_dtype() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.GroupNorm(1, 2), nn.SiLU(), nn.Flatten(2))
    model = _capture(module, torch.randn(1, 3, 8, 8))
    for node in model.graph:
        for value in node.outputs:
            assert value.shape is not None
            assert value.shape.is_static()
            assert value.dtype is not None


def test_nothing_is_fused() -> None:
    model = _capture(DepthwiseSeparableConv(3, 6), torch.randn(1, 3, 8, 8))
    assert [node.op_type for node in model.graph] == ["Conv", "BatchNormalization", "LeakyRelu"] * 2


def test_a_convolution_without_bias_has_none() -> None:
    model = _capture(nn.Conv2d(3, 4, 3, bias=False), torch.randn(1, 3, 8, 8))
    assert len(model.graph[0].inputs) == 2


def test_weights_are_copies_under_their_own_names() -> None:
    module = DepthwiseSeparableConv(3, 6)
    model = _capture(module, torch.randn(1, 3, 8, 8))
    before = {name: value.clone().numpy() for name, value in module.state_dict().items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        np.testing.assert_array_equal(value.const_value.numpy(), before[name])
    assert set(before) - set(model.graph.initializers) == {
        f"{x}.1.num_batches_tracked" for x in ("depthwise", "pointwise")
    }


def test_tied_weights_compute_what_torch_does(evaluate) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    module, x = Tied(), torch.randn(1, 3, 4, 4)
    model = _capture(module, x)
    with torch.no_grad():
        np.testing.assert_allclose(evaluate(model, (x,))["output"], module(x).numpy(), rtol=1e-5, atol=1e-5)


def test_a_weight_that_is_computed_is_rounded_once() -> None:
    """Weight normalization is folded in float64: at most half a unit in the last place off."""

    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
            self.gain = nn.Parameter(torch.rand(4, 1, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            mean = self.weight.mean(dim=(1, 2, 3), keepdim=True)
            std = (self.weight - mean).pow(2).sum(dim=(1, 2, 3), keepdim=True).sqrt()
            return nn.functional.conv2d(x, self.gain * (self.weight - mean) / std)

    module = Normalized()
    model = _capture(module, torch.randn(1, 3, 8, 8))
    assert [node.op_type for node in model.graph] == ["Conv"]
    weight, gain = module.weight.double(), module.gain.double()
    centered = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
    exact = (gain * centered / centered.pow(2).sum(dim=(1, 2, 3), keepdim=True).sqrt()).detach().numpy()
    folded = model.graph[0].inputs[1].const_value.numpy()
    np.testing.assert_array_less(np.abs(folded - exact), np.spacing(np.abs(exact).astype(np.float32)) * 0.51)


@pytest.mark.parametrize("names", [("a", "b", "c"), ()])
def test_outputs_that_need_a_node_of_their_own(names: tuple[str, ...], evaluate) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor | None], Tensor]:
            y = x.relu()
            return x, [y, None], y

    x = torch.randn(2, 3)
    model = _capture(Odd(), x, outputs=names)
    assert tuple(value.name for value in model.graph.outputs) == (names or ("output", "output_1", "output_2"))
    got = evaluate(model, (x,))
    for name, expected in zip([v.name for v in model.graph.outputs], (x, x.relu(), x.relu()), strict=True):
        np.testing.assert_array_equal(got[name], expected.numpy())


class Pair(NamedTuple):
    low: Tensor
    high: Tensor


@pytest.mark.parametrize("path", ["fast", "official"])
@pytest.mark.parametrize(
    ("returned", "names"),
    [
        (lambda x: {"out": x * 2, "aux": [x + 1, None, x + 3]}, ("out", "aux_0", "aux_2")),
        (lambda x: Pair(x * 2, x + 1), ("low", "high")),
        (lambda x: {"in0": x * 2, "scale": x + 1, "tail": x}, ("output_in0", "output_scale", "output_tail")),
        (lambda x: {"a_0": x * 2, "a": [x + 1]}, ("output", "output_1")),
        (lambda x: (x * 2, {"b": x + 1}), ("output", "output_1")),
        (lambda x: {3: x * 2}, ("output",)),
    ],
)
def test_keys_of_outputs_are_their_names(
    returned: Callable[[Tensor], object], names: tuple[str, ...], path: Literal["fast", "official"]
) -> None:
    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.tail = nn.Identity()

        def forward(self, x: Tensor) -> object:
            return returned(x * self.scale)

    model = capture(Keyed(), (torch.randn(2, 3),), input_names=["in0"], output_names=(), path=path)
    assert tuple(value.name for value in model.graph.outputs) == names


def test_an_unused_input_stays() -> None:
    class Ignores(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x * 2

    model = _capture(Ignores(), torch.randn(2), torch.randn(3, dtype=torch.float64))
    assert [(value.name, value.dtype) for value in model.graph.inputs] == [
        ("in0", ir.DataType.FLOAT), ("in1", ir.DataType.FLOAT),
    ]  # fmt: skip
