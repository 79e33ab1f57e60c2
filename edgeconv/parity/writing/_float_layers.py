"""The layers of a float file of another converter: where its outputs leave the module's, and why.

Nothing here decides a verdict, which its outputs do ([_outputs.py](_outputs.py)): a converter folds and orders as it
likes, and how far a single layer may be off is not known as exactly as what all of them make of an output. Where an
output is wrong, the first layer that is clearly none of the module's is named.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeconv.core import Array
from edgeconv.core.threads import one_thread
from edgeconv.errors import EdgeconvError
from edgeconv.parity.causes import Evidence, cause_in_constants, cause_of
from edgeconv.parity.writing._alike import Alike, orders_of
from edgeconv.parity.writing._ends import HALF_UNIT, magnitude
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._layers import Ends, LayerOff, OnValues, Walk, first_wrong
from edgeconv.parity.writing._outputs import DECIDING
from edgeconv.parity.writing._real_file import RealFile

_FOLDED = 4.0  # half units that a constant may be off by: a factor, a root, a quotient and a product, each rounded
_LEAST = 2.0**-19  # of a result's largest number; a smaller error may be the rounding of biases that cancel
_MOST_TRIED = 6  # values that a result which is none of them may have to be, and results behind each other


@dataclass(frozen=True)
class Expected:
    """What a result of a file that is none of the module's values has to be.

    Attributes:
        alike: the value of the module.
        cause: why it is another one, in words.
    """

    alike: Alike
    cause: str


def layers_of_floats(file: RealFile, sample: OnValues, ends: Ends) -> list[LayerOff]:
    """Each result of a float file beside the value of the module that it is.

    Raises:
        EmitError: an operator cannot be evaluated.
        RewriteError: likewise.
    """
    deciding = {key for part in file.parts if part.operator in DECIDING for key in part.inputs}
    rounded = {
        key: _FOLDED * HALF_UNIT * np.abs(array)
        for key, array in file.constants.items()
        if _is_real(array) and key not in deciding
    }
    walk = Walk(replace(file, steps=rounded), reach=1.0, factors=False, least=_LEAST)
    return walk.layers_of_sample(sample, ends)


def first_float_fault(file: RealFile, sample: OnValues, ends: Ends, graphs: Sequence[Graph]) -> tuple[str, str] | None:
    """The first layer of a float file that computes something else than the module: tensor and line, with a cause.

    Args:
        file: on real numbers.
        sample: on which its outputs are wrong.
        ends: of the file.
        graphs: of the module, the one with most of its folds first.

    Raises:
        EmitError: an operator cannot be evaluated.
        RewriteError: likewise.
    """
    layers = layers_of_floats(file, sample, ends)
    first = _where_it_begins(first_wrong(layers, file.outputs), layers)
    if first is None:
        return None
    # What comes first may be a step of the converter's own (a padding) in front of the layer that is wrong.
    for wrong in _from(first, layers):
        expected = expected_of(wrong, file, layers, sample, graphs)
        if expected is not None:
            return file.names[wrong.tensor], f"{_told(wrong, file)}; cause: {expected.cause}"
    return file.names[first.tensor], _told(first, file)


def expected_of(
    wrong: LayerOff, file: RealFile, layers: Sequence[LayerOff], sample: OnValues, graphs: Sequence[Graph]
) -> Expected | None:
    """What a result that is no value of the module has to be, where a cause explains why it is not."""
    known = {layer.alike.value for layer in layers if layer.holds and layer.alike is not None and layer.alike.plain}
    read = () if wrong.part.operator in DECIDING else wrong.part.inputs
    stored = {file.names[key]: file.constants[key] for key in read if _is_real(file.constants.get(key))}
    return next((item for item in _explained(wrong, known, sample, graphs, stored) if item.cause), None)


def _told(wrong: LayerOff, file: RealFile) -> str:
    place = f"{wrong.part.operator} {file.names[wrong.tensor]}"
    if wrong.alike is None:
        return f"{place} is no value of the module"
    return f"{place} is {wrong.error:.3g} from the module's {wrong.alike.value}"


def _from(first: LayerOff, layers: Sequence[LayerOff]) -> list[LayerOff]:
    """A layer that is wrong, and the next ones that are computed of it and wrong."""
    found, made = list[LayerOff](), set[Hashable]()
    for layer in layers:
        if layer is first or (not layer.holds and made.intersection(layer.part.inputs)):
            found.append(layer)
            made.add(layer.tensor)
    return found[:_MOST_TRIED]


def _where_it_begins(wrong: LayerOff | None, layers: Sequence[LayerOff]) -> LayerOff | None:
    """Of a result that is no value of the module, the first that it is computed from and that is none, either."""
    off = {layer.tensor: layer for layer in layers if not layer.holds}
    while wrong is not None and wrong.alike is None:
        before = next((off[key] for key in wrong.part.inputs if key in off), None)
        if before is None:
            break
        wrong = before
    return wrong


def _is_real(array: Array | None) -> bool:
    return array is not None and array.dtype.kind == "f"


def _explained(
    wrong: LayerOff,
    known: set[str],
    sample: OnValues,
    graphs: Sequence[Graph],
    stored: Mapping[str, Array],
) -> Iterator[Expected]:
    """Each value of each graph of the module that a result may have to be, and what explains that it is not."""
    array = wrong.array
    if array is None:
        return
    for graph in graphs:
        held = {name: sample.values[name] for name in known & graph.named}
        order = [value.name or "" for node in graph.model.graph for value in node.outputs]
        free = [name for name in order if name in sample.values and name not in held]
        alike = [name for name in free if sample.values[name].size == array.size]
        expected = [wrong.alike] if wrong.alike is not None and wrong.alike.value in alike else []
        # The last first: a layer with its activation, before the layer alone, to which one would have been added.
        others = (Alike(name, axes) for name in alike[:_MOST_TRIED][::-1] for axes in orders_of(sample.values[name]))
        for due in [*expected] or [*others]:
            yield Expected(due, _cause(due, array, held, sample, graph, stored))


def _cause(
    due: Alike,
    array: Array,
    held: Mapping[str, Array],
    sample: OnValues,
    graph: Graph,
    stored: Mapping[str, Array],
) -> str:
    """What explains a result that has to be this value; the file's own constants last."""
    shape = sample.values[due.value].shape
    actual = array.reshape([shape[axis] for axis in due.axes]).transpose(np.argsort(due.axes))
    try:
        with one_thread():
            piece = graph.piece(due.value, sample.inputs, held, {})
            bound = _LEAST * magnitude(piece.expected)
            evidence = Evidence(actual, bound, _LEAST)
            return cause_of(piece, evidence, others=held) or cause_in_constants(piece, evidence, stored)
    except EdgeconvError:  # it has subgraphs, or the result is none of this graph's
        return ""
