"""Checks of a file that do not depend on its operators, and that onnx's checker does not make.

Files may be damaged, or be made to exhaust memory and time. Later stages rely on what is checked here: names are UTF-8,
element types exist, attributes are in range, functions end, and nothing is too deep or too large.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import onnx

from edgeconv.errors import CaptureError, EdgeconvError, is_own_fault
from edgeconv.reference import MOST_ELEMENTS

STANDARD = ("", "ai.onnx")
"""The names of the default domain."""
MOST_NODES = 15_000
"""Nodes after functions are inlined: ten functions that each call the next one ten times make 10^10.

Conversion takes half a millisecond per node, so that a hostile file ends within 10 s. The largest networks of the field
(detectors, unrolled recurrences) have about 5,000.
"""
MOST_PARTS = 2**20
"""Operands of a Concat of Concats."""
MOST_NESTED = 8
"""Depth of subgraphs inside of subgraphs."""
_LARGEST = 2**31 - 1  # of sizes, strides and the like, which both formats and every runtime hold as int32
# Operators with attributes of any integer: values, seeds, ends of slices.
_ANY_INTEGER = frozenset({"Constant", "Slice", "Cast", "RandomUniform", "RandomNormal", "Dropout", "Bernoulli"})
_POSITIVE = frozenset(
    {"strides", "dilations", "kernel_shape", "group", "blocksize", "num_groups", "hidden_size", "size"}
)
_SMALL = 64  # elements up to which a constant may be a shape
_MOST_WRITTEN = 10**15  # a larger count is not written out in a message
_HINT = "correct the model, or export it again"
_Key = tuple[str, str, str]
"""Domain, name and overload of a function."""


class _Extent(NamedTuple):
    """The size of a graph after its functions are inlined: number of nodes, and depth of nested subgraphs."""

    nodes: int
    depth: int


_ONE_NODE = _Extent(nodes=1, depth=0)


@contextmanager
def whatever_it_brings(path: Path) -> Iterator[None]:
    """Maps any foreign exception inside of the block to a `CaptureError` about the file.

    The libraries that read a graph (onnx, onnx_ir, numpy, protobuf) raise classes of their own for damaged files.

    Raises:
        CaptureError: for any exception, except this project's own and those that show a bug in it.
    """
    try:
        yield
    except EdgeconvError:
        raise
    except Exception as error:  # the border: see above
        if is_own_fault(error):
            raise
        message = " ".join(str(error).split())[:160] or "no words"
        what = f"it cannot be converted ({type(error).__name__}: {message})"
        hint = "run it on onnxruntime, and fix what that refuses or warns of"
        raise CaptureError(what, where=str(path), hint=hint) from error


def check_sound(proto: onnx.ModelProto, where: str) -> None:
    """Makes the checks that the file's docstring lists, except those of sizes.

    Raises:
        CaptureError: one fails; says which, and where.
    """
    check_functions(proto, where)
    for node in every_node(proto.graph):
        _check_references(node, where)
    for graph, depth in _graphs(proto):
        if depth > MOST_NESTED:
            raise CaptureError(f"it nests subgraphs more than {MOST_NESTED} deep", where=where, hint="flatten them")
        if isinstance(graph, onnx.GraphProto):
            _check_constants(graph, where)
        if depth and isinstance(graph, onnx.GraphProto):
            _check_values(graph, where)
        if isinstance(graph, onnx.FunctionProto):
            _check_texts(graph.attribute_proto, f"{where}: function {graph.name!r}")
        _check_joins(graph, where)
        for node in graph.node:
            _check_node(node, where)
        for name in _names(graph):
            if not isinstance(name, str):
                raise CaptureError(f"the name {name!r:.60} is not UTF-8", where=where, hint="give it another one")


def open_sizes(proto: onnx.ModelProto) -> None:
    """Makes negative declared sizes unknown: onnx's shape inference crashes the process on some of them."""
    for graph, _ in _graphs(proto):
        interface = (*graph.input, *graph.output) if isinstance(graph, onnx.GraphProto) else ()
        for value in (*interface, *graph.value_info):
            kind = value.type
            while (inner := kind.WhichOneof("value")) in ("sequence_type", "optional_type"):
                kind = getattr(kind, inner).elem_type
            for dim in kind.tensor_type.shape.dim if inner == "tensor_type" else ():
                if dim.dim_value < 0:
                    dim.ClearField("dim_value")


def _graphs(proto: onnx.ModelProto) -> Iterator[tuple[onnx.GraphProto | onnx.FunctionProto, int]]:
    """Every graph of a model with its depth; iteratively, as a hostile file may nest deeper than Python recurses."""
    yield from _inside(proto.graph)
    for function in proto.functions:
        yield from _inside(function)


