"""Whether a graph that another package rewrote still computes the same: on random inputs, in onnxruntime.

A rewrite that is exact in real arithmetic, ``x·a·b`` as ``x·(ab)``, moves the last bit of a float. Where a
QuantizeLinear reads it, one number in some ten thousand is then rounded to the next integer, and that is a hundred
times what floats may differ by. So graphs with roundings that differ are compared once more, in two parts: all that is
between the roundings in floats, with the pairs of QuantizeLinear and DequantizeLinear left out on both sides, and the
scales and zero points of the pairs number by number. (basic_pitch with its logarithm in float: one step in 19 of a
million numbers, and the export was refused.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from edgeconv.core import Array
from edgeconv.emit.onnx._mute import mute
from edgeconv.emit.onnx._onnxsim import onnxsim
from edgeconv.graph.integer_rules import MOVING

_ROUNDS = "QuantizeLinear"
_PAIR = (_ROUNDS, "DequantizeLinear")


def computes_the_same(rewritten: onnx.ModelProto, original: onnx.ModelProto) -> bool:
    """Whether both graphs, whose inputs and outputs have the same names, compute the same.

    Raises whatever onnx and onnxruntime raise of graphs that they cannot run.
    """
    if _is_equal(rewritten, original):
        return True
    if not any(node.op_type == _ROUNDS for node in original.graph.node):
        return False
    return _has_the_roundings(rewritten.graph, original.graph) and _is_equal(
        _without_roundings(rewritten), _without_roundings(original)
    )


def on_test_inputs(equal: Callable[[str], bool]) -> bool:
    """Compares on random inputs, which are 0 as integers; on ones where the graph divides by zero with these."""
    with mute(), own_noise():
        try:
            return equal("random")
        except Exception as error:  # onnxruntime's have no common base; all but the one go on
            if "by zero" not in str(error):
                raise
            return equal("ones")


@contextlib.contextmanager
def own_noise() -> Iterator[None]:
    """onnxsim draws its test inputs from NumPy's global generator: seeded for it, and given back as it was."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def _is_equal(rewritten: onnx.ModelProto, original: onnx.ModelProto) -> bool:
    onnxsim()  # its parts import the whole of it
    from onnxsim.model_checking import compare

    return on_test_inputs(lambda fill: bool(compare(rewritten, original, 1, input_fill=fill)))


def _has_the_roundings(rewritten: onnx.GraphProto, original: onnx.GraphProto) -> bool:
    """Whether what is rounded is rounded by the same numbers.

    Of equal operators of equal operands the rewrite may keep one.
    """
    before, after = _roundings(original), _roundings(rewritten)
    if any(name not in before or before[name].numbers != rounding.numbers for name, rounding in after.items()):
        return False
    remaining = {before[name].computation for name in after}
    return all(rounding.computation in remaining for rounding in before.values())


@dataclass(frozen=True)
class _Rounding:
    """What rounds activations, or reads what was rounded.

    Attributes:
        numbers: operator, scale and zero point.
        computation: the same for all that compute the same of the same values.
    """

    numbers: tuple[str, bytes, bytes]
    computation: Hashable


def _roundings(graph: onnx.GraphProto) -> dict[str, _Rounding]:
    """The roundings of a graph in the order of its operators, by the name of their result."""
    constants = _constants(graph)
    computations: dict[str, Hashable] = {name: _bytes(array) for name, array in constants.items()}
    roundings = {}
    for node in graph.node:
        attributes = tuple(sorted(attribute.SerializeToString() for attribute in node.attribute))
        key = hash((node.op_type, attributes, tuple(computations.get(name, name) for name in node.input)))
        computations |= {name: (key, index) for index, name in enumerate(node.output)}
        if node.op_type in _PAIR and node.input[0] not in constants:
            scale, point = (_bytes(constants.get(name)) for name in (*node.input[1:], "")[:2])
            roundings[node.output[0]] = _Rounding((node.op_type, scale, point), key)
    return roundings


def _constants(graph: onnx.GraphProto) -> Mapping[str, Array]:
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return constants


def _bytes(array: Array | None) -> bytes:
    return b"" if array is None else f"{array.dtype}{array.shape}".encode() + array.tobytes()


def _without_roundings(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which all that was rounded is a float; integers that enter it stay integers."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    widened: set[str] = set()  # that were integers: results of QuantizeLinear, and what only moves them
    for node in graph.node:
        if node.op_type == _ROUNDS or (node.op_type in _PAIR and node.input[0] in widened):
            widened.update(node.output if node.op_type == _ROUNDS else ())
            node.CopyFrom(onnx.helper.make_node("Identity", node.input[:1], node.output, node.name))
        elif node.op_type in MOVING and any(name in widened for name in node.input):
            widened.update(node.output)
    del graph.value_info[:]  # of the types of integers
    for output in graph.output:
        if output.name in widened:
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return copy
