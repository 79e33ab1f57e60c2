"""Whether rounding to float32 explains how far numbers are off, and the layer that the framework computes wrongly.

"float32 itself is this far off" is a statement on a network, not an excuse for one row. It holds where moving every
number on the way by half a unit of float32 moves the outputs as far, up to `FLOAT32_TIMES`. What is further off is no
rounding: an operator of the framework that computes something else in float32 than in float64, or for another layout in
memory, which its float64 may share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from edgeconv.core import Array, Comparison, Run, Sample, Tolerance
from edgeconv.core.threads import one_thread
from edgeconv.errors import EdgeconvError
from edgeconv.flow.source import Source, TorchSource, of_shapes
from edgeconv.graph.origin import origin_of
from edgeconv.parity import FLOAT32_TIMES, Golden, float32_errors

if TYPE_CHECKING:
    import onnx_ir as ir

_DRAWS = 3  # of the signs by which numbers are moved: one may cancel
_MOST = 8  # samples: each is four evaluations in float64
_TILE = 4  # of the fast convolution that torch's kernels may use


class Explanation:
    """Explains rows of one source.

    Args:
        source: what is exported; None where it is not at hand, and what its float32 was off is asked instead.
        golden: its samples, and what it computes of them in float64.
    """

    def __init__(self, source: Source | None, golden: Golden) -> None:
        self._golden = golden
        self._moves = cache(lambda at: _stored(golden, at) if source is None else _moves(source, golden.samples[at]))
        self._layer = cache(lambda at: "" if source is None else layer_of_framework(source, golden.samples[at]))

    def beyond_rounding(self, row: Comparison) -> str:
        """What a row is beyond all that rounding to float32 explains; empty where that may explain it.

        Args:
            row: with the samples that it was judged on, the source's own or an artifact's.
        """
        at = {sample.name: index for index, sample in enumerate(self._golden.samples)}
        judged = [sample for sample in row.samples if sample.metrics is not None and sample.sample in at]
        if not judged:
            return ""
        worst = max(judged, key=lambda sample: sample.excess)
        moves = self._moves(at[worst.sample])
        error = 0.0 if worst.metrics is None else worst.metrics.max_abs
        if row.output not in moves or not error > FLOAT32_TIMES * moves[row.output]:
            return ""
        words = (
            f"rounding to float32 does not explain it: that moves {row.output} of this network by "
            f"{moves[row.output]:.3g} on {worst.sample}, and it is {error:.3g} off"
        )
        layer = self._layer(at[worst.sample])
        return f"{words}; {layer}: a fault of torch's own operator" if layer else words


def explained_by_rounding(errors: Mapping[str, Array], source: Source, golden: Golden) -> dict[str, Array]:
    """How far the source's own float32 is off, where rounding explains that; elsewhere what rounding makes of it.

    An operator that is wrong in float32 would widen the bounds of every row by what it is wrong.

    Args:
        errors: by output, (C,): see `edgeconv.parity.float32_errors`.
        source: what they are of; one that is read in a file is not asked.
        golden: its samples, and what it computes of them in float64.
    """
    default = Tolerance()
    largest = {
        name: max(float(np.max(np.abs(values[name]), initial=0.0)) for values in golden.reference.outputs)
        for name in errors
    }
    if source.is_read or not any(
        float(array.max(initial=0.0)) > default.atol + default.rtol * largest[name] for name, array in errors.items()
    ):
        return dict(errors)
    samples, moved, exact = [], [], []
    for sample in golden.samples[:_MOST]:
        for at, (outputs, others) in enumerate(_evaluations(source, sample)):
            samples += [replace(sample, name=f"{sample.name} {at}")]
            moved.append(others)
            exact.append(outputs)
    if not samples:
        return dict(errors)
    rounding = float32_errors(Run("", "", tuple(moved)), Run("", "", tuple(exact)), samples, golden.joints)
    return {
        name: rounding[name] if name in rounding and _is_beyond(array, rounding[name]) else array
        for name, array in errors.items()
    }


def _is_beyond(errors: Array, rounding: Array) -> bool:
    return errors.shape == rounding.shape and bool(errors.max() > FLOAT32_TIMES * rounding.max())


def _stored(golden: Golden, at: int) -> Mapping[str, float]:
    """How far the source's own float32 was off, as rounding explained it when the golden values were computed."""
    scale = max(1.0, golden.samples[at].scale)
    return {name: scale * float(array.max(initial=0.0)) for name, array in golden.float32.items()}


def _moves(source: Source, sample: Sample) -> Mapping[str, float]:
    """How far rounding moves each output of a sample; nothing where the graph cannot be evaluated."""
    moves: dict[str, float] = {}
    for exact, moved in _evaluations(source, sample):
        for name, array in exact.items():
            if array.dtype.kind == "f" and array.shape == moved[name].shape:
                with np.errstate(invalid="ignore"):
                    distance = np.abs(moved[name] - array)
                if np.isfinite(distance).all():
                    moves[name] = max(moves.get(name, 0.0), float(distance.max(initial=0.0)))
    return moves


def _evaluations(source: Source, sample: Sample) -> list[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    """The outputs of the graph before any rewrite in float64, and the same with every number moved, for some draws."""
    from edgeconv.parity.rewriting import moved
    from edgeconv.reference import evaluate

    try:
        model = of_shapes(source, sample).graph()
        names = [value.name or "" for value in model.graph.outputs]
        with one_thread():
            exact = evaluate(model, sample.inputs, keep=names)
        return [(exact, moved(model, sample.inputs, seed=seed)) for seed in range(_DRAWS)]
    except EdgeconvError:
        return []


def layer_of_framework(source: Source, sample: Sample) -> str:
    """The first layer that torch computes otherwise than the graph that was captured of it, on torch's own operands.

    torch is judged as any runtime is (link 4), by what its modules return. Empty where no layer is beyond its bound.
    """
    from edgeconv.parity.bounds import Arithmetic
    from edgeconv.parity.running import open_graph

    fixed = of_shapes(source, sample)
    if not isinstance(fixed, TorchSource):
        return ""
    try:
        model = fixed.graph()
        outputs, values = fixed.values_of_modules(sample)
        file = open_graph(model, Arithmetic(winograd=_TILE))
        shapes = {value.name: value.shape for node in model.graph for value in node.outputs}
        returned = {
            name: array for name, array in values.items() if name in shapes and shapes[name] == list(array.shape)
        }
        inputs = [sample.inputs[value.name or ""] for value in model.graph.inputs]
        judged = file.judge(inputs, outputs, returned)
    except EdgeconvError:
        return ""
    # Capture takes functions that float32 cannot tell apart, and rounds numbers of its own: a little more is no fault.
    layer = next((layer for layer in judged.layers if layer.used > FLOAT32_TIMES), None)
    if layer is None:
        return ""
    place = f"layer {layer.name} ({', '.join(_operations(model, layer.name, returned) or layer.operators)})"
    return (
        f"torch itself computes {place} {layer.error:.3g} from what the captured graph says of torch's own operands, "
        f"{layer.used:.3g} times its bound"
    )


def _operations(model: ir.Model, name: str, returned: Mapping[str, Array]) -> Sequence[str]:
    """torch's names of the operations between returned values and one of them, in the order of the graph."""
    needed, operations = {name}, list[str]()
    for node in reversed(list(model.graph)):
        if needed.intersection(value.name or "" for value in node.outputs):
            operations.append(origin_of(node).operation or node.op_type)
            needed |= {value.name or "" for value in node.inputs if value is not None and value.name not in returned}
    return list(dict.fromkeys(reversed(operations)))
