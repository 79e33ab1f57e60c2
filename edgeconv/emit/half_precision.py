"""What float16 cannot compute: the operators of a graph that stay float32 in a file of half precision.

float16 ends at 65504 and its steps at 6e-8. So a guard of 1e-12 is 0 in it, a square of 1e-4 too, and the sum of a few
thousand numbers is infinite. Which operators that concerns is much what automatic mixed precision keeps in float32:
squares, sums, exponentials, logarithms, norms, and every operator with a constant that float16 does not hold. From
there the region reaches forwards to the operator that brings its numbers back to an ordinary size, a division by the
norm, a logarithm, a softmax; and backwards over what nothing else reads. Operators that capture marked as an
operation written out (`WRITTEN_OUT`: the products of an inverse) are among them, whatever their type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.precision import FLOAT16_LARGEST, to_float16
from edgeconv.graph.edit import LOG1P, WRITTEN_OUT, constant
from edgeconv.graph.traits import Trait, having, having_any

_LOST = 2.0**-9  # of the largest element: four times what rounding to float16 costs a number that it holds
_LONG = 1024  # elements whose sum float16 may not hold where their mean is an ordinary number
_SMALLEST_EPSILON = 1e-7

_ON_THE_WAY = frozenset(
    {"GroupNormalization", "InstanceNormalization", "LpNormalization", "MeanVarianceNormalization"}
    | {"Mish", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "Softplus"}
)
"""Operators whose squares, sums or exponentials leave float16 where their results do not."""

_SEEDS = having(Trait.BEYOND_FLOAT16) | _ON_THE_WAY | {"Log"}  # float16 makes zero of the 1e-12 that a logarithm is of
"""Operators whose results, or what they compute on the way, leave float16 for ordinary operands: a region starts here.
"""

_NO_HALVES = frozenset({"Celu", "DynamicQuantizeLinear", "IsInf", "Range", "ScatterElements"})
"""Operators that ONNX (in some versions of it) or onnxruntime's CPU kernels (scatters that combine) have for float32
alone; ScatterND is one of them where it has a reduction."""

_STASHED = frozenset({"LayerNormalization", "RMSNormalization"})
"""Norms that compute in float32 by themselves, after the specification (``stash_type``)."""

_EPSILON = _STASHED | {"BatchNormalization"}
"""Norms without squares in float16; their epsilon may be too small for it."""

_MEANS = having(Trait.AVERAGES)

_POSITIONS = {"GridSample": 1}
"""Operands that are positions: float16 is half a pixel off beyond 1024 of them."""

_ORDINARY = having_any([Trait.BOUNDED, Trait.SCALE_INVARIANT]) | {"BatchNormalization"}
"""Operators whose results are of an ordinary size, whatever they read: a region ends here. (Batch norms were trained
to give such.)"""

_CHEAP = (
    having_any([Trait.FUNCTION, Trait.BROADCASTS, Trait.MOVES, Trait.PICKS, Trait.AVERAGES]) | {"Pad", "Trilu"}
) - (_SEEDS | _ORDINARY)
"""Operators that cost little in float32, and whose results may be as large or small as their operands."""

_FOLLOWING = _MEANS | _NO_HALVES | {"ScatterND"} | (having(Trait.NO_LARGER) - _CHEAP)
"""Operators whose results are of an ordinary size where their operands are."""

_CHOOSING = having_any([Trait.MOVES, Trait.PICKS, Trait.IDENTITY_ABOVE_ZERO])
_CHOOSING |= {"Clip", "Neg", "Pad", "ScatterND", "Trilu", "Where"}
"""Operators whose results are elements of their operands, or constants; or near enough to be compared with them."""

_TELLING = having_any([Trait.COMPARES, Trait.PIECEWISE_CONSTANT])
"""Operators whose results jump where their operands differ by a rounding error."""
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)

_LIMITING = having(Trait.COMPARES) | {"Clip", "Max", "Min", "Where"}
"""Operators whose constants may be limits: a difference from them may be what a quotient or a logarithm is of."""

_BOUNDS = {"Clip": (1, 2), "Max": None, "Min": None}
"""Operands (by index; None: all) that are bounds: one beyond float16's range bounds nothing in it, and may be."""


def is_held(array: Array, *, bound: bool = False) -> bool:
    """Whether float16 holds a constant as well as float16 holds anything.

    Single small elements beside large ones do not count: they are as lost in a sum.
    """
    finite = array[np.isfinite(array)].astype(np.float64)
    largest = float(np.max(np.abs(finite), initial=0.0))
    if bound and largest > FLOAT16_LARGEST:
        return True
    return (
        largest <= FLOAT16_LARGEST
        and float(np.max(np.abs(finite - to_float16(finite)), initial=0.0)) <= _LOST * largest
    )


def is_limit_beside_one(array: Array) -> bool:
    """Whether a constant is a number beside 1 or -1 that float16 makes 1: as a limit it keeps 1 - x from being 0."""
    numbers = np.unique(np.abs(array))
    return numbers.size == 1 and float(numbers[0]) != 1 and float(to_float16(numbers)[0]) == 1


