"""Changes of the float graph before it is quantized: what was made of it computes the same."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.verdicts import LinkResult, Verdict
from edgeconv.graph.constants import clip_bounds
from edgeconv.parity.quantizing._alongside import Alongside
from edgeconv.parity.quantizing._origin import Change, Holds
from edgeconv.parity.quantizing._place import Place
from edgeconv.parity.rewriting import rewriting
from edgeconv.parity.writing import GAMMA, Graph, errors, magnitude

_RELU6 = (0.0, 6.0)


def change_fault(change: Change, inputs: Mapping[str, Array]) -> Place | None:
    """What a change has done besides; None where both graphs compute the same as far as they are to.

    Args:
        change: of the float graph.
        inputs: of one sample, by name, for a change that holds on any.

    Raises:
        RewriteError: a graph cannot be evaluated.
    """
    if change.holds is Holds.BELOW_SIX:
        return _beside_clamps(change)
    inputs = inputs if change.holds is Holds.EXACTLY else change.inputs
    before, after = (_outputs(model, inputs) for model in (change.before, change.after))
    if all(_is_near(before[name], after[name]) for name in before):
        return None
    # What a well-conditioned graph does not need costs many evaluations: how far such rounding may move the outputs.
    # Behind exact changes no value of another name is compared; on data, what float32 makes of the calibration.
    captured = change.before if change.holds is Holds.EXACTLY else None
    return _told(change, rewriting(captured, change.after if captured else change.before, inputs, after))


def _outputs(model: ir.Model, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    graph = Graph(model, unrounded=True)
    return graph.values(inputs, {}, graph.outputs)


def _is_near(before: Array, after: Array) -> bool:
    """Whether both are the same but for what float64 rounds."""
    return before.shape == after.shape and bool((errors(after, before) <= GAMMA * magnitude(before)).all())


def _told(change: Change, link: LinkResult) -> Place | None:
    if link.verdict is not Verdict.FAIL:
        return None
    reason = f"{change.what} changed what the float graph computes: {link.where} is {link.error:.3g} off"
    return Place(link.where, reason, link.error, link.bound)


def _beside_clamps(change: Change) -> Place | None:
    """What else than ReLU6 as ReLU was changed."""
    for operand in Alongside(change.before, change.after, frozenset({("Clip", "Relu")})).operands():
        if isinstance(operand, Place):
            return operand
        if operand.is_changed:
            return Place(operand.name, f"{change.what} changed the constant {operand.value.name} of {operand.name}")
        clamp, after = operand.before, operand.node
        if clamp is None or after is None or clamp.op_type == after.op_type:
            continue
        if clip_bounds(clamp) != _RELU6:
            return Place(operand.name, f"{change.what} changed {operand.name}, which is no clamp from 0 to 6")
    return None
