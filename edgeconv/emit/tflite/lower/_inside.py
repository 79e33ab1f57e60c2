"""Which tensors of a file hold which integers of the quantized graph: what reports and the proof compare."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgeconv.core import IntegerTensor
from edgeconv.emit.tflite._graph import Graph, Tensor
from edgeconv.emit.tflite.lower._layout import Form


@dataclass(frozen=True)
class Held:
    """A tensor, the form in which it holds a value, and the integers that the value has in the quantized graph."""

    tensor: Tensor
    form: Form
    values: tuple[str, ...]


def held(
    graph: Graph,
    forms: Mapping[ir.Value, Mapping[Form, Tensor]],
    integers: Mapping[ir.Value, Sequence[str]],
    reshaped: Mapping[Tensor, Sequence[Tensor]],
    *,
    hidden: Collection[Tensor] = (),
) -> tuple[Held, ...]:
    """The tensors of a finished graph that hold quantized values, each with the first of its values.

    What only moves elements, or nothing, may leave several values in one tensor.

    Args:
        graph: as it is written; tensors that simplifying took out are left out.
        forms: of the float graph's values.
        integers: of these values, by the names of QuantizeLinear's results.
        reshaped: by tensor, those that hold its elements in another shape.
        hidden: tensors to leave out, since their elements lie in another order than their value's.
    """
    candidates = {*graph.inputs, *(tensor for operator in graph.operators for tensor in operator.outputs)}
    candidates = {tensor for tensor in candidates if tensor.dtype.kind == "i" and tensor.quantization is not None}
    candidates -= set(hidden)
    holders: dict[Tensor, Held] = {}
    for value, names in integers.items():
        for form, tensor in forms.get(value, {}).items():
            twin = next((candidate for candidate in _twins(tensor, reshaped) if candidate in candidates), None)
            if twin is not None:
                holders.setdefault(twin, Held(twin, form, tuple(names)))
                break
    return tuple(holders.values())


def _twins(tensor: Tensor, reshaped: Mapping[Tensor, Sequence[Tensor]]) -> list[Tensor]:
    """A tensor and those of the same elements in the same order, the nearest first."""
    twins = [tensor]
    for twin in twins:
        twins += [other for other in reshaped.get(twin, ()) if other not in twins]
    return twins


def described(graph: Graph, holders: Sequence[Held], names: Mapping[Tensor, str]) -> tuple[IntegerTensor, ...]:
    """These tensors for the report: name in the file, shape, dtype, form, scale, zero point, values."""
    return tuple(
        IntegerTensor(
            names[holder.tensor],
            _shape(graph, holder.tensor),
            holder.tensor.dtype.name,
            holder.form,
            holder.tensor.quantization.scale[0],
            holder.tensor.quantization.zero_point[0],
            holder.values,
        )
        for holder in holders
        if holder.tensor.quantization is not None
    )


def _shape(graph: Graph, tensor: Tensor) -> tuple[int | str, ...]:
    """The shape of a tensor, with a name for what follows an open batch."""
    axis = graph.open_axes.get(tensor)
    return tuple(f"{size} a batch" if at == axis else size for at, size in enumerate(tensor.shape))
