"""The fast path against the official one, which is its oracle, and against torch."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from test_capture_operations import FAMILIES, Function, Side
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.capture import NOTE, capture
from edgeconv.capture.torch._aten import TABLE
from edgeconv.capture.torch._fast import _MEANINGLESS
from edgeconv.errors import CaptureError
from edgeconv.reference import evaluate


def _captured(module: nn.Module, x: Tensor, path: Any = "auto", opset: int = 18) -> ir.Model:
    return capture(module, (x,), input_names=["input"], output_names=(), opset=opset, path=path)


def _statistics(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)


def _module_values(model: ir.Model, module: nn.Module) -> list[str]:
    """The names, in order, of the values that are outputs of modules."""
    paths = {path for path, _ in module.named_modules()}
    values = [value for node in model.graph for value in node.outputs]
    names = [value.metadata_props.get("edgeconv.module", value.name or "") for value in values]
    return [name for name in names if re.sub(r"@\d+$", "", name) in paths]


def assert_same(fast: ir.Model, official: ir.Model, module: nn.Module, x: Tensor, rtol: float = 1e-10) -> None:
    """Both graphs give the same float64 outputs, and name the same module outputs."""
    assert fast.metadata_props[NOTE] == "fast"
    assert official.metadata_props[NOTE].startswith("official")
    wide = x.double().numpy()
    got, expected = evaluate(fast, {"input": wide}), evaluate(official, {"input": wide})
    for value in official.graph.outputs:
        name = value.name or ""
        bound = rtol * max(float(np.abs(expected[name]).max()), 1e-30)
        np.testing.assert_allclose(got[name], expected[name], rtol=rtol, atol=bound, err_msg=name)
    assert _module_values(fast, module) == _module_values(official, module)


# The fast path multiplies by the scale once, the official one by its rounded square root twice.
LOOSER = {"arithmetic": 1e-6, "attention": 1e-6}


@pytest.mark.parametrize("family", FAMILIES)
def test_both_paths_give_the_same_outputs(family: str) -> None:
    torch.manual_seed(0)
    module, x = Side({name: make() for name, make in FAMILIES[family].items()}).eval(), torch.randn(2, 8, 7, 9)
    _statistics(module)
    fast, official = _captured(module, x), _captured(module, x, "official")
    assert_same(fast, official, module, x, LOOSER.get(family, 1e-10))


def _window(x: Tensor, causal: bool = False, mask: Tensor | None = None, **options: Any) -> Tensor:
    return functional.scaled_dot_product_attention(x, x * 0.5, x + 1, attn_mask=mask, is_causal=causal, **options)


def _masked(x: Tensor) -> Tensor:
    y = x.clone()
    y[y > 0] = 0
    return y


FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "attention of rank 3": lambda x: _window(x.flatten(2)),
    "attention, causal": lambda x: _window(x, causal=True, scale=0.3),
    "attention, mask": lambda x: _window(x, mask=torch.linspace(-1, 1, 49, dtype=x.dtype).view(7, 7)),
    "attention, boolean mask": lambda x: _window(x, mask=torch.ones(7, 7).tril() > 0),
    "index of channels": lambda x: x[:, [3, 1, 2]],
    "index of pixels": lambda x: x[:, :, [[0], [6]], [[8, 1, 2]]],
    "index select": lambda x: x.index_select(2, torch.tensor([6, 0, 0])),
    "gather": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "masked fill": lambda x: x.masked_fill(x > 0.5, -1.0),
    "assignment to a mask": _masked,
    "roll": lambda x: torch.roll(x, (1, -2), (2, 3)) + x.roll(5),
    "flip": lambda x: x.flip(1, 3),
    "repeat": lambda x: x.repeat(2, 1, 1, 2, 1),
    "movedim": lambda x: x.movedim(1, -1).swapaxes(0, 1),
    "select and negative slices": lambda x: x[:, -1, 1:-1] * x[-1, 0, -6:-1],
    "einsum": lambda x: torch.einsum("nchw,ncdw->nhd", x, x),
    "einsum of three": lambda x: torch.einsum("nchw,ncdw,nw->hnd", x, x, x[:, 0, 0]),
    "einsum of diagonals": lambda x: torch.einsum("nnhw,hhc->nc", x[:, :2], x[0, 0, :, :7, None]),
    "einsum of three equal axes": lambda x: torch.einsum("iii,...ii->...i", x[:2, :2, :2, 0], x[..., :2, :2]),
    "einsum that broadcasts": lambda x: torch.einsum("...hw,nchw->...nc", x[:1, 0, 0], x[:, :, :1]),
    "matrix products": lambda x: torch.baddbmm(x[:, 0, :, :7], x[:, 0], x[:, 1].mT, beta=0.5, alpha=2),
    "vector": lambda x: x @ x[0, 0, 0],
    "variance": lambda x: x.var((2, 3), unbiased=False, keepdim=True) + x.std(1, keepdim=True),
    "max and min": lambda x: x.max(1, keepdim=True)[0] + x.min(1, keepdim=True).values + x.max(),
    "maxima and places": lambda x: [*x.max(2), x.argmin(), x.topk(3, 1)[1]],
    "any": lambda x: (x > 2).any(1).float() + (x > -2).all(dim=1, keepdim=True).float(),
    "mean of all": lambda x: x.mean() * x.sum() + x.norm() + x.norm(1, dim=2).sum(),
    "floor division": lambda x: x // 0.7 + x % 0.7 + torch.remainder(x, -0.3),
    "alpha": lambda x: torch.add(x, x, alpha=2) + torch.sub(x, 3, alpha=0.5) + torch.rsub(x, x, alpha=3),
    "promotion": lambda x: (x > 0).to(x.dtype) * (x > 0) + torch.arange(9) * x + (x * 10).int() + 1,
    "integers": lambda x: (x * 9).to(torch.int64) % 4 * 3 - (x * 20).int() // 3 - (x * 20).int() // -7,
    "truncation": lambda x: torch.div(x, 0.3, rounding_mode="trunc") + x.fmod(0.4) + (x * 9).trunc() + x.tril(1),
    "powers": lambda x: x.abs() ** 0.5 + 2**x + x.abs().rsqrt() + x.square() + x.abs().log1p(),
    "lerp": lambda x: torch.lerp(x, x.exp(), 0.3) + torch.addcmul(x, x, x, value=0.5),
    "logarithms": lambda x: (x.abs() + 1).log2() + x.logsumexp((1, 2), keepdim=True) + functional.logsigmoid(x),
    "cumsum": lambda x: x.cumsum(2),
    "comparison": lambda x: torch.where((x > 0) & ~(x != x.round()) | (x <= -1), x, 0.25),
    "gates": lambda x: functional.glu(x, 1).repeat(1, 2, 1, 1) + functional.softsign(x) + functional.hardshrink(x),
    "units": lambda x: functional.elu(x, 0.5) + functional.softplus(x, 2.0) + functional.selu(x) + functional.celu(x),
    "adaptive average, uneven": lambda x: functional.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive average of rank 3": lambda x: functional.adaptive_avg_pool1d(x.flatten(2), 10),
    "pools of rank 3": lambda x: functional.max_pool1d(functional.avg_pool1d(x.flatten(2), 4), 3, 2, 1),
    "replication": lambda x: functional.pad(functional.pad(x, (1, 2, 0, 1), "replicate"), (0, 0, -1, 2), value=0.5),
    "cubic": lambda x: functional.interpolate(x, scale_factor=2, mode="bicubic", align_corners=True),
    "scales that are no integers": lambda x: functional.interpolate(x, scale_factor=1.5),
    "nearest, exact": lambda x: functional.interpolate(x, size=(5, 13), mode="nearest-exact"),
    "normalizations": lambda x: functional.rms_norm(functional.group_norm(x, 4), (9,), eps=1e-3),
    "filled": lambda x: torch.cat([torch.zeros_like(x), x.new_full((2, 1, 7, 9), 3.0), torch.ones_like(x) * x], 1),
    "no-ops": lambda x: functional.dropout(x.contiguous().detach().to(x.dtype), 0.5, training=False).view_as(x) + 0,
}  # fmt: skip


@pytest.mark.parametrize("opset", [18, 22])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_computes_what_torch_computes(name: str, opset: int) -> None:
    torch.manual_seed(0)
    module, x = Function(FUNCTIONS[name]), torch.randn(2, 8, 7, 9)
    model = _captured(module, x, opset=opset)
    assert model.metadata_props[NOTE] == "fast"
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    values = evaluate(model, {"input": x.double().numpy()})
    expected = torch.utils._pytree.tree_leaves(module(x.double()))
    for output, tensor in zip(model.graph.outputs, expected, strict=True):
        np.testing.assert_allclose(values[output.name], tensor.numpy(), rtol=1e-6, atol=1e-6)


def _halves(x: Tensor) -> tuple[Tensor, ...]:
    y = x.clone()
    first, second = y.chunk(2, 1)
    first.add_(1)
    flat = y.view(2, -1)
    second.mul_(2)
    return torch.cat([first, second, y], 1), flat


def _views(x: Tensor) -> tuple[Tensor, ...]:
    y = x.relu()
    moved = y.permute(0, 2, 3, 1)
    moved.mul_(2)
    item = y[:, 1]
    item.zero_()
    y[:, :, 2:4].add_(3)
    return y, moved, item


def _flat(x: Tensor) -> tuple[Tensor, ...]:
    y = x + 1
    z = y
    z += x
    flat = y.flatten(1)
    flat.sub_(1)
    return z, flat, y.transpose(1, 2)


def _assigned(x: Tensor) -> Tensor:
    y = torch.zeros(2, 8, 7, 9)
    y[:, 2:5] = x[:, 2:5]
    y[:, :, 0, :] = 1.0
    return y


def _items(x: Tensor) -> Tensor:
    y = x + 0
    first, second, *_ = y.unbind(1)
    first.copy_(second)
    second += 5
    return y


def _position_table(x: Tensor) -> Tensor:
    table = torch.zeros(7, 9)
    table[:, 0::2] = torch.arange(7.0)[:, None].sin()
    table[:, 1::2] = torch.arange(7.0)[:, None].cos()
    return x + table


def _window_mask(x: Tensor) -> Tensor:
    mask = torch.zeros(7, 9)
    for number, rows in enumerate((slice(0, 3), slice(3, 7))):
        mask[rows] = number
    flat = mask.view(-1)
    apart = flat.unsqueeze(0) - flat.unsqueeze(1)
    return x.flatten(2) @ apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0)


@pytest.mark.parametrize("function", [_halves, _views, _flat, _assigned, _items, _position_table, _window_mask])
def test_writes_are_seen_through_every_view(function: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    module, x = Function(function), torch.randn(2, 8, 7, 9)
    model = _captured(module, x, "fast")
    values = evaluate(model, {"input": x.numpy()})
    expected = torch.utils._pytree.tree_leaves(module(x.clone()))
    for output, tensor in zip(model.graph.outputs, expected, strict=True):
        np.testing.assert_allclose(values[output.name], tensor.numpy(), rtol=1e-5, atol=1e-5)


def test_a_write_that_cannot_be_followed_goes_to_the_official_path() -> None:
    def moved(x: Tensor) -> Tensor:
        y = x.clone()
        y.movedim(1, -1).add_(x.movedim(1, -1))
        return y

    x = torch.randn(2, 8, 3, 3)
    model = _captured(Function(moved), x)
    assert model.metadata_props[NOTE].startswith("official: aten.add_.Tensor: a write through aten.movedim.int")
    np.testing.assert_allclose(evaluate(model, {"input": x.numpy()})["output"], moved(x).numpy(), rtol=1e-6, atol=1e-6)


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.atan2(x, x + 3))


def test_a_change_of_shape_in_place_goes_to_the_official_path() -> None:
    def turned(x: Tensor) -> Tensor:
        y = x + 1
        y.permute(1, 0, 2).transpose_(1, 2).mul_(2)
        return y

    x = torch.randn(3, 3, 3)
    model = _captured(Function(turned), x)
    assert model.metadata_props[NOTE].startswith("official: aten.transpose_.default: writes")
    np.testing.assert_allclose(evaluate(model, {"input": x.numpy()})["output"], turned(x).numpy(), rtol=1e-6, atol=1e-6)


def test_constants_that_are_written_to_leave_the_module_alone() -> None:
    class Written(nn.Module):
        table: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(8.0, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            copy = self.table.clone()
            view = copy[2:4]
            view.mul_(2)
            view += 1
            return x * copy + self.table

    module, x = Written(), torch.randn(2, 8, dtype=torch.float64)
    before = module.table.clone()
    model = _captured(module, x, "fast")
    assert torch.equal(module.table, before)
    assert [node.op_type for node in model.graph] == ["Mul", "Add"]
    np.testing.assert_allclose(evaluate(model, {"input": x.numpy()})["output"], module(x).numpy(), rtol=1e-12)


def test_what_the_table_does_not_know_is_said_and_goes_to_the_official_path() -> None:
    module, x = nn.Sequential(nn.Sequential(nn.ReLU(), Unknown())), torch.randn(2, 3)
    model = _captured(module, x)
    assert model.metadata_props[NOTE] == "official: aten.atan2.default (module 0.1): not in the table"
    got = evaluate(model, {"input": x.numpy()})["output"]
    np.testing.assert_allclose(got, module(x).numpy(), rtol=1e-5, atol=1e-5)
    with pytest.raises(CaptureError, match=r"aten.atan2.default \(module 0.1\): not in the table"):
        _captured(module, x, "fast")


# torchao registers its operators when it is imported, and is none of ours.
@pytest.mark.parametrize("name", [name for name in TABLE if not name.startswith("torchao.")])
def test_an_entry_takes_the_arguments_of_its_schema(name: str) -> None:
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers quantized_decomposed
    namespace, operator, overload = name.split(".")
    schema = getattr(getattr(getattr(torch.ops, namespace), operator), overload)._schema
    functional = getattr(getattr(torch.ops, namespace), operator.removesuffix("_"), None)
    assert not schema.is_mutable or functional is None, "in-place forms are found by their functional one"
    names = ["x" if argument.name in ("self", "input") else argument.name for argument in schema.arguments]
    inspect.signature(TABLE[name]).bind(None, **{argument: None for argument in names if argument not in _MEANINGLESS})
