"""Control flow and sequences.

Specification: If, SplitToSequence, SequenceConstruct, SequenceAt, SequenceLength, ConcatFromSequence.
"""

from __future__ import annotations

import torch

from edgeconv.reference._call import Call, Operator, Result, Tensor


def _if(call: Call) -> Result:
    name = "then_branch" if bool(call[0].reshape(-1)[0]) else "else_branch"
    return call.body(call.node.attributes[name].as_graph())


def _split_to_sequence(call: Call) -> list[Tensor]:
    """Parts of one size (the last may be smaller), of stated sizes, or single slices."""
    axis, sizes = call.axis(call[0].ndim), call.optional(1)
    if sizes is None:
        parts = call[0].tensor_split(call[0].shape[axis], axis)
        return [part if call.attribute("keepdims", 1) else part.squeeze(axis) for part in parts]
    if sizes.ndim == 0:
        return list(call[0].tensor_split(list(range(int(sizes), call[0].shape[axis], int(sizes))), axis))
    return list(torch.split_with_sizes(call[0], sizes.tolist(), axis))


def _concat_from_sequence(call: Call) -> Tensor:
    join = torch.stack if call.attribute("new_axis", 0) else torch.cat
    return join(call.sequence(0), call.attribute("axis", 0))


OPERATORS: dict[str, Operator] = {
    "ConcatFromSequence": _concat_from_sequence,
    "If": _if,
    "SequenceAt": lambda call: call.sequence(0)[int(call[1])],
    "SequenceConstruct": lambda call: call.tensors(),
    "SequenceLength": lambda call: torch.tensor(len(call.sequence(0))),
    "SplitToSequence": _split_to_sequence,
}
