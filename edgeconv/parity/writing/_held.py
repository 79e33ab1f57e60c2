"""A graph that is held at some of its values: what lies behind them reads arrays of the caller's in their place.

What a float graph is held at are values that nodes compute. A quantized graph is held at results of QuantizeLinear:
what reads them reads real numbers of the caller's, and the operand of QuantizeLinear, before it is rounded, is what is
compared. All other roundings are left out, as a file may fuse operators and round once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import onnx_ir as ir
import torch

from edgeconv.core import Array
from edgeconv.core.affine import limits_of
from edgeconv.errors import RewriteError
from edgeconv.graph.constants import unrounded_copy
from edgeconv.graph.edit import tensor_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.traits import Trait, having_any
from edgeconv.parity.causes import HELD, Piece
from edgeconv.reference import evaluate, one_thread

_STORED = "/stored"
_MOST_ELEMENTS = 40_000_000  # of float64, on both sides
_MOST_LEFT_OUT = 3  # nodes behind each other
_MOVING = (Trait.MOVES, Trait.PICKS)
_QUANTIZATION = ("QuantizeLinear", "DequantizeLinear")
Altered = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Steps:
    """What the integers of a quantized value stand for: ``real = scale * (stored - zero_point)``, and which there are.

    Attributes:
        scale: positive.
        least: the real number that the smallest integer stands for.
        greatest: that of the largest.
    """

    scale: float
    least: float
    greatest: float

    def saturated(self, array: Array) -> Array:
        """Numbers that become the smallest or the largest integer are all alike; the others stay as they are."""
        return np.clip(array, self.least + self.scale / 2, self.greatest - self.scale / 2)


def steps_of(scale: float, zero_point: int, dtype: str) -> Steps:
    """Of an integer tensor."""
    low, high = limits_of(dtype)
    return Steps(scale, scale * (low - zero_point), scale * (high - zero_point))


class Graph:
    """A graph whose values can be compared with those of another.

    Args:
        model: stays as it is.
        unrounded: with the float64 numbers that constants were rounded from, and attributes as they are.

    Attributes:
        model: a copy, if not unrounded with the float32 attributes that files hold; the caller does not change it.
    """

    def __init__(self, model: ir.Model, *, unrounded: bool = False) -> None:
        self.model = unrounded_copy(model) if unrounded else _rounded_attributes(model)
        _store_real_numbers(self.model)
        self._cuts: dict[frozenset[str], _Cut] = {}

    @cached_property
    def quantizers(self) -> dict[str, ir.Node]:
        """QuantizeLinear with one scale whose integers only DequantizeLinear reads, by the integers' name."""
        nodes = [node for node in self.model.graph if node.op_type == "QuantizeLinear"]
        return {node.outputs[0].name or "": node for node in nodes if _is_whole(node)}

    @cached_property
    def dequantized(self) -> dict[str, str]:
        """The integers' name, by that of each real value that DequantizeLinear makes of them."""
        return {
            value.name or "": name
            for name, node in self.quantizers.items()
            for use in node.outputs[0].uses()
            for value in use.node.outputs
        }

    @cached_property
    def quantized_inputs(self) -> dict[str, str]:
        """The integers' name of each graph input that is quantized once."""
        inputs = {value: value.name or "" for value in self.model.graph.inputs}
        sources = {name: node.inputs[0] for name, node in self.quantizers.items()}
        return {inputs[value]: name for name, value in sources.items() if value in inputs}

    @cached_property
    def moved(self) -> frozenset[str]:
        """The values that are elements of others: whoever reads them may read those."""
        moving = [node for node in self.model.graph if node.op_type in having_any(_MOVING)]
        return frozenset(value.name or "" for node in moving for value in node.outputs)

    @cached_property
    def floats(self) -> frozenset[str]:
        """The values that nodes compute and that are no part of a quantization."""
        sources = {node.inputs[0] for node in self.quantizers.values() if node.inputs[0] is not None}
        hidden = {value for value in sources if len(value.uses()) == 1 and not value.is_graph_output()}
        names = {value.name or "" for node in self.model.graph for value in node.outputs if value not in hidden}
        return frozenset(names - self.quantizers.keys() - self.dequantized.keys())

    def chosen(self, names: Collection[str]) -> frozenset[str]:
        """Of values that can be held as many, spread evenly, as memory holds; the outputs are always among them."""
        sizes = {value.name or "": value.shape for node in self.model.graph for value in node.outputs}
        elements = {name: _elements(sizes.get(name)) for name in sizes if name in names}
        share = max(1, -(-sum(elements.values()) // _MOST_ELEMENTS))
        return frozenset({*list(elements)[::share], *(name for name in self.outputs if name in names)})

    @property
    def outputs(self) -> list[str]:
        """The names of the graph's outputs."""
        return [value.name or "" for value in self.model.graph.outputs]

    @property
    def named(self) -> frozenset[str]:
        """The values that can be held or compared: floats, quantized ones, outputs."""
        return self.floats | self.quantizers.keys() | set(self.outputs)

    @cached_property
    def constants(self) -> dict[str, Array]:
        """The numbers of floating-point initializers that are no scales, and what integers stand for (float64)."""
        initializers = self.model.graph.initializers.values()
        tensors = {value.name or "": value.const_value for value in initializers if not _is_parameter(value)}
        floats = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return {name: tensor.numpy() for name, tensor in floats.items() if tensor.dtype.is_floating_point()}

    @cached_property
    def real_constants(self) -> dict[str, Array]:
        """`constants`, but for those that are quantized before anything reads them."""
        initializers = self.model.graph.initializers
        return {name: array for name, array in self.constants.items() if not _is_quantized(initializers[name])}

    def steps(self, name: str) -> Steps:
        """Of a quantized value."""
        node = self.quantizers[name]
        scale, zero = (_constant(value) for value in (*node.inputs[1:3], None)[:2])
        dtype = node.outputs[0].dtype or ir.DataType.UINT8
        return steps_of(float(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]), dtype.numpy().name)

    def parameters(self, name: str) -> tuple[float, int]:
        """Scale, and the zero point counted from the smallest integer, of a quantized value."""
        steps = self.steps(name)
        return steps.scale, round(-steps.least / steps.scale)

    def values(
        self,
        inputs: Mapping[str, Array],
        changed: Mapping[str, Array],
        names: Collection[str],
        altered: Altered | None = None,
    ) -> dict[str, Array]:
        """Evaluates the whole graph, roundings and all: floats by their name, quantized ones by the integers'.

        Args:
            inputs: of the graph, by name.
            changed: constants to replace, by name.
            names: of `floats`, `quantizers` and outputs.
            altered: see `edgeconv.reference.evaluate`.
        """
        real = {name: self._read_as(name) for name in names if name in self.quantizers}
        keep = {*real.values(), *(name for name in names if name not in real)}
        with one_thread():
            values = evaluate(self.model, {**inputs, **changed}, keep=keep, altered=altered)
        return {name: values[real.get(name, name)] for name in names}

    def held(
        self,
        inputs: Mapping[str, Array],
        values: Mapping[str, Array],
        changed: Mapping[str, Array],
        names: Collection[str],
        altered: Altered | None = None,
    ) -> dict[str, Array]:
        """Evaluates the graph held at `values`; quantized results are saturated, but not rounded.

        Args:
            inputs: of the graph, by name.
            values: what is read in place of floats and quantized values, by name.
            changed: constants to replace, by name.
            names: what is returned.
            altered: see `edgeconv.reference.evaluate`.
        """
        if not names:
            return {}
        cut = self._cut(frozenset(values))
        part = cut.part(frozenset(names))
        fed = {**inputs, **changed, **{inner: values[name] for name, inner in cut.inputs.items()}}
        readable = {value.name for value in part.graph.inputs} | part.graph.initializers.keys()
        ends = {name: cut.ends[name] for name in names}
        with one_thread():
            feeds = {name: fed[name] for name in fed.keys() & readable}
            results = evaluate(part, feeds, keep=set(ends.values()), altered=altered)
        return {name: self._saturated(name, results[end]) for name, end in ends.items()}

    def operands(self, name: str, held: Collection[str]) -> frozenset[str]:
        """The held values, and the graph's inputs, that a value is computed from directly."""
        cut = self._cut(frozenset(held))
        read = {value.name or "" for value in cut.part(frozenset([name])).graph.inputs}
        return frozenset({value for value, inner in cut.inputs.items() if inner in read} | read)

    def constants_before(self, name: str, held: Collection[str]) -> frozenset[str]:
        """The constants that a value is computed from, behind the held values before it."""
        return frozenset(self._cut(frozenset(held)).part(frozenset([name])).graph.initializers)

    def piece(
        self, name: str, inputs: Mapping[str, Array], values: Mapping[str, Array], changed: Mapping[str, Array]
    ) -> Piece:
        """What computes a value from the held ones before it; parameters as of `held`.

        Raises:
            RewriteError: the reference cannot compute it by itself.
        """
        cut = self._cut(frozenset(values))
        feeds = {**inputs, **changed, **{inner: values[outer] for outer, inner in cut.inputs.items()}}
        nodes = list(cut.part(frozenset([name])).graph)
        read = {value for node in nodes for value in node.inputs if value is not None}
        arrays = {value: feeds[value.name] for value in read if value.name in feeds}
        arrays |= {
            value: value.const_value.numpy() for value in read if value not in arrays and value.const_value is not None
        }
        results = [value for node in nodes for value in node.outputs if value.name == cut.ends[name]]
        if not results:
            raise RewriteError("no node computes it", where=name)
        real = {
            value: array.astype(np.float64) if array.dtype.kind == "f" else array for value, array in arrays.items()
        }
        inner = {value.name: value for value in read}
        before = {inner[of]: self._before(outer, values) for outer, of in cut.inputs.items() if of in inner}
        opset = cut.model.graph.opset_imports.get("", 1)
        return Piece(nodes, real, results[0], opset, partial(self._saturated, name), before)

    def _before(self, name: str, values: Mapping[str, Array]) -> list[tuple[str, Array]]:
        """The values of the same shape that a held one is computed from within a few nodes, which may be left out."""
        passed_over, waiting = [], [(name, 0)]
        while waiting:
            node_name, depth = waiting.pop(0)
            node = self._makers.get(node_name)
            operands = [value.name or "" for value in node.inputs if value is not None] if node is not None else []
            for operand in operands:
                if operand in values and values[operand].shape == values[name].shape:
                    what = f"{node.op_type} {name}" if node is not None and not depth else f"what computes {name}"
                    passed_over.append((f"{what} is left out, and {operand} read in its place", values[operand]))
                if depth < _MOST_LEFT_OUT:
                    waiting.append((operand, depth + 1))
        return passed_over

    @cached_property
    def _makers(self) -> dict[str, ir.Node]:
        return {value.name or "": node for node in self.model.graph for value in node.outputs}

    def _saturated(self, name: str, array: Array) -> Array:
        if name not in self.quantizers:
            return array
        return self.steps(name).saturated(array)

    def _read_as(self, name: str) -> str:
        return next(iter(self.quantizers[name].outputs[0].uses())).node.outputs[0].name or ""

    def _cut(self, names: frozenset[str]) -> _Cut:
        if names not in self._cuts:
            self._cuts = {names: _Cut(self.model, names, frozenset(self.quantizers))}  # one, as they weigh
        return self._cuts[names]


class _Cut:
    """A copy of a graph, held.

    Attributes:
        model: the copy.
        inputs: by the name of a held value, that of the input which is read in its place.
        ends: by the name of a value, that of the value in the copy which is compared.
    """

    def __init__(self, model: ir.Model, names: frozenset[str], quantizers: frozenset[str]) -> None:
        self.model = model.clone()
        graph = self.model.graph
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
                    for result in results:
                        _redirect(result, given, outputs=True)
                else:
                    self.ends[name] = name
                    if name in names and value.uses():
                        _redirect(value, self._input(name, value))
        self.ends |= {value.name or "": value.name or "" for value in graph.inputs}
        self._parts: dict[frozenset[str], ir.Model] = {}
        for value, name in zip(graph.outputs, [value.name or "" for value in model.graph.outputs], strict=True):
            self.ends[name] = value.name or ""

    def _input(self, name: str, like: ir.Value) -> ir.Value:
        given = ir.Value(name=unique_name(self.model.graph, name + HELD), shape=like.shape, type=like.type)
        self.model.graph.inputs.append(given)
        self.inputs[name] = given.name or ""
        return given

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


def _elements(shape: ir.Shape | None) -> int:
    return math.prod(size for size in shape or () if isinstance(size, int))


def _redirect(value: ir.Value, given: ir.Value, *, outputs: bool = False) -> None:
    """Makes the readers of a value read another; the graph's outputs too where asked for."""
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, given)
    graph = value.graph
    if outputs and isinstance(graph, ir.Graph):
        for index, output in enumerate(list(graph.outputs)):
            if output is value:
                graph.outputs[index] = given