def _inside(
    outermost: onnx.GraphProto | onnx.FunctionProto,
) -> Iterator[tuple[onnx.GraphProto | onnx.FunctionProto, int]]:
    waiting = [(outermost, 0)]
    while waiting:
        graph, depth = waiting.pop()
        yield graph, depth
        waiting += [(inner, depth + 1) for node in graph.node for inner in graphs_of(node)]


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs among the attributes of a node, without those inside them."""
    for attribute in node.attribute:
        yield from attribute.graphs
        if attribute.HasField("g"):
            yield attribute.g


def every_graph(
    graph: onnx.GraphProto | onnx.FunctionProto,
) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """A graph and all graphs inside it: branches of If, bodies of loops."""
    for inner, _ in _inside(graph):
        yield inner


def every_node(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of all graphs inside it."""
    for inner in every_graph(graph):
        yield from inner.node


def _names(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[object]:
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    if isinstance(graph, onnx.GraphProto):
        yield from (item.name for several in (graph.input, graph.output, graph.initializer) for item in several)
        for value in (*graph.input, *graph.output):
            yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)


def _check_values(graph: onnx.GraphProto, where: str) -> None:
    """Checks that declared values of a subgraph are tensors; `_read` checks inputs and outputs of the main graph."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.WhichOneof("value")
        has_type = kind is None or value.type.tensor_type.elem_type in onnx.TensorProto.DataType.values()
        if kind not in (None, "tensor_type") or not has_type:
            raise CaptureError(f"{value.name!r} of a subgraph is no tensor", where=where, hint=_HINT)


def _check_constants(graph: onnx.GraphProto, where: str) -> None:
    """Checks the element types of initializers: they exist, and agree with a declaration of the same name."""
    stated = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)
    }
    for tensor in graph.initializer:
        _check_tensor(tensor, where)
        declared = stated.get(tensor.name, 0)
        if declared not in (0, tensor.data_type):
            is_known = declared in onnx.TensorProto.DataType.values()
            types = [onnx.TensorProto.DataType.Name(tensor.data_type).lower()]
            types.append(onnx.TensorProto.DataType.Name(declared).lower() if is_known else str(declared))
            what = f"the tensor {tensor.name!r} is of {types[0]}, and is declared as of {types[1]}"
            raise CaptureError(what, where=where, hint=_HINT)


def _check_tensor(tensor: onnx.TensorProto, where: str) -> None:
    if tensor.data_type not in onnx.TensorProto.DataType.values() or not tensor.data_type:
        what = f"the tensor {tensor.name!r} is of the element type {tensor.data_type}, which there is not"
        raise CaptureError(what, where=where, hint=_HINT)


def _check_node(node: onnx.NodeProto, where: str) -> None:
    place = f"{where}: node {node.name or ', '.join(map(str, node.output))}"
    _check_texts(node.attribute, place)
    for attribute in node.attribute:
        numbers = [*attribute.ints, *([attribute.i] if attribute.type == onnx.AttributeProto.INT else [])]
        if attribute.HasField("t"):
            _check_tensor(attribute.t, place)
        if node.op_type in _ANY_INTEGER or node.domain not in STANDARD:
            continue
        name = attribute.name
        wrong = [number for number in numbers if abs(number) > _LARGEST or (name in _POSITIVE and number < 1)]
        if wrong:
            raise CaptureError(f"{node.op_type} has {name} {wrong[0]}", where=place, hint=_HINT)
        if name == "perm" and sorted(numbers) != list(range(len(numbers))):
            what = f"{node.op_type} has perm {numbers[:16]}, which names no axes in another order"
            raise CaptureError(what, where=place, hint=_HINT)


def _check_texts(attributes: Iterable[onnx.AttributeProto], where: str) -> None:
    for attribute in attributes:
        for text in (attribute.s, *attribute.strings):
            try:
                text.decode()
            except UnicodeDecodeError as error:
                what = f"its attribute {attribute.name!r} is not UTF-8 at byte {error.start}"
                raise CaptureError(what, where=where, hint=_HINT) from error


def _check_references(node: onnx.NodeProto, where: str) -> None:
    """Refuses references to attributes of a function in nodes outside of functions."""
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            what = f"{node.op_type} takes its {attribute.name!r} from a function's {attribute.ref_attr_name!r}"
            place = f"{where}: node {node.name or ', '.join(map(str, node.output))}"
            raise CaptureError(f"{what}, and stands in none", where=place, hint=_HINT)


def check_extents(proto: onnx.ModelProto, where: str) -> None:
    """Checks that no value has more elements than `MOST_ELEMENTS`.

    This comes before onnx's full inference, which also propagates integer values, and takes minutes for a range of
    10^9. Here only shapes are inferred, and weights are replaced by inputs of their shapes.

    Raises:
        CaptureError: a value is too large.
    """
    light = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    graph = light.graph
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    stated = {value.name for value in graph.input}
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in stated:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    try:
        inferred = onnx.shape_inference.infer_shapes(light, check_type=False, strict_mode=False, data_prop=False)
    except Exception:  # noqa: BLE001  (onnx's classes have no common base; contradictions are reported later, by node)
        return
    for value in inferred.graph.value_info:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        if math.prod(size for size in sizes if size > 0) > MOST_ELEMENTS:
            what = f"it has {math.prod(sizes):,} elements, and at most {MOST_ELEMENTS:,} are computed"
            raise CaptureError(what, where=f"{where}: value {value.name}", hint="make the tensor smaller")


def _check_joins(graph: onnx.GraphProto | onnx.FunctionProto, where: str) -> None:
    """Refuses chains of Concat that double their operands: onnx's inference would propagate all of their values."""
    parts: dict[str, int] = {}
    for node in graph.node:
        if node.op_type == "Concat":
            parts[node.output[0] if node.output else ""] = total = sum(parts.get(name, 1) for name in node.input)
            if total > MOST_PARTS:
                what = f"Concat joins {total:,} parts, and at most {MOST_PARTS:,} are taken"
                raise CaptureError(what, where=f"{where}: node {node.name or node.output[0]}", hint=_HINT)


