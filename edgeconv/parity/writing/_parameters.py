"""Scales, zero points and types of a file beside the graph's: what differs needs no evaluation, and no hypothesis."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeconv.core.precision import to_float32
from edgeconv.parity.writing._constants import Matching
from edgeconv.parity.writing._file import File
from edgeconv.parity.writing._held import Graph


def parameter_faults(graph: Graph, file: File, matching: Matching) -> tuple[tuple[str, str], ...]:
    """Tensor and one line, of each scale, zero point and type that is not the graph's or does not follow from others.

    Args:
        graph: that the file was written from.
        file: the file, read back.
        matching: which constant of the graph each of the file's is.
    """
    of_constants = (*_other_scales(graph, file, matching), *_other_units(graph, file, matching))
    return (*_of_quantized(graph, file), *of_constants, *file.misread())


def _of_quantized(graph: Graph, file: File) -> Iterator[tuple[str, str]]:
    for tensor, name, scale, zero in file.quantized():
        if name in graph.quantizers:
            due = graph.parameters(name)
            pairs = (("scale", scale, due[0]), ("zero point, from the least integer,", zero, due[1]))
            for what, held, stated in pairs:
                if held != stated:
                    yield tensor, f"tensor {tensor}: its {what} is {held:.9g}, the graph's {name} has {stated:.9g}"


def _other_scales(graph: Graph, file: File, matching: Matching) -> Iterator[tuple[str, str]]:
    """Floats of the graph's that a file has as integers of one scale: it is the largest number's share."""
    for name, other in matching.partners.items():
        held, due = file.constants[name], graph.constants[other]
        if other not in matching.rounded or len(np.unique(file.half_steps(name))) > 1:
            continue
        if held.dtype != np.float64 or due.dtype == np.float64 or held.size != due.size:
            continue
        exact = np.zeros(held.shape)  # in the file's order: rounding keeps which number is the larger
        exact.put(np.argsort(held, axis=None, kind="stable"), np.sort(due.astype(np.float64), axis=None))
        wrong = np.flatnonzero(~file.is_stored(name, exact, np.zeros(held.shape)))
        if wrong.size and np.isfinite(due).all():
            numbers = f"{held.flat[wrong[0]]:.9g}, which its scale does not make of {exact.flat[wrong[0]]:.9g}"
            yield name, f"constant {name}: of the numbers of the graph's {other} it has {numbers}"


def _other_units(graph: Graph, file: File, matching: Matching) -> Iterator[tuple[str, str]]:
    """Integers that the file has in another type, as many steps each: the step is the graph's, to the last unit.

    With the same step, they are as many: a wrong zero point lets them saturate before.
    """
    for name, other in matching.partners.items():
        due, step = graph.constants[other], graph.constant_steps.get(other)
        if step is None or other not in matching.rounded or other in graph.terms:
            continue
        held, own = file.constants[name], 2 * file.half_steps(name)
        counts, due_counts = (np.sort(np.rint(array), axis=None) for array in (held / own, due / step))
        scales, due_scales = (np.unique(to_float32(unit)) for unit in (own, step))
        if np.array_equal(counts, due_counts) and not np.array_equal(scales, due_scales):
            yield name, f"constant {name}: its scale is {scales[0]:.9g}, that of the graph's {due_scales[0]:.9g}"
        elif np.array_equal(scales, due_scales) and not np.array_equal(counts, due_counts):
            at = int(np.flatnonzero(counts != due_counts)[0])
            away = f"{counts[at]:g} steps from zero, and the graph's {due_counts[at]:g}"
            yield name, f"constant {name}: a number of it is {away}, of the same scale"
