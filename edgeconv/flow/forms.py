"""The module in each form that another converter may have it in, and what these compute of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from edgeconv.core import Array, Sample
from edgeconv.core.threads import one_thread
from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeconv.parity.writing import OnValues

FACTORS = (1.0, 16.0)  # of the sample that layers are judged on: clamps are passed by the larger
_MERGING = (
    *("merge-branches", "pool-first", "merge-chains", "fold-ahead", "fold-padding", "average-by-matrices"),
    *("absorb-channel-moves", "split-multipliers", "carry-through", "keep-steps", "merge-common"),
)
"""Rewrites that make other constants of several; most converters fold normalizations, and merge nothing."""


def forms_of(captured: ir.Model, rewritten: ir.Model) -> tuple[ir.Model, ...]:
    """As captured, with normalizations folded, and with all rewrites."""
    return captured, optimize(captured.clone(), skip=_MERGING), rewritten


def on_values(graphs: Sequence[ir.Model], sample: Sample) -> list[OnValues]:
    """A sample times each of `FACTORS`, and what the graphs make of it in float64."""
    from edgeconv.parity.writing import OnValues

    enlarged = []
    for factor in FACTORS:
        inputs = scaled(sample, factor).inputs
        values = {name: array.astype(np.float64) for name, array in inputs.items()}
        for graph in graphs:
            names = [value.name or "" for node in graph.graph for value in node.outputs]
            with one_thread():
                values = {**evaluate(graph, inputs, keep=names), **values}
        enlarged.append(OnValues(inputs, values))
    return enlarged


def scaled(sample: Sample, factor: float) -> Sample:
    """A sample with its real numbers times a factor."""

    def times(array: Array) -> Array:
        return np.asarray(array * np.float32(factor)) if array.dtype.kind == "f" else array

    return replace(sample, inputs={name: times(array) for name, array in sample.inputs.items()})
