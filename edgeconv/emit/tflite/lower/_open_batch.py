"""A file for every batch size.

Lowerings compute with plain numbers, so a graph with an open batch is lowered at two batch sizes, and the two results
are compared: what differs follows the batch, and must do so in proportion. Both must have the same operators; what
holds at both sizes and is written without either of them holds at every size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array, TensorSpec
from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite.file._encoding import Encoding
from edgeconv.emit.tflite.lower._convert import convert
from edgeconv.emit.tflite.lower._lowering import Lowering
from edgeconv.errors import FIXED_BATCH, ONNX_ONLY, EmitError

# Primes that are rare as sizes of anything else, so that two dimensions are seldom equal by chance.
_SIZES = (7, 11)
_SIZED = (("RESHAPE", 1), ("SLICE", 2), ("STRIDED_SLICE", 2))  # the inputs that are shapes or ends

Lowered = tuple[Lowering, tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def converted(model: ir.Model, layout: str, encoding: Encoding) -> Lowered:
    """Lowers the whole graph, its batch open where it is symbolic; with the specs of its borders."""
    symbols = sorted({name for value in model.graph.inputs if value.shape for name in value.shape.free_symbols()})
    if not symbols:
        return convert(model, layout, encoding)
    if len(symbols) > 1:
        what = f"the dimensions {', '.join(symbols)} are open, and TFLite files are written with one open dimension"
        raise EmitError(what, where="tflite", hint=f"fix all but the batch, or {ONNX_ONLY}")
    # Twice the same graph; the first of the two is opened and written.
    (low, *specs), (other, *others) = (convert(model, layout, encoding, {symbols[0]: size}) for size in _SIZES)
    _Opening(low.graph).run(other.graph)
    inputs, outputs = (
        tuple(_opened(a, b, symbols[0]) for a, b in zip(*pair, strict=True)) for pair in zip(specs, others, strict=True)
    )
    return low, inputs, outputs


def _opened(spec: TensorSpec, other: TensorSpec, symbol: str) -> TensorSpec:
    shape = tuple(symbol if a != b else a for a, b in zip(spec.shape, other.shape, strict=True))
    return replace(spec, shape=shape)


class _Opening:
    """Opens the batch of a graph, by comparing it with one that was lowered at another batch size."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def run(self, other: Graph) -> None:
        """Walks both graphs operator by operator."""
        if [operator.code for operator in self.graph.operators] != [operator.code for operator in other.operators]:
            self._refuse("the graph", "takes other operators at another batch size")
        pairs = list(zip(self.graph.operators, other.operators, strict=True))
        computed = list(zip(self.graph.inputs, other.inputs, strict=True))
        for operator, counterpart in pairs:
            computed += zip(operator.outputs, counterpart.outputs, strict=True)
        for operator, counterpart in pairs:
            self._open(operator, counterpart)
        for tensor, twin in dict(computed).items():
            self._open_shape(tensor, twin)

    def _open_shape(self, tensor: Tensor, twin: Tensor) -> None:
        """Marks the axis on which the two differ, and writes its size for a batch of 1."""
        axis = self._axis(tensor.name, tensor.shape, twin.shape)
        if axis is not None:
            self.graph.open_axes[tensor] = axis
            tensor.shape = tuple(size // _SIZES[0] if at == axis else size for at, size in enumerate(tensor.shape))

    def _axis(self, name: str, shape: tuple[int, ...], other: tuple[int, ...]) -> int | None:
        """The axis that follows the batch; None where the two are equal."""
        open_ = [axis for axis, (a, b) in enumerate(zip(shape, other, strict=True)) if a != b]
        if not open_:
            return None
        # The same multiple of the batch at both sizes, without a remainder.
        sizes = [divmod(lengths[open_[0]], size) for lengths, size in zip((shape, other), _SIZES, strict=True)]
        if len(open_) > 1 or sizes[0] != sizes[1] or sizes[0][1]:
            self._refuse(name, f"has shapes {shape} and {other} at batches of {_SIZES[0]} and {_SIZES[1]}")
        return open_[0]

    def _open(self, operator: Operator, counterpart: Operator) -> None:
        """Rewrites an operator whose constants differ."""
        name = operator.outputs[0].name
        for index, (tensor, twin) in enumerate(zip(operator.inputs, counterpart.inputs, strict=True)):
            if (tensor.data is None) != (twin.data is None):
                self._refuse(name, "takes a constant at one batch size and none at another")
            if tensor.data is None or twin.data is None or tensor.digest == twin.digest:
                continue
            if (operator.code, index) not in _SIZED or len(tensor.data) != len(twin.data):
                self._refuse(name, f"has the batch size in a constant of its {operator.code}")
            axis = self._axis(name, tuple(tensor.data.tolist()), tuple(twin.data.tolist()))
            if axis is not None:
                openings = {"RESHAPE": self._open_reshape, "SLICE": self._open_slice}
                openings.get(operator.code, self._open_end)(operator, axis)
                return
        options = [{**side.options, "newShape": None} for side in (operator, counterpart)]
        if options[0] != options[1]:
            self._refuse(name, f"has the batch size in the options of its {operator.code}")

    def _open_reshape(self, operator: Operator, axis: int) -> None:
        """The axis takes what is left."""
        target = _constant(operator, 1)
        target[axis] = -1
        operator.inputs[1] = self.graph.constant(target, operator.inputs[1].name)
        operator.options["newShape"] = target.tolist()

    def _open_slice(self, operator: Operator, axis: int) -> None:
        """All of the axis, by the masks of a STRIDED_SLICE.

        XNNPACK takes one of unit steps, in LiteRT 2.3 and in TensorFlow Lite 2.14, at every batch size that it is
        resized to; a SLICE of size -1 it leaves to the builtin kernel (ShuffleNetV2 x0.5: 14 partitions instead of 1).
        """
        begin, size = _constant(operator, 1), _constant(operator, 2)
        if operator.inputs[0].shape[axis] != size[axis]:
            self._refuse(operator.outputs[0].name, "takes a part of the batch")
        end = begin + size
        end[axis] = 1
        operator.code = "STRIDED_SLICE"
        operator.inputs[2:] = [self.graph.constant(array, "integers") for array in (end, np.ones_like(end))]
        operator.options = {"beginMask": 1 << axis, "endMask": 1 << axis}

    def _open_end(self, operator: Operator, axis: int) -> None:
        """All of the axis, as in `_open_slice`; the other axes keep their steps."""
        begin, end, steps = (_constant(operator, index) for index in (1, 2, 3))
        if (begin[axis], end[axis], steps[axis]) != (0, operator.inputs[0].shape[axis], 1):
            self._refuse(operator.outputs[0].name, "takes a part of the batch")
        end[axis] = 1
        operator.inputs[2] = self.graph.constant(end, "integers")
        operator.options = {name: operator.options.get(name, 0) | 1 << axis for name in ("beginMask", "endMask")}

    def _refuse(self, name: str, why: str) -> NoReturn:
        what = f"{name!r} {why}: it cannot be written with an open batch"
        raise EmitError(what, where="tflite", hint=f"{FIXED_BATCH}; or {ONNX_ONLY}")


def _constant(operator: Operator, index: int) -> Array:
    """A copy of a constant input."""
    return np.array(operator.inputs[index].data)
