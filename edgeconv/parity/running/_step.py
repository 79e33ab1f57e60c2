"""What a walk over a file is made of: the file's operators as steps, and the layers that are judged."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from edgeconv.core import Array
from edgeconv.parity.bounds import Bound

Operand = Array | Bound | None


@dataclass(frozen=True)
class Step:
    """One operator of a file.

    Attributes:
        operator: its name in the file's language.
        inputs: keys of its operands; None where one is left out.
        outputs: keys of its results.
        bounds: gives a `Bound` per result, of operands that a runtime returned or of carried ones.
        identity: all that its bounds depend on but for the operands; empty where nobody asks for it.
    """

    operator: str
    inputs: tuple[Hashable | None, ...]
    outputs: tuple[Hashable, ...]
    bounds: Callable[[Sequence[Operand]], Sequence[Bound]]
    identity: str = ""


@dataclass(frozen=True)
class Layer:
    """One value that a runtime returned, and the operators since the values that it returned before.

    Attributes:
        name: of the value, which has that of its torch module.
        operators: that lie between, in the file's order.
        used: the largest share of its bound that an element uses; above 1, no correct evaluation gives it.
        error: of the element that uses most, in the value's unit (steps of quantized ones).
        bound: of that element.
        likely: the largest share of its likely bound that an element uses.
        signal: sum of the squares of the exact values.
        noise: sum of the squares of the errors.
        widest: the largest bound of an element.
    """

    name: str
    operators: tuple[str, ...]
    used: float
    error: float
    bound: float
    likely: float
    signal: float
    noise: float
    widest: float = 0.0
