"""What cannot be exported is refused in one line that says what, where and how to fix it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 the name that everybody uses
from torch import Tensor, nn
from torch_idioms import Function

import edgeconv

IMAGE = (1, 8, 6, 7)


def _dynamic_volume(x: Tensor) -> Tensor:
    return F.conv3d(x[:, None], x.reshape(-1)[:27].view(1, 1, 3, 3, 3))


# name: the module, the shape of its input, the error, and what its line holds
REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], type[edgeconv.EdgeconvError], str]] = {
    "rnn-of-too-many-steps": (
        lambda: nn.RNN(8, 4, batch_first=True), (1, 257, 8), edgeconv.EmitError, "257 steps, and at most 256 are wri",
    ),
    "dynamic-volume": (
        lambda: Function(_dynamic_volume), IMAGE, edgeconv.EmitError,
        "its weight is not a constant, and it convolves over 3 axes",
    ),
    "inverse": (
        lambda: Function(lambda x: torch.linalg.inv(x[..., :6])), IMAGE, edgeconv.CaptureError,
        "linalg_inv of 6 rows has no ONNX form",
    ),
    "mode": (lambda: Function(lambda x: x.mode(1)[1]), IMAGE, edgeconv.CaptureError, "aten.mode has no ONNX form"),
    "boolean-index": (
        lambda: Function(lambda x: x[x > 0]), IMAGE, edgeconv.CaptureError,
        "the size of what index gives depends on values, and files have fixed sizes",
    ),
    "branch": (
        lambda: Function(lambda x: x * 2 if x.sum() > 0 else x), IMAGE, edgeconv.CaptureError,
        "control flow depends on the values of a tensor.*; use torch.where",
    ),
    "random": (
        lambda: Function(lambda x: x + torch.rand_like(x)), IMAGE, edgeconv.CaptureError, "draws random numbers",
    ),
    "numpy": (
        lambda: Function(lambda x: torch.from_numpy(x.numpy() * 2)), IMAGE, edgeconv.CaptureError, "leaves torch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    make, shape, kind, line = REFUSED[name]
    with pytest.raises(kind, match=line) as caught:
        edgeconv.export(make(), (torch.randn(shape),), tmp_path / "out", name="refused")
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