def float32_region(graph: ir.Graph, *, tflite: bool = False) -> dict[ir.Node, str]:
    """The operators that stay float32, and why the first of each region does ("" for those around it).

    Args:
        graph: float32.
        tflite: as XNNPACK computes it: norms are spelled out, and means are added up in float32.
    """
    region = {node: why for node in graph if (why := _why(node, tflite))}
    reciprocals: set[ir.Value] = set()
    # 1. Forwards, in the graph's order: what reads a number of any size belongs to the region, until a division, a
    # logarithm or a norm brings the numbers back to an ordinary size.
    for node in graph:
        opens = any(value is not None and _is_open(value, region) for value in node.inputs)
        if opens and node.op_type not in ("Shape", "Size"):
            region.setdefault(node, "")
        if node in region:
            _note_size(node, reciprocals, region)
    # 2. Comparisons that onnxruntime would give one rounded and one unrounded operand.
    if not tflite:
        for node in _self_comparisons(graph):
            region.setdefault(node, "numbers are compared with themselves" if _tells(node) else "")
    # 3. Backwards: cheap operators that only the region reads join it, so that it reads unrounded numbers.
    for node in reversed(list(graph)):
        if node in region or node.op_type not in _CHEAP | _ORDINARY:
            continue
        floats = [value for value in node.outputs if value.dtype == ir.DataType.FLOAT and value.uses()]
        shown = any(value.is_graph_output() for value in node.outputs)
        if (
            floats
            and not shown
            and all(_reads_exactly(use.node, use.idx, region) for value in floats for use in value.uses())
        ):
            region[node] = ""
    for node in graph:
        node.meta.pop(_ORDINARY_SIZE, None)
    return region


def places(graph: ir.Graph) -> set[ir.Node]:
    """The operators that compute or read places in an image: GridSample, and what leads to its grid."""
    nodes: set[ir.Node] = set()
    for node in graph:
        if (index := _POSITIONS.get(node.op_type)) is None:
            continue
        nodes.add(node)
        waiting = [node.inputs[index]]
        while waiting:
            value = waiting.pop()
            producer = value.producer() if value is not None and value.dtype != ir.DataType.BOOL else None
            if producer is not None and producer not in nodes and producer.op_type in _CHEAP | _ORDINARY:
                nodes.add(producer)
                waiting += producer.inputs
    return nodes


def _self_comparisons(graph: ir.Graph) -> list[ir.Node]:
    """Comparisons of numbers with others chosen among the same ones (``x == max_pool(x)``), and what chooses them.

    So is ``x - max_pool(x) >= 0`` one, and ``floor(x / x.amax())``.
    onnxruntime computes in float32 what it has no float16 kernel for, and leaves out the casts between two such
    operators. So one operand may reach the comparison rounded and the other not, and no number is equal to itself.
    """
    nodes: list[ir.Node] = []
    for node in graph:
        for operands, between in _compared(node) if _tells(node) else ():
            (left, left_sources), (right, right_sources) = (_chosen_from(value) for value in operands)
            if left_sources & right_sources and (left or right):
                nodes += [node, *between, *left, *right]
    return nodes


def _tells(node: ir.Node) -> bool:
    """Whether an operator's results are others for numbers that differ by a rounding error."""
    to_integers = node.op_type == "Cast" and node.outputs[0].dtype not in _FLOATS
    return node.op_type in _TELLING or to_integers


def _compared(node: ir.Node) -> Iterator[tuple[Sequence[ir.Value | None], list[ir.Node]]]:
    """The pairs of operands that an operator tells apart, and the operators from there to it."""
    compares = node.op_type in having(Trait.COMPARES)
    if compares:
        yield node.inputs[:2], []
    if compares and not any(constant(value) is not None for value in node.inputs[:2]):
        return
    for operand in node.inputs[:2]:
        choosing, sources = _chosen_from(operand)
        for value in sources:
            maker = value.producer()
            if maker is not None and maker.op_type in ("Sub", "Div"):
                yield maker.inputs[:2], [maker, *choosing]


def _chosen_from(operand: ir.Value | None) -> tuple[dict[ir.Node, None], set[ir.Value]]:
    """The operators that chose a value's elements, and the values that they were computed as."""
    choosing: dict[ir.Node, None] = {}
    sources: set[ir.Value] = set()
    waiting = [operand]
    while waiting:
        value = waiting.pop()
        if value is None or value.dtype != ir.DataType.FLOAT:
            continue
        node = value.producer()
        if node is None or node.op_type not in _CHOOSING:
            if constant(value) is None:
                sources.add(value)
        elif node not in choosing:
            choosing[node] = None
            waiting += node.inputs
    return choosing, sources


def _reads_exactly(node: ir.Node, index: int, region: dict[ir.Node, str]) -> bool:
    position = _POSITIONS.get(node.op_type)
    return node in region and (position is None or index == position)


