"""A copy of a graph that is cut at some of its values: what lies behind them reads inputs in their place."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.names import names_of, reserved_names, take_name
from edgeconv.parity.causes import HELD
from edgeconv.parity.writing._steps import Steps


class Cut:
    """A copy of a graph, held.

    Attributes:
        model: the copy.
        inputs: by the name of a held value, that of the input which is read in its place.
        ends: by the name of a value, that of the value in the copy which is compared.
    """

    def __init__(
        self, model: ir.Model, names: frozenset[str], quantizers: frozenset[str], limits: Mapping[str, Steps]
    ) -> None:
        self.model = model.clone()
        graph = self.model.graph
        self._taken = {*names_of(graph), *reserved_names(graph)}
        self.inputs: dict[str, str] = {}
        self.ends: dict[str, str] = {}
        for node in list(graph):
            for value in node.outputs:
                name = value.name or ""
                if name in quantizers:
                    source = node.inputs[0]
                    assert source is not None  # QuantizeLinear has an operand
                    self.ends[name] = source.name or ""
                    results = [use.node.outputs[0] for use in value.uses()]
                    given = self._input(name, source) if name in names else source
                    if name not in names and name in limits:
                        given = self._clipped(source, limits[name])
                    for result in results:
                        redirect(result, given, outputs=True)
                else:
                    self.ends[name] = name
                    if name in names and value.uses():
                        redirect(value, self._input(name, value))
        self.ends |= {value.name or "": value.name or "" for value in graph.inputs}
        self._parts: dict[frozenset[str], ir.Model] = {}
        for value, name in zip(graph.outputs, [value.name or "" for value in model.graph.outputs], strict=True):
            self.ends[name] = value.name or ""

    def _input(self, name: str, like: ir.Value) -> ir.Value:
        given = ir.Value(name=take_name(name + HELD, self._taken), shape=like.shape, type=like.type)
        self.model.graph.inputs.append(given)
        self.inputs[name] = given.name or ""
        return given

    def _clipped(self, source: ir.Value, limits: Steps) -> ir.Value:
        """A value as integers saturate it."""
        graph, maker = self.model.graph, source.producer()
        bounds = []
        for bound in (limits.least, limits.greatest):
            name = take_name(f"{source.name}/limit", self._taken)
            value = ir.Value(name=name, type=ir.TensorType(ir.DataType.DOUBLE))
            value.const_value = ir.tensor(np.float64(bound), name=value.name)
            graph.register_initializer(value)
            bounds.append(value)
        clip = ir.Node("", "Clip", [source, *bounds], num_outputs=1)
        result = clip.outputs[0]
        result.name = take_name(f"{source.name}/clipped", self._taken)
        result.shape, result.type = source.shape, source.type
        graph.insert_before(graph[0], clip) if maker is None else graph.insert_after(maker, clip)
        return result

    def feeds(
        self, read: Collection[ir.Value], arrays: Mapping[str, Array], values: Mapping[str, Array]
    ) -> dict[str, Array]:
        """What is read of arrays by their own name, and of held values, by the name of the input in their place."""
        readable = {value.name or "" for value in read}
        fed = {name: array for name, array in arrays.items() if name in readable}
        return fed | {inner: values[name] for name, inner in self.inputs.items() if inner in readable}

    def part(self, names: frozenset[str]) -> ir.Model:
        """What some values are computed from, alone: most values have few operators behind the held ones."""
        if names not in self._parts:
            graph = self.model.graph
            part = ir.convenience.extract(graph, graph.inputs, sorted({self.ends[name] for name in names}))
            for value in [value for value in part.inputs if not value.uses() and not value.is_graph_output()]:
                part.inputs.remove(value)
            functions = list(self.model.functions.values())
            model = ir.Model(part, ir_version=self.model.ir_version, functions=functions)
            self._parts = {names: model}  # one, as all evaluations of a value follow each other
        return self._parts[names]


def redirect(value: ir.Value, given: ir.Value, *, outputs: bool = False) -> None:
    """Makes the readers of a value read another; the graph's outputs too where asked for."""
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, given)
    graph = value.graph
    if outputs and isinstance(graph, ir.Graph):
        for index, output in enumerate(list(graph.outputs)):
            if output is value:
                graph.outputs[index] = given