def check_functions(proto: onnx.ModelProto, where: str) -> None:
    """Checks functions: none has the name of an ONNX operator or calls itself, and inlined they are not too large.

    Raises:
        CaptureError: one of that does not hold.
    """
    for function in proto.functions:
        if function.domain in STANDARD and onnx.defs.has(str(function.name)):
            what = f"its function {function.name!r} takes the place of the operator of ONNX of that name"
            raise CaptureError(what, where=where, hint="rename the function, or give it a domain of its own")
    bodies = {(function.domain, function.name, function.overload): function for function in proto.functions}
    extents: dict[_Key, _Extent] = {}
    for start in bodies:
        _measure(start, bodies, extents, where)
    total = _extent(proto.graph, extents)
    if total.nodes > MOST_NODES:
        count = f"{total.nodes:,}" if total.nodes < _MOST_WRITTEN else f"more than {_MOST_WRITTEN:,}"
        how, hint = " once its functions are dissolved", "export it without functions"
        if not bodies:
            how, hint = "", "simplify it with onnxsim, or export the network in parts"
        what = f"it has {count} nodes{how}, and at most {MOST_NODES:,} are converted"
        raise CaptureError(what, where=where, hint=hint)
    if bodies and total.depth > MOST_NESTED:
        what = f"it nests subgraphs more than {MOST_NESTED} deep once its functions are dissolved"
        raise CaptureError(what, where=where, hint="export it without functions")


def _measure(start: _Key, bodies: Mapping[_Key, onnx.FunctionProto], extents: dict[_Key, _Extent], where: str) -> None:
    """Computes the extent of a function after those of the functions that it calls, depth first without recursion."""
    waiting, open_ = [start], set()  # a stack, and the functions on it whose callees are being measured
    while waiting:
        key = waiting[-1]
        if key in extents:
            open_.discard(waiting.pop())
            continue
        called = {_called(node) for node in every_node(bodies[key])} & bodies.keys()
        missing = [callee for callee in called if callee not in extents]
        if key in open_ and any(callee in open_ for callee in missing):
            raise CaptureError(f"the function {key[1]!r} calls itself", where=where, hint="export it without functions")
        open_.add(key)
        if missing:
            waiting += missing
            continue
        extents[key] = _extent(bodies[key], extents)


def _extent(graph: onnx.GraphProto | onnx.FunctionProto, extents: Mapping[_Key, _Extent]) -> _Extent:
    """The extent of a graph, from the extents of the functions that it calls."""
    nodes, deepest = 0, 0
    for inner, depth in _inside(graph):
        extents_inside = [extents.get(_called(node), _ONE_NODE) for node in inner.node]
        nodes += sum(extent.nodes for extent in extents_inside)
        deepest = max([deepest, depth, *(depth + extent.depth for extent in extents_inside)])
    return _Extent(nodes, deepest)


def _called(node: onnx.NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload
