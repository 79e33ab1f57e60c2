"""Faults that tests plant into stages of the flow: a runtime, a rewrite, a writer; and a network with a hidden kink."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from edgeconv.core import Array
from edgeconv.devices import Device
from edgeconv.rewrite import fold_batch_norm

# A runtime that reads other bytes than the file has: they are exchanged as it loads one.
_FAULTY = """
import pathlib, sys
from edgeconv.devices import agent
runtime, *paths = sys.argv[1:]
right, wrong = (pathlib.Path(path).read_bytes() for path in paths)
class Faulty(agent.RUNTIMES[runtime]):
    def load(self, model, **fields):
        assert model.count(right) == 1, model.count(right)
        return super().load(model.replace(right, wrong), **fields)
agent.RUNTIMES[runtime] = Faulty
sys.exit(agent.main([runtime]))
"""


class OneSided(torch.nn.Module):
    """An activation between two convolutions; what it reads is positive, and below 6, whatever noise comes in."""

    def __init__(self, activation: torch.nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 4, 1)
        self.activation = activation
        with torch.no_grad():
            self.first.weight *= 0.3
            assert self.first.bias is not None
            self.first.bias.fill_(3.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.activation(self.first(x)))
        return y


def reading_other_numbers(device: Device, right: Array, wrong: Array, folder: Path) -> Device:
    """A device whose runtime reads an array in place of the one that the file has, once."""
    paths = [folder / "as-written", folder / "as-read"]
    for path, array in zip(paths, (right, wrong), strict=True):
        path.write_bytes(array.tobytes())
    return replace(device, command=lambda: [sys.executable, "-c", _FAULTY, device.name, *map(str, paths)])


def fold_without_eps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds each BatchNorm as if its epsilon were zero."""
    right = fold_batch_norm.fold_behind

    def fold(node: ir.Node) -> Any:
        stated = node.attributes["epsilon"]
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 0.0)
        folded = right(node)
        if folded is None:
            node.attributes["epsilon"] = stated
        return folded

    monkeypatch.setattr(fold_batch_norm, "fold_behind", fold)


def with_other_numbers(data: bytes, shape: list[int], change: Callable[[Array], object]) -> bytes:
    """An `.onnx` file whose only constant of a shape is changed in place."""
    model = onnx.load_model_from_string(data)
    (constant,) = [item for item in model.graph.initializer if list(item.dims) == shape]
    array = numpy_helper.to_array(constant).copy()
    change(array)
    constant.CopyFrom(numpy_helper.from_array(array, constant.name))
    altered: bytes = model.SerializeToString()
    return altered
