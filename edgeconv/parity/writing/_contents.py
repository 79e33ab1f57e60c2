"""What a file holds, number by number: whether two files are one and the same, but for a few numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.edit import constant, input_of
from edgeconv.reference import tflite

_WRITER = "edgeconv"  # the producer of an `.onnx` file; the name of a `.tflite` file's metadata
_QUANTIZATION = ("QuantizeLinear", "DequantizeLinear")
_FEW = 3  # constants or scales
_SHARE = 1 / 3  # of them; where more are others, it is another file

_Numbers = tuple[Array, ...]


@dataclass(frozen=True)
class Changes:
    """What one file has otherwise than another.

    Attributes:
        count: how many constants and scales are others.
        unlike: why it is not the other with a few numbers changed, in one line; empty where it is.
    """

    count: int
    unlike: str


@dataclass(frozen=True, eq=False)
class Contents:
    """The numbers that a file holds.

    Attributes:
        constants: as they are stored, by name; of one of integers, scales and zero points, too.
        scales: scales and zero points of what is computed, by the name of the tensor or of the constant.
    """

    constants: Mapping[str, _Numbers]
    scales: Mapping[str, _Numbers]

    @property
    def _types(self) -> set[tuple[str, str]]:
        return {(name, str(arrays[0].dtype)) for name, arrays in self.constants.items()}

    def beside(self, other: Contents) -> Changes:
        """What this file has otherwise than another."""
        pairs = (("constants", self.constants, other.constants), ("scales", self.scales, other.scales))
        apart = len(self._types ^ other._types)
        told = f"{apart} of its constants have other names or types" if apart > _FEW else ""
        count = apart
        for what, held, stated in pairs:
            shared = held.keys() & stated.keys()
            changed = sum(not _same(held[name], stated[name]) for name in shared)
            count += changed
            if changed > max(_FEW, _SHARE * len(shared)):
                told = told or f"{changed} of its {len(shared)} {what} have other numbers"
        return Changes(count, told)


def _same(numbers: _Numbers, others: _Numbers) -> bool:
    pairs = zip(numbers, others, strict=False)
    return len(numbers) == len(others) and all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def contents_of_onnx(model: ir.Model) -> Contents:
    """Of an `.onnx` file."""
    initializers = {name: value.const_value for name, value in model.graph.initializers.items()}
    arrays = {name: (tensor.numpy(),) for name, tensor in initializers.items() if tensor is not None}
    quantizing = [
        node
        for node in model.graph.all_nodes()
        if node.op_type in _QUANTIZATION and constant(input_of(node, 0)) is None
    ]
    parameters = {value.name for node in quantizing for value in node.inputs[1:] if value is not None}
    return Contents(
        {name: numbers for name, numbers in arrays.items() if name not in parameters},
        {name: numbers for name, numbers in arrays.items() if name in parameters},
    )


def contents_of_tflite(graph: tflite.TfliteGraph) -> Contents:
    """Of a `.tflite` file."""
    constants: dict[str, _Numbers] = {}
    scales: dict[str, _Numbers] = {}
    for tensor in graph.tensors:
        parameters: _Numbers = ()
        if tensor.quantization is not None:
            parameters = (np.array((*tensor.quantization.scales, *tensor.quantization.zero_points), np.float64),)
        if tensor.data is not None:
            constants[tensor.name] = (np.asarray(tensor.data), *parameters)
        elif parameters:
            scales[tensor.name] = parameters
    return Contents(constants, scales)


def writer_of_onnx(model: ir.Model) -> Mapping[str, str]:
    """What edgeconv says of a file that it wrote; nothing of any other."""
    return dict(model.metadata_props) if model.producer_name == _WRITER else {}


def writer_of_tflite(model: Any) -> Mapping[str, str]:
    """Likewise, of the schema's own object."""
    for at in range(model.MetadataLength()):
        item = model.Metadata(at)
        if tflite.text_of(item.Name()) == _WRITER:
            data = model.Buffers(item.Buffer()).DataAsNumpy()
            try:
                told = json.loads(bytes(data) if isinstance(data, np.ndarray) else b"")
            except ValueError:  # no JSON, or no UTF-8
                return {}
            return {str(key): str(text) for key, text in told.items()} if isinstance(told, dict) else {}
    return {}
