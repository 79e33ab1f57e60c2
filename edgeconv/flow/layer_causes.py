"""Finds why a runtime's layer is beyond its bound: the layer is cut from the file and tried under one hypothesis after
another (`edgeconv.parity.causes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgeconv.capture import whatever_it_brings
from edgeconv.core import Array
from edgeconv.core.precision import to_float64
from edgeconv.core.threads import one_thread
from edgeconv.errors import EdgeconvError
from edgeconv.flow.cut import open_layers
from edgeconv.parity.running import Layer

_COARSEST = 2.0**-6  # of the result: under a wider bound several hypotheses would fit


def cause_on_runtime(
    path: Path,
    data: bytes,
    layer: Layer,
    inputs: Sequence[Array],
    outputs: Sequence[Array],
    middle: Mapping[str, Array],
) -> str:
    """Why a layer is not what the file says of the runtime's own operands; empty where no hypothesis explains it.

    Args:
        path: of the file.
        data: its bytes.
        layer: that is beyond its bound.
        inputs: in the file's order and layout.
        outputs: of the runtime, likewise.
        middle: the intermediate values that it returned, by name.
    """
    try:
        with whatever_it_brings(path):
            return _cause(path, data, layer, inputs, outputs, middle)
    except EdgeconvError:  # a layer that cannot be cut, or is no graph of ours
        return ""


def _cause(
    path: Path,
    data: bytes,
    layer: Layer,
    inputs: Sequence[Array],
    outputs: Sequence[Array],
    middle: Mapping[str, Array],
) -> str:
    from edgeconv.parity.causes import Evidence, Piece, cause_of  # onnx_ir, which the caller may do without

    # 1. The layer by itself, on the operands that the runtime computed before it.
    file = open_layers(path, data)
    arrays = {**dict(zip(file.inputs, inputs, strict=True)), **middle, **dict(zip(file.outputs, outputs, strict=True))}
    operands = {
        name: arrays[name] for name in file.operands(layer.name, [name for name in arrays if name != layer.name])
    }
    graph = file.graph(layer.name, operands)
    values = {value: to_float64(operands[name]) for value, name in zip(graph.inputs, operands, strict=True)}
    for value in graph.initializers.values():
        if value.const_value is not None:
            values[value] = to_float64(value.const_value.numpy())
    # 2. What would explain its result.
    with one_thread():
        piece = Piece(list(graph), values, graph.outputs[0], graph.opset_imports.get("", 1))
        actual = to_float64(arrays[layer.name])
        magnitude = float(np.max(np.abs(piece.expected), initial=0.0, where=np.isfinite(piece.expected)))
        if actual.dtype.kind == "f" and not layer.widest <= _COARSEST * magnitude:
            return ""
        return cause_of(piece, Evidence(actual, layer.widest))
