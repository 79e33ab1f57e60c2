"""A graph that is held at some of its values: what lies behind them reads arrays of the caller's in their place.

What a float graph is held at are values that nodes compute. A quantized graph is held at results of QuantizeLinear:
what reads them reads real numbers of the caller's, and the operand of QuantizeLinear, before it is rounded, is what is
compared. All other roundings are left out, as a file may fuse operators and round once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
from functools import cached_property, partial

import numpy as np
import onnx_ir as ir
import torch

from edgeconv.core import Array
from edgeconv.core.precision import to_float64
from edgeconv.core.threads import one_thread
from edgeconv.errors import RewriteError
from edgeconv.graph.constants import unrounded_copy
from edgeconv.graph.edit import is_taken, tensor_of
from edgeconv.graph.signs import never_negative
from edgeconv.graph.traits import Trait, having, having_any
from edgeconv.parity.causes import Piece
from edgeconv.parity.writing._attributes import rounded_attributes
from edgeconv.parity.writing._caches import EvaluationCache, OperandCache
from edgeconv.parity.writing._constants import half_steps
from edgeconv.parity.writing._cut import Cut
from edgeconv.parity.writing._ends import HALF_UNIT
from edgeconv.parity.writing._steps import Steps, steps_of
from edgeconv.parity.writing._stored import store_real_numbers
from edgeconv.reference import evaluate

_FURTHEST = 127.5 + 1e-3  # steps from -1/2, of what is among -128 to 127
_MOST_ELEMENTS = 40_000_000  # of float64, on both sides
_MOST_LEFT_OUT = 3  # nodes behind each other
_MOVING = (Trait.MOVES, Trait.PICKS)
_QUANTIZATION = having(Trait.SCALED)
Altered = Callable[[torch.Tensor], torch.Tensor]


class Graph:
    """A graph whose values can be compared with those of another.

    Args:
        model: stays as it is.
        unrounded: with the float64 numbers that constants were rounded from, and attributes as they are.
        computed: the names of integers that a graph beside it computes: where this one stores what they are quantized
            from, they are a value to compare all the same, and no constant.

    Attributes:
        model: a copy, if not unrounded with the float32 attributes that files hold; the caller does not change it.
        constant_steps: by the constants that stand for integers, what one integer more is worth, as it broadcasts.
        terms: the constants of int32.
        saturates: quantized values that saturate where they are not held, too.
        rounded_again: what a file of int8 may round to steps of its own: terms, and what 8 bits do not reach.
        shared: what several files of it are judged on, each computed once; None where there is one file.
    """

    def __init__(self, model: ir.Model, *, unrounded: bool = False, computed: Collection[str] = ()) -> None:
        self.model, self._exact_attributes = (unrounded_copy(model), {}) if unrounded else rounded_attributes(model)
        self.terms = frozenset(_terms(self.model.graph))
        self.constant_steps = store_real_numbers(self.model, computed)
        beyond = {name for name, step in self.constant_steps.items() if _is_beyond(self.constants.get(name), step)}
        self.rounded_again = frozenset(self.terms & self.constant_steps.keys() | beyond)
        self._cuts: dict[frozenset[str], Cut] = {}
        self._evaluations = EvaluationCache()
        self.shared: OperandCache | None = None
        self.saturates: frozenset[str] = frozenset()

    def saturating(self, names: Collection[str]) -> Graph:
        """The same graph, in which quantized values of these names saturate where they are not held, too."""
        other = copy.copy(self)
        other._cuts, other.saturates = {}, frozenset(names) & self.quantizers.keys()
        return other

    def with_exact_attributes(self, name: str, held: Collection[str]) -> Graph | None:
        """The same graph with FLOAT attributes as they are before a file of its own format rounds them.

        Of a product of attributes and constants a writer rounds the product alone.

        Returns:
            None where no attribute is another of what computes a value from the held ones before it.
        """
        nodes = self._cut(frozenset(held)).part(frozenset([name])).graph.all_nodes()
        if self._exact_attributes.keys().isdisjoint(value.name for node in nodes for value in node.outputs):
            return None
        other = copy.copy(self)
        other.model, other._cuts, other._evaluations = self.model.clone(), {}, EvaluationCache()
        for node in other.model.graph.all_nodes():
            for attribute in self._exact_attributes.get(node.outputs[0].name or "", ()):
                node.attributes.add(attribute)
        return other

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
        return self.moved_from(self.named)

    def moved_from(self, names: Collection[str]) -> frozenset[str]:
        """Of the values that are elements of others, those whose elements are all of the named ones, or of inputs.

        A file may have what was picked from a value, and not the value (its slices fused with one behind it).
        """
        readable = {*names, *self.model.graph.initializers, *(value.name or "" for value in self.model.graph.inputs)}
        moved: set[str] = set()
        integers = set(self.dequantized)  # as real numbers; what is rounded for the first time has other elements
        for node in self.model.graph:
            read = [value.name or "" for value in node.inputs if value is not None]
            is_moved = node.op_type in having_any(_MOVING) and all(
                {name, self.dequantized.get(name)} & (moved | readable) for name in read
            )
            if is_moved or (node.op_type in _QUANTIZATION and read[0] in moved & integers):
                moved.update(value.name or "" for value in node.outputs)
                integers.update(value.name or "" for value in node.outputs if integers.intersection(read))
        return frozenset(moved)

    @cached_property
    def positions(self) -> frozenset[str]:
        """The values whose elements are places in an image, from -1 to 1: none of it is read where they are larger."""
        named = self.named | {value.name or "" for value in self.model.graph.inputs}
        waiting = [node.inputs[1] for node in self.model.graph if node.op_type == "GridSample"]
        positions = set()
        while waiting:
            value = waiting.pop()
            node = value.producer() if value is not None else None
            if value is not None and value.name in named:
                positions.add(value.name)
            if node is not None and node.op_type in having_any([*_MOVING, Trait.SCALED]):
                waiting.extend(node.inputs[: None if node.op_type == "Concat" else 1])
        return frozenset(positions)

    @cached_property
    def never_negative(self) -> frozenset[str]:
        """The values that no input makes negative; a file may rely on that, and pad a maximum of them with zeros.

        Of integers what they stand for, which has the sign of what was rounded to them.
        """
        known: dict[ir.Value, bool] = {}
        values: list[ir.Value] = []
        for node in self.model.graph:
            if node.op_type in _QUANTIZATION:
                known[node.outputs[0]] = never_negative(node.inputs[0], known)
            values += node.outputs
        return frozenset(value.name or "" for value in values if never_negative(value, known))

    @cached_property
    def floats(self) -> frozenset[str]:
        """The values that nodes compute and that are no part of a quantization; results left out have no name."""
        sources = {node.inputs[0] for node in self.quantizers.values() if node.inputs[0] is not None}
        hidden = {value for value in sources if len(value.uses()) == 1 and not value.is_graph_output()}
        values = [value for node in self.model.graph for value in node.outputs if value not in hidden]
        names = {value.name for value in values if value.name}
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
        """The numbers of float initializers that are read and no scales, and what integers stand for (float64)."""
        initializers = [value for value in self.model.graph.initializers.values() if is_taken(value)]
        tensors = {value.name or "": value.const_value for value in initializers if not _is_parameter(value)}
        floats = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return {name: tensor.numpy() for name, tensor in floats.items() if tensor.dtype.is_floating_point()}

    @cached_property
    def real_constants(self) -> dict[str, Array]:
        """`constants`, but for those that are quantized before anything reads them."""
        initializers = self.model.graph.initializers
        return {name: array for name, array in self.constants.items() if not _is_quantized(initializers[name])}

    def half_steps(self, constant: str) -> Array:
        """What rounding may have moved the numbers of a constant by, as it broadcasts: float64.

        What integers stand for is off by the float32 that their scale is; one number that is the scale's whole reach,
        by the float32 that it was itself before, too: a square root of two, say, which the writer knows exactly.
        """
        array = self.constants[constant]
        if constant not in self.constant_steps:
            return half_steps(array)
        return np.abs(array) * HALF_UNIT * (2 if len(np.unique(np.abs(array))) == 1 else 1)

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
        if altered is not None:
            return self._evaluated({**inputs, **changed}, names, altered)
        feeds = {**inputs, **changed}
        if not self._evaluations.holds(feeds, names):
            more = self.chosen(self.named)  # what is asked next of the same costs nothing then
            self._evaluations.store(feeds, self._evaluated(feeds, more | frozenset(names)))
        return {name: self._evaluations.values[name] for name in names}

    def _evaluated(
        self, feeds: Mapping[str, Array], names: Collection[str], altered: Altered | None = None
    ) -> dict[str, Array]:
        real = {name: self._read_as(name) for name in names if name in self.quantizers}
        keep = {*real.values(), *(name for name in names if name not in real)}
        with one_thread():
            values = evaluate(self.model, feeds, keep=keep, altered=altered)
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
        readable = [*part.graph.inputs, *part.graph.initializers.values()]
        feeds = cut.feeds(readable, {**inputs, **changed}, values)
        ends = {name: cut.ends[name] for name in names}
        with one_thread():
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

    def results_between(self, name: str, held: Collection[str], kinds: Collection[str]) -> frozenset[str]:
        """The results of operators of these kinds that a value is computed from, behind the held values before it."""
        nodes = self._cut(frozenset(held)).part(frozenset([name])).graph
        return frozenset(value.name or "" for node in nodes if node.op_type in kinds for value in node.outputs)

    def values_between(self, name: str, held: Collection[str]) -> frozenset[str]:
        """The values that a value is computed from, behind the held ones before it."""
        nodes = self._cut(frozenset(held)).part(frozenset([name])).graph
        return frozenset(value.name or "" for node in nodes for value in node.outputs)

    def piece(
        self, name: str, inputs: Mapping[str, Array], values: Mapping[str, Array], changed: Mapping[str, Array]
    ) -> Piece:
        """What computes a value from the held ones before it; parameters as of `held`.

        Raises:
            RewriteError: the reference cannot compute it by itself.
        """
        cut = self._cut(frozenset(values))
        nodes = list(cut.part(frozenset([name])).graph)
        read = {value for node in nodes for value in node.inputs if value is not None}
        feeds = cut.feeds(read, {**inputs, **changed}, values)
        arrays = {value: feeds[value.name] for value in read if value.name in feeds}
        arrays |= {
            value: value.const_value.numpy() for value in read if value not in arrays and value.const_value is not None
        }
        results = [value for node in nodes for value in node.outputs if value.name == cut.ends[name]]
        if not results:
            raise RewriteError("no node computes it", where=name)
        real = {value: to_float64(array) for value, array in arrays.items()}
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

    @cached_property
    def _limits(self) -> dict[str, Steps]:
        return {name: self.steps(name) for name in self.saturates}

    def _cut(self, names: frozenset[str]) -> Cut:
        cut = self._cuts.pop(names, None)
        if cut is None:
            cut = Cut(self.model, names, frozenset(self.quantizers), self._limits)
        # Two, as they weigh: what both sides read, and what of it has been compared so far.
        self._cuts = {**dict(list(self._cuts.items())[-1:]), names: cut}
        return cut


def _elements(shape: ir.Shape | None) -> int:
    return math.prod(size for size in shape or () if isinstance(size, int))


def _constant(value: ir.Value | None) -> Array:
    tensor = tensor_of(value)
    return np.zeros(1, np.uint8) if tensor is None else tensor.numpy()


def _terms(graph: ir.Graph) -> set[str]:
    """The real numbers that constants of int32 stand for."""
    nodes = [node for node in graph if node.op_type == "DequantizeLinear"]
    kinds = {node.outputs[0].name or "": node.inputs[0].dtype for node in nodes if node.inputs[0] is not None}
    return {name for name, kind in kinds.items() if kind == ir.DataType.INT32}


def _is_beyond(array: Array | None, step: Array) -> bool:
    """Whether some number takes more steps than int8 has on either side of zero."""
    return array is not None and bool(np.any(np.abs(array / step + 0.5) > _FURTHEST))


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
