"""Reading and changing a graph while it is quantized; names of nodes and values in errors and plans."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.errors import QuantizeError
from edgeconv.graph import edit
from edgeconv.graph.names import names_of, reserved_names, take_name

LAYER = "edgeconv.quantize.layer"
"""Node.meta key (never serialized): the name in the plan, which the node's output loses when it is quantized."""

ADDED = "edgeconv.quantize.added"
"""Node.meta key: a node for which the graph before it was prepared has none."""


def is_activation(value: ir.Value | None) -> bool:
    """Whether the value is a float32 tensor that is computed from the graph's inputs."""
    return value is not None and value.dtype == ir.DataType.FLOAT and edit.constant(value) is None


def name_of(node: ir.Node) -> str:
    """A node's name in plans and messages: its first output, which is named after the torch module."""
    return next((value.name for value in node.outputs if value.name), node.op_type)


def layer_name(node: ir.Node) -> str | None:
    """The plan's name of a node with a quantized weight, in a graph that `apply` made; None for other nodes."""
    name: str | None = node.meta.get(LAYER)
    return name


def named(value: ir.Value) -> str:
    """The value's name; the graph conventions promise one."""
    if not value.name:
        raise QuantizeError("a value of the graph has no name", where="quantize", hint="capture the module again")
    return value.name


def nodes_around(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, and the one that makes it."""
    producer = value.producer()
    return [*(use.node for use in value.uses()), *([] if producer is None else [producer])]


def static_shape(value: ir.Value) -> tuple[int, ...]:
    """The dimensions, all known numbers."""
    if value.shape is None or not value.shape.is_static():
        raise QuantizeError(f"the shape of {value.name!r} is not static", where="quantize", hint="give it fixed sizes")
    return tuple(value.shape.numpy())


def add_initializer(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Registers a constant under the name, or ``name_1``, … where that is taken."""
    return edit.add_initializer(graph, fresh_name(graph, name), array)


def fresh_name(graph: ir.Graph, preferred: str) -> str:
    """As `edgeconv.graph.names.unique_name`, which collects the graph's names anew each time; these are remembered."""
    taken: set[str] | None = graph.meta.get(_TAKEN)
    if taken is None:  # every new name goes through here, so the set stays complete
        taken = graph.meta[_TAKEN] = {*names_of(graph), *reserved_names(graph)}
    return take_name(preferred, taken)


def forget_names(graph: ir.Graph) -> None:
    """Lets `fresh_name` look again: for a graph that others may have changed in between."""
    graph.meta.pop(_TAKEN, None)


_TAKEN = "edgeconv.quantize.taken"


def replace_weight(value: ir.Value, array: npt.NDArray[np.generic]) -> None:
    """Gives an initializer other numbers, of the dtype and shape that it has."""
    old = value.const_value
    if old is None or tuple(old.shape.numpy()) != array.shape:
        raise QuantizeError(f"the constant {value.name!r} cannot take shape {array.shape}", where="quantize")
    value.const_value = ir.tensor(array.astype(old.dtype.numpy()), name=value.name)