def _constant(value: ir.Value | None) -> Array:
    tensor = tensor_of(value)
    return np.zeros(1, np.uint8) if tensor is None else tensor.numpy()


def _store_real_numbers(model: ir.Model) -> None:
    """Puts the real numbers that constant integers stand for in place of the integers, as constants of float64."""
    graph = model.graph
    nodes = [node for node in graph if node.op_type == "DequantizeLinear" and _is_constant(node.inputs[0])]
    nodes = [node for node in nodes if not node.outputs[0].is_graph_output()]
    names = [node.outputs[0].name or "" for node in nodes]
    arrays = evaluate(model, {}, keep=names) if names else {}
    for node, name in zip(nodes, names, strict=True):
        result = node.outputs[0]
        result.name = unique_name(graph, name + _STORED)
        stored = ir.Value(name=name, shape=result.shape, type=ir.TensorType(ir.DataType.DOUBLE))
        stored.const_value = ir.tensor(arrays[name], name=name)
        graph.register_initializer(stored)
        _redirect(result, stored)
        graph.remove(node, safe=True)


def _is_constant(value: ir.Value | None) -> bool:
    """Whether it is stored, or quantized from what is stored."""
    maker = value.producer() if value is not None else None
    if maker is not None and maker.op_type == "QuantizeLinear":
        value = maker.inputs[0]
    return tensor_of(value) is not None


