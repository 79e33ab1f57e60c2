"""Evaluates the nodes of a graph in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from onnx_ir.passes.common import InlinePass

from edgeconv.core.values import close_to
from edgeconv.errors import RewriteError
from edgeconv.graph.argument import checked_model
from edgeconv.graph.origin import place_of
from edgeconv.reference._call import Call, Value
from edgeconv.reference._dtypes import from_ir, from_numpy, held_as, shared, wrapped
from edgeconv.reference._exact import in_type
from edgeconv.reference._extent import MOST_ELEMENTS, MOST_FOLDED, largest, result_elements, shown
from edgeconv.reference._operands import ImpossibleError
from edgeconv.reference._operators import OPERATORS

Array = npt.NDArray[Any]


def evaluate(
    model: ir.Model,
    inputs: Mapping[str, Array],
    *,
    keep: Collection[str] | None = None,
    altered: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> dict[str, Array]:
    """Evaluates a graph in float64.

    Floating-point values of every width are float64 from the first to the last operator: a cast between floating
    types changes nothing, and a constant enters as the number that the graph stores. Integers and booleans are
    themselves (`edgeconv.reference._dtypes` says how those that torch lacks are held).

    Args:
        model: opset 7 or newer; not modified. Functions are inlined.
        inputs: one array per graph input, by name, in torch's layout. An initializer may be named too, and is then
            replaced by the array (by the float64 weights that it was rounded from, for instance).
        keep: names of the values to return; only what they depend on is computed, and memory is freed early. None
            returns every graph input and every result of a node.
        altered: applied to each floating-point result before it is read: to measure how far a graph carries a change.

    Returns:
        The values by name. Sequences, and values inside subgraphs, are left out. Arrays may share memory with one
        another: copy before writing into them.

    Raises:
        RewriteError: an operator is not in `OPERATORS`, does not accept its inputs, or draws random numbers; an input
            is missing, unknown or of another shape or kind than the graph says; `keep` names no value.
    """
    (values,) = evaluate_each(model, (inputs,), keep=keep, altered=altered)
    return values


def evaluate_each(
    model: ir.Model,
    samples: Iterable[Mapping[str, Array]],
    *,
    keep: Collection[str] | None = None,
    observe: Callable[[int, str, Array], None] | None = None,
    altered: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[dict[str, Array]]:
    """As `evaluate`, for one sample after another; what depends on constants alone is computed once.

    Args:
        model: see `evaluate`.
        samples: the inputs of each; all name the same ones.
        keep: see `evaluate`.
        observe: called with each input and result while it is in memory: sample's index, value's name, array.
        altered: see `evaluate`.

    Yields:
        The values of each sample.

    Raises:
        RewriteError: see `evaluate`.
    """
    checked_model(model, RewriteError)
    if model.functions:
        model = model.clone()
        InlinePass()(model)
    graph = model.graph
    by_name = {value.name: value for value in _values(graph) if value.name}
    targets = [value for value in by_name.values() if not value.is_initializer() or value.is_graph_output()]
    if keep is not None:
        targets = [_named(by_name, name) for name in keep]
    opset, retained = graph.opset_imports.get("", 1), None if keep is None else frozenset(targets)
    settled: dict[ir.Value, Value] | None = None
    for index, inputs in enumerate(samples):
        fed = {}
        for name, array in inputs.items():
            value = _fed(by_name, name)
            fed[value] = _checked(value, array)
        if settled is None:  # the first sample: all name the same inputs
            settled = _constants(graph, frozenset(targets), fed.keys(), opset)
        walk = _Walk(opset, retained, altered=altered)
        walk.values = {**settled, **fed}
        walk.observe = None if observe is None else partial(observe, index)
        walk.tell(fed)
        nodes = _needed(graph, frozenset(targets), walk.values.keys())
        walk.count(nodes)
        with torch.no_grad():
            for node in nodes:
                walk.step(node)
            results = {value.name or "": walk.read(value) for value in targets}
        yield {name: value.numpy() for name, value in results.items() if isinstance(value, torch.Tensor)}


def _constants(
    graph: ir.Graph, targets: frozenset[ir.Value], fed: Collection[ir.Value], opset: int
) -> dict[ir.Value, Value]:
    """The results of nodes that depend on constants only, as far as other nodes read them: dequantized weights."""
    nodes = _needed(graph, targets, fed)
    varying = set(graph.inputs) | set(fed)
    constant: list[ir.Node] = []
    read = set(targets)
    for node in nodes:
        if varying.intersection(_read_by(node)):
            varying.update(node.outputs)
            read |= _read_by(node)
        else:
            constant.append(node)
    results = {value for node in constant for value in node.outputs}
    walk = _Walk(opset, frozenset(results & read))
    walk.count(constant)
    with torch.no_grad():
        for node in constant:
            walk.step(node)
    return {value: walk.values[value] for value in results & read}


def evaluate_alone(node: ir.Node, arrays: Sequence[Array | None], *, opset: int) -> tuple[Array, ...]:
    """Evaluates one node by itself; see `edgeconv.reference.evaluate_node`.

    Raises:
        RewriteError: see there.
    """
    walk = _Walk(opset, None, folds=True)
    operands: list[Value | None] = []
    for value, array in zip(node.inputs, arrays, strict=True):
        stated = None if value is None else value.dtype
        dtype = None if array is None else stated or ir.DataType.from_numpy(array.dtype)
        operands.append(None if array is None or dtype is None else shared(array, dtype))
    with torch.no_grad():
        results = walk.compute(node, tuple(operands))
    if not all(isinstance(result, torch.Tensor) for result in results):
        raise RewriteError(f"{node.op_type} gives a sequence", where=place_of(node))
    return tuple(
        in_type(result.numpy(), value.dtype)
        for value, result in zip(node.outputs, results, strict=False)
        if isinstance(result, torch.Tensor)
    )


class _Walk:
    """The values so far, and how many reads of each are still to come.

    Args:
        opset: version of the default ONNX domain.
        keep: values that are not freed after their last read; None frees nothing.
        folds: whether results replace nodes as constants, which must not be large.
        altered: see `evaluate`.
    """

    def __init__(
        self,
        opset: int,
        keep: frozenset[ir.Value] | None,
        *,
        folds: bool = False,
        altered: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self._folds, self._altered = folds, altered
        self.values: dict[ir.Value, Value] = {}
        self.observe: Callable[[str, Array], None] | None = None
        self._opset = opset
        self._keep = keep
        self._reads: Counter[ir.Value] = Counter()

    def count(self, nodes: list[ir.Node]) -> None:
        """Counts the reads of nodes that are to be computed."""
        self._reads.update(value for node in nodes for value in _read_by(node))

    def step(self, node: ir.Node) -> None:
        """Computes a node from the values so far."""
        arguments = tuple(None if value is None else self.read(value) for value in node.inputs)
        results = tuple(map(self._changed, self.compute(node, arguments)))
        self.values.update(zip(node.outputs, results, strict=False))
        self.tell(node.outputs)
        self._forget(node)

    def tell(self, values: Iterable[ir.Value]) -> None:
        """Passes values to the observer."""
        for value in values if self.observe is not None else ():
            result = self.values.get(value)
            if isinstance(result, torch.Tensor) and self.observe is not None:
                self.observe(value.name or "", result.numpy())

    def _changed(self, result: Value) -> Value:
        if self._altered is None or not isinstance(result, torch.Tensor) or not result.is_floating_point():
            return result
        return self._altered(result)

    def compute(self, node: ir.Node, arguments: tuple[Value | None, ...]) -> tuple[Value, ...]:
        """The results of a node."""
        operator = OPERATORS.get(node.op_type) if node.domain == "" else None
        if operator is None:
            prefix = "" if node.domain == "" else f"{node.domain}::"
            what = f"the reference has no operator {prefix}{node.op_type}"
            hint = "it is not supported: write that part of the model with other operators of ONNX"
            raise RewriteError(what, where=place_of(node), hint=hint)
        self._check_extent(node, arguments)
        try:
            result = operator(Call(node, arguments, self._opset, self._body))
        # The border to torch. The first of these have no result on any runtime; the others may be a form of the
        # operator that this reference lacks.
        except (ZeroDivisionError, IndexError, OverflowError, MemoryError) as cause:
            what = f"{node.op_type} has no result on shapes {_described(arguments, cause)}"
            raise ImpossibleError(what, where=place_of(node)) from cause
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as cause:
            what = f"{node.op_type} cannot be evaluated on shapes {_described(arguments, cause)}"
            raise RewriteError(what, where=place_of(node)) from cause
        results = result if isinstance(result, tuple) else (result,)
        return tuple(
            wrapped(computed, value.dtype) if isinstance(computed, torch.Tensor) else computed
            for value, computed in zip(node.outputs, results, strict=False)
        )

    def _check_extent(self, node: ir.Node, arguments: tuple[Value | None, ...]) -> None:
        """Refuses a result that would be too large for the memory, before it is computed."""
        elements = result_elements(node, arguments)
        most = MOST_FOLDED if self._folds and elements > largest(arguments) else MOST_ELEMENTS
        if not elements <= most:  # an estimate that is NaN is refused, too
            what = f"{node.op_type} would give {shown(elements)} elements, and at most {most:,} are computed"
            raise ImpossibleError(what, where=place_of(node), hint="make the tensor smaller")

    def read(self, value: ir.Value) -> Value:
        """A value: computed, an input, or a constant."""
        if value not in self.values:
            if value.const_value is None:
                raise RewriteError(f"nothing gives the value {value.name!r}", hint="name every graph input once")
            self.values[value] = from_ir(value.const_value)
        return self.values[value]

    def _forget(self, node: ir.Node) -> None:
        """Frees values after their last read."""
        if self._keep is None:
            return
        for value in _read_by(node):
            self._reads[value] -= 1
        # Results that nobody reads (a second output, say) go at once.
        for value in (*_read_by(node), *node.outputs):
            if self._reads[value] <= 0 and value not in self._keep:
                self.values.pop(value, None)

    def _body(self, graph: ir.Graph) -> tuple[Value, ...]:
        """The outputs of a subgraph, which may read every value of the graphs around it."""
        self.count(nodes := list(graph))
        # The last line reads its outputs.
        self._reads.update(graph.outputs)
        for node in nodes:
            self.step(node)
        return tuple(self.read(value) for value in graph.outputs)


def _described(arguments: Iterable[Value | None], cause: Exception) -> str:
    """The shapes of the operands, and the first line of torch's or numpy's message."""
    shapes = ", ".join(str(tuple(item.shape)) for item in arguments if isinstance(item, torch.Tensor))
    return f"{shapes}: {str(cause).splitlines()[0] if str(cause) else type(cause).__name__}"


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


def _read_by(node: ir.Node) -> set[ir.Value]:
    """The values that a node reads, inside its subgraphs too."""
    read = {value for value in node.inputs if value is not None}
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graph = attribute.as_graph()
            read.update(*(_read_by(inner) for inner in graph), graph.outputs)
    return read


def _needed(graph: ir.Graph, targets: frozenset[ir.Value], available: Collection[ir.Value]) -> list[ir.Node]:
    """The nodes that the targets depend on, in an order in which they can be computed."""
    # The graph is sorted: from its end backwards every reader is met before what it reads.
    needed, nodes = set(targets) - set(available), []
    for node in reversed(list(graph)):
        if needed.intersection(node.outputs):
            needed |= _read_by(node)
            nodes.append(node)
    return nodes[::-1]


def _named(by_name: Mapping[str, ir.Value], name: str) -> ir.Value:
    if name not in by_name:
        near = close_to(name, by_name, most=3, likeness=0.6)
        raise RewriteError(f"no value is named {name!r}", hint=f"the nearest are {', '.join(near)}" if near else "")
    return by_name[name]


def _fed(by_name: Mapping[str, ir.Value], name: str) -> ir.Value:
    value = _named(by_name, name)
    if not (value.is_graph_input() or value.is_initializer()):
        raise RewriteError(f"{name!r} is no input of the graph", hint="give graph inputs, or constants to replace")
    return value


def _checked(value: ir.Value, array: Array) -> torch.Tensor:
    """An input as a tensor.

    Raises:
        RewriteError: its shape or kind is not the one that the graph declares.
    """
    if value.shape is not None:
        shape = tuple(value.shape)
        sizes = zip(shape, array.shape, strict=False)
        fits = all(not isinstance(stated, int) or stated == size for stated, size in sizes)
        if len(shape) != array.ndim or not fits:
            stated_shape = "x".join(str(size) for size in shape)
            raise RewriteError(f"the shape {array.shape} is not {stated_shape}", where=f"input {value.name}")
    dtype = value.dtype or ir.DataType.from_numpy(array.dtype)
    computed_in = str(held_as(dtype)).removeprefix("torch.")
    # Not by dtype.kind, which is "V" for ml_dtypes' bfloat16.
    if not np.can_cast(array.dtype, computed_in, casting="same_kind"):
        raise RewriteError(f"an array of {array.dtype} is no {dtype.name.lower()}", where=f"input {value.name}")
    return from_numpy(array, dtype)
