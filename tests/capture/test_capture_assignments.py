"""In-place writes to tensors that are no state come out right in both formats, most of them on the fast path.

Members: slices with a step (of one and two axes, of a transposed tensor, of every other channel; interleaved rows, read
and written; a number, a tensor), lists and tensors of indices (repeated ones, negative, on one axis, on two next to
each other and apart), index_fill, index_copy, index_add; constant masks, masks that are computed; diagonals; unions of
them in one forward; integers and booleans; computed places with scatter and index_put; an open batch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import pytest
import torch
from right_in_both import assert_right_in_both
from torch import Tensor, nn

from edgeconv.capture import capture

Write = Callable[[Tensor, Tensor], object]


class Written(nn.Module):
    """What a write leaves of twice the input."""

    def __init__(self, write: Write) -> None:
        super().__init__()
        self.write = write

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        result = self.write(y, x)
        return result if isinstance(result, Tensor) else y


def _in_place(write: Write) -> Write:
    """Many of torch's writes return the view that they were asked through."""
    return lambda y, x: (write(y, x), None)[1]


def _assign(*places: object) -> Write:
    return lambda y, x: y.__setitem__(places, 0.5)


def _assign_tensor(target: object, source: object) -> Write:
    return lambda y, x: y.__setitem__(target, x[source])


def _interleaved(y: Tensor, x: Tensor) -> Tensor:
    whole = torch.zeros(2, 8, 6, 6)
    whole[:, 0::2] = x
    whole[:, 1::2] = y
    return whole


def _upsampled(y: Tensor, x: Tensor) -> Tensor:
    whole = torch.zeros(2, 4, 12, 12)
    whole[:, :, ::2, ::2] = x
    whole[..., 1::2, 1::2] = y
    return whole


def _rotated(y: Tensor, x: Tensor) -> None:
    """Rotary embedding as it is often written."""
    y[..., 0::2] = x[..., 0::2] - x[..., 1::2]
    y[..., 1::2] += x[..., 0::2]


def _flagged(y: Tensor, x: Tensor) -> Tensor:
    flags = x > 0
    flags[:, ::2] = False
    flags[:, [1]] |= y[:, [3]] > 0
    return flags


def _numbered(y: Tensor, x: Tensor) -> Tensor:
    numbers = x.argmax(1)
    numbers[:, ::3] = -1
    numbers[:, [1, 4]] = numbers[:, [5, 2]]
    return numbers


FAST: dict[str, Write] = {
    "step": _assign(..., slice(None, None, 2)),
    "step from behind": _assign(slice(None), slice(-3, None, 2)),
    "two steps": _assign(..., slice(1, None, 2), slice(None, None, 3)),
    "step, tensor": _assign_tensor((..., slice(None, None, 2)), (..., slice(1, None, 2))),
    "step of the transposed": _in_place(lambda y, x: y.permute(0, 2, 3, 1)[..., ::2].mul_(3)),
    "step of a view": _in_place(lambda y, x: y.view(2, 24, 6)[:, 1::5].zero_()),
    "interleaved": _interleaved,
    "upsampled": _upsampled,
    "rotated": _rotated,
    "list": _assign(slice(None), [0, 2]),
    "list, tensor": _assign_tensor((slice(None), [0, 2]), (slice(None), [3, 1])),
    "negative list": _assign_tensor((slice(None), slice(None), [-1, 0]), (slice(None), slice(None), [1, 2])),
    "repeated list": _assign_tensor((slice(None), [1, 1, 0]), (slice(None), [0, 2, 3])),
    "two lists": _assign_tensor((slice(None), slice(None), [0, 3], [1, 5]), (slice(None), slice(None), [1, 2], [0, 0])),
    "grid of lists": _assign(slice(None), slice(None), torch.tensor([[0], [2]]), torch.tensor([1, 3])),
    "index_fill": lambda y, x: y.index_fill_(1, torch.tensor([0, 3]), 7.0),
    "index_copy": lambda y, x: y.index_copy_(-1, torch.tensor([5, 0]), x[..., :2]),
    "constant mask": lambda y, x: y.__setitem__((slice(None), torch.tensor([True, False, True, False])), -1.0),
    "constant mask, tensor": lambda y, x: y.__setitem__(
        (slice(None), torch.tensor([True, False, True, False])), x[:, :2]
    ),
    "mask": lambda y, x: y.__setitem__(x > 0, -1.0),
    "diagonal": _in_place(lambda y, x: y.diagonal(dim1=-2, dim2=-1).fill_(1.0)),
    "diagonal of other axes": _in_place(lambda y, x: y.diagonal(1, 1, 3).copy_(x[:, 0, :, :4])),
    "diagonal read": lambda y, x: y.diagonal(-1, 2, 3) * 3,
    "fill_diagonal": _in_place(lambda y, x: y[0, 0].fill_diagonal_(9.0)),
    "booleans": _flagged,
    "integers": _numbered,
}

OTHER: dict[str, Write] = {
    "index_add": lambda y, x: y.index_add_(1, torch.tensor([0, 3]), x[:, :2]),
    "repeated index_add": lambda y, x: y.index_add_(1, torch.tensor([0, 3, 0]), x[:, :3]),
    "accumulated": lambda y, x: y.index_put_((torch.tensor([0, 1, 0]),), x[:1], accumulate=True),
    "lists apart": _assign(slice(None), [0, 2], slice(None), [1, 4]),
    "computed place": lambda y, x: y.index_put_((x[:, 0, 0, 0].argmax().view(1),), x[:1]),
    "computed places, added": lambda y, x: torch.zeros(8, 6).index_put_((x[0, 0].argmax(1),), x[0, 1], accumulate=True),
}


class All(nn.Module):
    """Several writes, each to a tensor of its own."""

    def __init__(self, writes: list[Write]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(map(Written, writes))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [part(x) for part in self.parts]


@pytest.mark.parametrize("writes", [list(FAST.values()), list(OTHER.values())], ids=["fast", "other"])
def test_writes_come_out_in_both_formats(writes: list[Write], tmp_path: Path) -> None:
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert_right_in_both(All(writes), (x,), tmp_path)


@pytest.mark.parametrize("name", FAST)
def test_a_write_to_constant_places_is_captured_without_scatters(name: str) -> None:
    model = capture(Written(FAST[name]), (torch.randn(2, 4, 6, 6),), input_names=["x"], output_names=["y"], path="fast")
    assert not {node.op_type for node in model.graph} & {"ScatterND", "ScatterElements"}


def test_writes_leave_the_batch_open(tmp_path: Path) -> None:
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    names = ("step", "list, tensor", "rotated", "index_fill", "diagonal")
    assert_right_in_both(All([FAST[name] for name in names]), (x,), tmp_path, dynamic_batch=True)


def test_one_number_needs_no_copy_of_what_is_there() -> None:
    model = capture(Written(FAST["step"]), (torch.randn(2, 4, 6, 6),), input_names=["x"], output_names=["y"])
    where = next(node for node in model.graph if node.op_type == "Where")
    assert where.inputs[0] is not None
    assert where.inputs[0].shape == ir.Shape([1, 1, 1, 6])
