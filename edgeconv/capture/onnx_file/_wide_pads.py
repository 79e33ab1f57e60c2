"""Pads that are wider than what they pad, and pools whose padding is as wide as their windows.

Of the pools, which onnxruntime and TFLite refuse:

1. Padding at the end of an axis that no window reads is removed.
2. A pool that counts its padding (LpPool, and AveragePool with ``count_include_pad``) gets a Pad before it. A window
   of padding only is 0.
3. So does a MaxPool whose windows all read an element, thanks to their dilation.
4. A window of padding only has no maximum, and no average without padding: refused.

A Pad with a list of axes, with which some files do not run, gets amounts for every axis. One that mirrors more than
there is has no numbers that the specification states, and runtimes refuse it.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.constants import integers
from edgeconv.graph.edit import is_taken
from edgeconv.graph.steps import Steps, sizes_of
from edgeconv.graph.traits import Trait, having
from edgeconv.graph.windows import stated_pads

_POOLS = having(Trait.WINDOWS | Trait.BY_CHANNEL)
_PAD_LESS = "pad less than a window on each side"


def settle_wide_pads(graph: ir.Graph) -> None:
    """Changes the pools in place by the rules above; all shapes must be static.

    Raises:
        CaptureError: rule 4, or the indices of maxima are used, which a Pad would shift; names the node.
    """
    for node in list(graph):
        if node.op_type in _POOLS and node.domain == "" and _is_wide(node):
            _trim(node)
            if _is_wide(node):
                _pad(graph, node)


def _kernel(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("kernel_shape", ()))


def _attribute(node: ir.Node, name: str, default: int) -> list[int]:
    return list(node.attributes.get_ints(name, ())) or [default] * len(_kernel(node))


def _pads(node: ir.Node) -> list[int]:
    return stated_pads(node, len(_kernel(node)))


def _is_wide(node: ir.Node) -> bool:
    return any(amount >= size for amount, size in zip(_pads(node), _kernel(node) * 2, strict=True))


def _trim(node: ir.Node) -> None:
    """Rule 1."""
    if node.attributes.get_int("ceil_mode", 0):  # less padding could make the rounded size smaller
        return
    pads, rank = _pads(node), len(_kernel(node))
    sizes = zip(sizes_of(node.inputs[0])[2:], sizes_of(node.outputs[0])[2:], strict=True)
    for axis, (size, count) in enumerate(sizes):
        # Where the last window starts, counted from the first element, and how far it reaches.
        last = (count - 1) * _attribute(node, "strides", 1)[axis] - pads[axis]
        extent = (_kernel(node)[axis] - 1) * _attribute(node, "dilations", 1)[axis] + 1
        pads[rank + axis] = max(0, last + extent - size)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)


def _reads_elements(node: ir.Node) -> bool:
    """Whether each window holds an element of the input."""
    sizes = zip(sizes_of(node.inputs[0])[2:], sizes_of(node.outputs[0])[2:], strict=True)
    for axis, (size, count) in enumerate(sizes):
        starts = np.arange(count) * _attribute(node, "strides", 1)[axis] - _pads(node)[axis]
        taps = starts[:, None] + np.arange(_kernel(node)[axis]) * _attribute(node, "dilations", 1)[axis]
        if not ((taps >= 0) & (taps < size)).any(axis=1).all():
            return False
    return True


def _pad(graph: ir.Graph, node: ir.Node) -> None:
    """Rules 2 to 4."""
    is_maximum = node.op_type == "MaxPool"
    counts = node.op_type == "LpPool" or node.attributes.get_int("count_include_pad", 0) == 1
    if is_maximum and any(map(is_taken, node.outputs[1:])):
        what = f"{node.op_type} pads as wide as its windows, and gives the places of its maxima"
        raise refused(node, what, _PAD_LESS)
    if not (_reads_elements(node) if is_maximum else counts):
        raise refused(node, f"{node.op_type} has windows of nothing but padding", _PAD_LESS)
    source, pads = node.inputs[0], _pads(node)
    if source is None or source.dtype is None:
        raise ValueError("a value without a type")  # a bug of ours: inference is strict before
    kind = source.dtype.numpy()
    lowest = -np.inf if kind.kind == "f" else np.iinfo(kind).min  # never a maximum
    rank = len(pads) // 2
    amounts = np.array([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64)
    steps = Steps(graph, node)
    operands = [steps.constant(amounts, "pads"), steps.constant(np.array(lowest if is_maximum else 0, kind), "value")]
    sizes = [size + pads[axis] + pads[rank + axis] for axis, size in enumerate(sizes_of(source)[2:])]
    node.replace_input_with(0, steps.add("padded", "Pad", [source, *operands], [*sizes_of(source)[:2], *sizes]))
    node.attributes["pads"] = ir.AttrInt64s("pads", [0] * len(pads))


_AXES = 3  # input of Pad


def settle_padded_axes(graph: ir.Graph) -> None:
    """Changes every Pad with constant amounts and axes in place; ranks must be known.

    onnxruntime's layout optimizer (1.32) moves a Transpose across a Pad and permutes the amounts as if there were two
    for each axis of the input: a file with a list of axes does not run.
    """
    for node in list(graph):
        if node.op_type == "Pad" and node.domain == "" and len(node.inputs) > _AXES:
            _spell_out(graph, node)


def _spell_out(graph: ir.Graph, node: ir.Node) -> None:
    source, amounts, _, axes = node.inputs
    if axes is None:
        node.resize_inputs(_AXES)
        return
    stated, listed = integers(amounts), integers(axes)
    if source is None or source.shape is None or stated is None or listed is None:
        return
    rank, count = len(source.shape), len(listed)
    spelled_out = np.zeros(2 * rank, np.int64)
    for at, axis in enumerate(listed):
        spelled_out[axis % rank], spelled_out[rank + axis % rank] = stated[at], stated[count + at]
    node.replace_input_with(1, Steps(graph, node).constant(spelled_out, "pads"))
    node.replace_input_with(_AXES, None)
    node.resize_inputs(_AXES)


def check_mirrored(graph: ir.Graph) -> None:
    """Checks that every Pad has the elements that it repeats; amounts must be constants, one pair for each axis.

    Negative amounts crop before anything is repeated, and an element that is mirrored at is not repeated itself.

    Raises:
        CaptureError: an axis has too few elements; names the node.
    """
    for node in list(graph):
        mode = node.attributes.get_string("mode", "constant")
        amounts = integers(node.inputs[1]) if node.op_type == "Pad" and node.domain == "" else None
        if amounts is None or mode == "constant":
            continue
        sizes = sizes_of(node.inputs[0])
        for axis, size in enumerate(sizes):
            pair = amounts[axis], amounts[len(sizes) + axis]
            left = size + sum(min(amount, 0) for amount in pair)
            most = max(left - 1, 0) if mode == "reflect" or left < 1 else math.inf
            if max(pair) > most:
                what = f"Pad takes {max(pair)} elements by mode {mode} from axis {axis}, which has {max(left, 0)}"
                raise refused(node, what, f"pad by {most} at most, or by mode constant")
