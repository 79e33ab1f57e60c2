"""Values are rounded as the plan says, where they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeconv.graph.integer_rules import SHARED
from edgeconv.parity.quantizing._alongside import Operand, Pair, first_name, numbers_of
from edgeconv.parity.quantizing._floats import Floats
from edgeconv.parity.quantizing._integers import has_numbers
from edgeconv.parity.quantizing._origin import Numbers, TensorNumbers
from edgeconv.parity.quantizing._place import Place

_ENDS_OF_MASKS = 2.0**-23  # relative: float32's rounding of 1 / 255


def read_faults(operand: Operand, floats: Floats) -> Iterator[Place]:
    """What reads a value reads it rounded by the value's own parameters, then perhaps by those that it shares.

    Two operators that stay float have nothing rounded between them.
    """
    where, value, numbers = operand.name, operand.value.name or "", floats.numbers
    due, shared = [numbers.tensors.get(value)], shared_by(operand, numbers)
    if floats.lacks(operand):
        yield Place(where, f"the plan has no scale of {value}, and says of no operator around it that it stays float")
    elif fault := _by_others(operand, [*due, shared] if len(operand.pairs) > 1 else due):
        yield Place(where, fault)
    elif due[0] is None:
        return
    elif operand.pairs and not floats.is_rounded(operand):
        yield Place(where, f"{value} is rounded between two operators that stay float by the plan")
    elif not operand.pairs and floats.is_rounded(operand):
        reader = where if operand.before is not None else f"the output {where}"
        yield Place(where, f"{reader} reads {value} as floats, and the plan has integers of it")
    elif shared is None or floats.keeps(operand.before):
        return
    elif not has_numbers(operand.pairs[-1].quantize, shared):
        yield Place(where, f"{where} reads {value} by another scale or zero point than its own")


def _by_others(operand: Operand, due: Sequence[TensorNumbers | None]) -> str:
    """What rounds it otherwise than by these, one after the other; empty where nothing does."""
    value = operand.value.name
    if not all(map(_is_one, operand.pairs)):
        return f"{value} is not read back by the scale and zero point that rounded it"
    if len(operand.pairs) > len(due):
        return f"{value} is rounded {len(operand.pairs)} times"
    for pair, parameters in zip(operand.pairs, due, strict=False):
        if parameters is None:
            if operand.before is not None or not _holds_masks(pair):
                return f"{value} is rounded, and the plan has no parameters of it"
        elif not has_numbers(pair.quantize, parameters):
            return f"{value} is rounded by another scale or zero point than the plan's"
    return ""


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
