"""Values are rounded as the plan says, where they are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgeconv.graph.integer_rules import SHARED
from edgeconv.parity.quantizing._alongside import Operand, Pair, first_name, numbers_of
from edgeconv.parity.quantizing._integers import has_numbers
from edgeconv.parity.quantizing._origin import Numbers, TensorNumbers
from edgeconv.parity.quantizing._place import Place

_ENDS_OF_MASKS = 2.0**-23  # relative: float32's rounding of 1 / 255


def read_faults(operand: Operand, numbers: Numbers) -> Iterator[Place]:
    """What reads a value reads it rounded by the value's own parameters, then perhaps by those that it shares."""
    where = operand.name
    for pair in operand.pairs:
        if not _is_one(pair):
            yield Place(where, f"{operand.value.name} is not read back by the scale and zero point that rounded it")
            return
    due, shared = [numbers.tensors.get(operand.value.name or "")], shared_by(operand, numbers)
    if len(operand.pairs) > 1:
        due.append(shared)
    if len(operand.pairs) > len(due):
        yield Place(where, f"{operand.value.name} is rounded {len(operand.pairs)} times")
        return
    for pair, parameters in zip(operand.pairs, due, strict=False):
        if parameters is None:
            if operand.before is not None or not _holds_masks(pair):
                yield Place(where, f"{operand.value.name} is rounded, and the plan has no parameters of it")
        elif not has_numbers(pair.quantize, parameters):
            yield Place(where, f"{operand.value.name} is rounded by another scale or zero point than the plan's")
    if due[0] is None or shared is None or where in numbers.kept_float:
        return
    if not operand.pairs or not has_numbers(operand.pairs[-1].quantize, shared):
        yield Place(where, f"{where} reads {operand.value.name} by another scale or zero point than its own")


def shared_by(operand: Operand, numbers: Numbers) -> TensorNumbers | None:
    """The parameters of what an operator makes of operands that are to have the same."""
    if operand.before is None or operand.before.op_type not in SHARED:
        return None
    return numbers.tensors.get(first_name(operand.before))


def _is_one(pair: Pair) -> bool:
    """Whether both nodes have the same parameters, bit for bit."""
    one, other = numbers_of(pair.quantize), numbers_of(pair.dequantize)
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def _holds_masks(pair: Pair) -> bool:
    """Whether zero and one are integers of it: of an output that is a mask, of which no plan speaks."""
    scale, zero = (array.astype(np.float64) for array in numbers_of(pair.quantize))
    steps = 1.0 / scale
    return bool(np.all(np.abs(steps - np.rint(steps)) <= _ENDS_OF_MASKS * steps) and np.all(np.abs(zero) <= 2**15))
