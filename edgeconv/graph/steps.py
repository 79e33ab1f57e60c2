"""Replaces a node by several others, for forms of an operator that later stages do not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.graph.edit import constant
from edgeconv.graph.names import move_name, name_later, preferred_name
from edgeconv.graph.origin import origin_of, set_origin


class Steps:
    """Inserts nodes before another one, which they replace in the end.

    Args:
        graph: of the node.
        before: the node.
        stem: the prefix of the names of new values, which no other value may have. By default the name of the node's
            first result; these names are made unique later (`edgeconv.graph.names.name_later`).
    """

    def __init__(self, graph: ir.Graph, before: ir.Node, stem: str = "") -> None:
        self._graph = graph
        self._before = before
        named = next((preferred_name(value) for value in before.outputs if value.name), before.op_type)
        self._is_named_later = not stem
        self._stem = stem or f"{named}."
        self._used: dict[str, int] = {}
        self._nodes: set[ir.Node | None] = set()

    def name(self, value: ir.Value, suffix: str) -> None:
        """Names a new value; the second one of the same suffix is numbered."""
        count = self._used.get(suffix, 0)
        self._used[suffix] = count + 1
        name = f"{self._stem}{suffix}_{count}" if count else f"{self._stem}{suffix}"
        if self._is_named_later:
            name_later(self._graph, value, name)
        else:
            value.name = name

    def add(
        self,
        name: str,
        operator: str,
        inputs: Sequence[ir.Value | None],
        sizes: Sequence[int],
        attributes: Mapping[str, Any] | None = None,
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        """The result of a new node: of these sizes, and of the first input's element type unless another is given."""
        node = ir.node(operator, inputs, attributes)
        output = node.outputs[0]
        self.name(output, name)
        output.shape = ir.Shape(sizes)
        source = inputs[0].type if inputs and inputs[0] is not None else None
        output.type = source if dtype is None else ir.TensorType(dtype)
        self.insert(node)
        return output

    def is_own(self, value: ir.Value) -> bool:
        """Whether one of these steps makes the value."""
        return value.producer() in self._nodes

    def own(self, value: ir.Value) -> ir.Value:
        """The value if one of these steps makes it; else an Identity of it, which can take another name."""
        return value if self.is_own(value) else self.add("same", "Identity", [value], sizes_of(value))

    def insert(self, node: ir.Node) -> None:
        """Inserts a node of the caller's, with the origin and the marks of the node that is replaced."""
        self._nodes.add(node)
        set_origin(node, origin_of(self._before))
        node.metadata_props.update(self._before.metadata_props)
        self._graph.insert_before(self._before, node)

    def constant(self, array: npt.NDArray[Any], name: str) -> ir.Value:
        """A new initializer."""
        value = ir.val(None, const_value=ir.tensor(np.asarray(array)))
        self.name(value, name)
        self._graph.register_initializer(value)
        return value

    def reshape(self, value: ir.Value | None, sizes: Sequence[int], name: str) -> ir.Value:
        """The value in another shape; of a constant a constant."""
        array = constant(value)
        if array is not None:
            return self.constant(array.reshape(sizes), name)
        target = self.constant(np.array(sizes, np.int64), f"{name}.shape")
        return self.add(name, "Reshape", [value, target], sizes)

    def mean(self, value: ir.Value, axes: Sequence[int], name: str) -> ir.Value:
        """The mean over axes, which stay with size 1."""
        sizes = [1 if axis in axes else size for axis, size in enumerate(sizes_of(value))]
        over = self.constant(np.array(axes, np.int64), f"{name}.axes")
        return self.add(name, "ReduceMean", [value, over], sizes, {"keepdims": 1})

    def scaled(self, value: ir.Value, factor: float, name: str) -> ir.Value:
        """A multiple; the value itself when the factor is 1."""
        if factor == 1:
            return value
        number = self.constant(np.array(factor, np.float32), f"{name}.factor")
        return self.add(name, "Mul", [value, number], sizes_of(value))

    def transpose(self, value: ir.Value, perm: Sequence[int], name: str) -> ir.Value:
        """The value with its axes in another order."""
        sizes = [sizes_of(value)[axis] for axis in perm]
        return self.add(name, "Transpose", [value], sizes, {"perm": list(perm)})

    def gather(self, value: ir.Value, places: Sequence[int], axis: int, name: str) -> ir.Value:
        """The elements at these indices of an axis."""
        sizes = sizes_of(value)
        sizes[axis] = len(places)
        index = self.constant(np.array(places, np.int64), f"{name}.index")
        return self.add(name, "Gather", [value, index], sizes, {"axis": axis})

    def split(self, value: ir.Value, lengths: Sequence[int], axis: int, name: str) -> list[ir.Value]:
        """Consecutive parts of an axis."""
        ends = np.cumsum(lengths)
        return [
            self.slice(value, axis, int(end) - length, int(end), f"{name}_{index}")
            for index, (end, length) in enumerate(zip(ends, lengths, strict=True))
        ]

    def concat(self, values: Sequence[ir.Value], axis: int, name: str) -> ir.Value:
        """The values behind each other along an axis."""
        sizes = sizes_of(values[0])
        sizes[axis] = sum(sizes_of(value)[axis] for value in values)
        return self.add(name, "Concat", values, sizes, {"axis": axis})

    def slice(self, value: ir.Value, axis: int, start: int, end: int, name: str) -> ir.Value:
        """The elements from ``start`` up to ``end`` of an axis."""
        sizes = sizes_of(value)
        sizes[axis] = end - start
        bounds = [
            self.constant(np.array([number], np.int64), f"{name}.{i}") for i, number in enumerate((start, end, axis))
        ]
        return self.add(name, "Slice", [value, *bounds], sizes)

    def replace(self, results: Mapping[ir.Value, ir.Value]) -> None:
        """Removes the node: each of its results is replaced by the value given for it, which takes over its name."""
        for result, value in results.items():
            stand_in = value
            if value.producer() is None:  # a constant or an input, which has a name of its own
                stand_in = self.add("same", "Identity", [value], sizes_of(value))
            move_name(result, stand_in)
            ir.convenience.replace_all_uses_with(result, stand_in, replace_graph_outputs=True)
        self._graph.remove(self._before, safe=True)


def sizes_of(value: ir.Value | None) -> list[int]:
    """The static shape of a value; after `edgeconv.capture.normalize._clean` every value has one."""
    if value is None or value.shape is None:
        raise ValueError("a value without a shape")  # a bug of ours: shapes are checked before
    return [int(str(size)) for size in value.shape]
