"""The walk over the layers of a file: what may be right by a reading that cannot be judged is not called wrong."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from edgeconv.core import Array
from edgeconv.errors import ParityError
from edgeconv.parity.bounds import Bound
from edgeconv.parity.running._layers import Operand, Step, judged_layers

_X = np.array([1.0, 2.0])


def _doubled(operands: Sequence[Operand]) -> Sequence[Bound]:
    (operand,) = operands
    if isinstance(operand, Bound):
        raise ParityError("no error is carried")
    assert operand is not None
    return [Bound(2 * operand, np.zeros(2), np.zeros(2))]


def _as_told(key: Hashable, told: Array) -> Operand:
    return told


def _about(key: Hashable, told: Array) -> Operand:
    return Bound(told, np.full(2, 0.5), np.full(2, 0.5))


def _judged(result: Array) -> tuple[list[float], list[str]]:
    steps = [Step("Identity", ("input",), ("x",), lambda operands: [Bound(_X, np.zeros(2), np.zeros(2))])]
    steps.append(Step("Double", ("x",), ("y",), _doubled))
    judged = judged_layers(steps, {"input": _X}, {"x": _X, "y": result}, [_as_told, _about], str)
    return [layer.used for layer in judged.layers if layer.name == "y"], list(judged.unjudged)


def test_a_value_that_a_wider_reading_cannot_judge_has_no_verdict() -> None:
    assert _judged(2 * _X + 0.5) == ([], ["y"])


def test_a_value_that_is_right_as_told_needs_no_wider_reading() -> None:
    assert _judged(2 * _X) == ([0.0], [])
