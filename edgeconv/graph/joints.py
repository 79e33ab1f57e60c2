"""Finds the parts that the outputs of a graph are joined of.

An error relative to the largest element of a whole output would judge scores by boxes in pixels. Tolerances are
therefore relative to each part, and a variant in which a part says nothing fails.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.core import Parts
from edgeconv.graph.divisions import divisions_of


def joints_of(graph: ir.Graph) -> dict[str, tuple[Parts, ...]]:
    """The parts of each output along its axes (`edgeconv.graph.divisions`); those without any are left out.

    Where two operands of a Concat have different parts along another axis (a detector whose scales are joined of
    different parts), that axis counts as undivided.
    """
    divisions = divisions_of(graph)
    joints = {}
    for value in graph.outputs:
        axes = sorted(divisions.get(value, {}).items())
        if axes:
            joints[value.name or ""] = tuple(Parts(axis, sizes) for axis, sizes in axes)
    return joints