_ORDINARY_SIZE = "edgeconv.ordinary_size"


def _is_open(value: ir.Value, region: dict[ir.Node, str]) -> bool:
    """Whether a value of the region may be of any size."""
    node = value.producer()
    return node is not None and node in region and not node.meta.get(_ORDINARY_SIZE, False)


def _note_size(node: ir.Node, reciprocals: set[ir.Value], region: dict[ir.Node, str]) -> None:
    """Says of an operator of the region whether its results are of an ordinary size."""
    # 1 / x, 2 / x and x^-2 of a number of any size are of any size, too; x times such is a division.
    inverse = node.op_type == "Reciprocal" or (node.op_type == "Div" and constant(node.inputs[0]) is not None)
    inverse |= node.op_type == "Pow" and ((power := constant(node.inputs[1])) is not None and bool((power < 0).all()))
    handed_on = node.op_type in _CHEAP - having(Trait.AFFINE) and node.inputs[0] in reciprocals
    if inverse or handed_on:
        reciprocals.update(node.outputs)
    divides = node.op_type == "Div" and not inverse and constant(node.inputs[1]) is None
    divides |= node.op_type == "Mul" and any(value in reciprocals for value in node.inputs)
    if node.op_type in _FOLLOWING:
        operands = [value for index, value in enumerate(node.inputs) if index != _POSITIONS.get(node.op_type)]
        is_ordinary = all(value is None or _is_ordinary(value, region) for value in operands)
    else:
        is_ordinary = divides or node.op_type not in _CHEAP | _SEEDS or node.op_type in _ORDINARY
        is_ordinary |= node.op_type == "Where" and node.metadata_props.get(WRITTEN_OUT) == LOG1P
    node.meta[_ORDINARY_SIZE] = is_ordinary


def _is_ordinary(operand: ir.Value, region: dict[ir.Node, str]) -> bool:
    array = constant(operand)
    return is_held(array) if array is not None and array.dtype == np.float32 else not _is_open(operand, region)


def _why(node: ir.Node, tflite: bool) -> str:
    """Why an operator cannot be computed in float16; empty where it can."""
    if tflite and node.op_type == "Div" and node.outputs[0].dtype == ir.DataType.INT64:
        return "quotients of integers leave float16"
    gives_floats = any(value.dtype == ir.DataType.FLOAT for value in node.outputs)
    reads_floats = any(value is not None and value.dtype == ir.DataType.FLOAT for value in node.inputs)
    is_by_type = gives_floats or (reads_floats and node.op_type in _NO_HALVES)
    if is_by_type and (reason := _why_by_type(node, tflite)) is not None:
        return reason
    if not gives_floats and node.op_type not in _TELLING:  # a comparison with 1e-8 reads it as 0, whatever it gives
        return ""
    if node.op_type in _EPSILON and node.attributes.get_float("epsilon", 1e-5) < _SMALLEST_EPSILON:
        return "its epsilon is 0 in float16"
    if not tflite and node.op_type in _MEANS and _elements(node) > _LONG:
        return "the sum of so many numbers leaves float16"
    places = _BOUNDS.get(node.op_type, ())
    for index, value in enumerate(node.inputs):
        array = constant(value)
        if array is None or array.dtype != np.float32:
            continue
        if node.op_type in _LIMITING and is_limit_beside_one(array):
            return f"float16 makes 1 of its constant {value.name if value else ''!r}"
        # A bound of 1e9 is as good as float16's end; a factor of 1e9 is not.
        if not is_held(array, bound=places is None or index in places):
            largest = float(np.max(np.abs(array[np.isfinite(array)]), initial=0.0))
            return f"float16 does not hold its constant {value.name if value else ''!r} of {largest:.3g}"
    return ""


def _why_by_type(node: ir.Node, tflite: bool) -> str | None:
    """Why an operator cannot be computed in float16 whatever its constants and sizes are."""
    if (operation := node.metadata_props.get(WRITTEN_OUT)) is not None:
        return f"what {operation} computes on its way leaves float16"
    if node.op_type in _SEEDS or node.op_type in _POSITIONS:
        return f"{node.op_type} leaves float16"
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1]:
        return "a square leaves float16"
    combines = node.op_type == "ScatterND" and node.attributes.get_string("reduction", "none") != "none"
    if not tflite and (combines or node.op_type in _NO_HALVES):
        return "onnxruntime has it in float32 alone"
    if tflite and node.op_type in _STASHED:
        return "squares leave float16"
    return None


def _elements(node: ir.Node) -> int:
    """How many elements a mean is of."""
    source, result = (value.shape for value in (node.inputs[0], node.outputs[0]) if value is not None)
    if source is None or result is None or not (source.is_static() and result.is_static()):
        return 0
    if node.op_type == "AveragePool":
        return int(np.prod(node.attributes.get_ints("kernel_shape", (1,))))
    return int(np.prod(source.numpy())) // max(1, int(np.prod(result.numpy())))