def _is_quantized(value: ir.Value) -> bool:
    uses = list(value.uses())
    return bool(uses) and all(use.node.op_type == "QuantizeLinear" for use in uses)


def _is_parameter(value: ir.Value) -> bool:
    """Whether it is scale or zero point alone."""
    uses = list(value.uses())
    return bool(uses) and all(use.node.op_type in _QUANTIZATION and use.idx > 0 for use in uses)


def _is_whole(node: ir.Node) -> bool:
    uses = list(node.outputs[0].uses())
    readers = all(use.node.op_type == "DequantizeLinear" and use.idx == 0 for use in uses)
    return bool(uses) and readers and not node.outputs[0].is_graph_output() and _constant(node.inputs[1]).size == 1


def _rounded_attributes(model: ir.Model) -> ir.Model:
    """A copy of a graph whose FLOAT attributes are the float32 numbers that files hold."""
    model = model.clone()
    for node in model.graph.all_nodes():
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.FLOAT:
                node.attributes[name] = ir.AttrFloat32(name, float(np.float32(attribute.as_float())))
            elif attribute.type == ir.AttributeType.FLOATS:
                numbers = [float(np.float32(number)) for number in attribute.as_floats()]
                node.attributes[name] = ir.AttrFloat32s(name, numbers)
    return model
