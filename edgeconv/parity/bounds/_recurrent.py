"""Recurrent layers, step by step; both languages of files bring their operands into one form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgeconv.parity.bounds._arithmetic import Array
from edgeconv.parity.bounds._bounded import Bounded, chosen, exact, joined, stacked, widest

Function = Callable[[Bounded], Bounded]
FUNCTIONS: Mapping[str, Function] = {
    "relu": lambda x: x.clip(0.0, np.inf),
    "sigmoid": lambda x: x.function("sigmoid"),
    "tanh": lambda x: x.function("tanh"),
}


@dataclass(frozen=True)
class Cell:
    """One direction of a layer.

    Attributes:
        weights: of the data by gate, (hidden, inputs).
        recurrences: of the state by gate, (hidden, hidden).
        biases: by gate, all that are added, (hidden,).
        functions: of the gates, of the new state, of what leaves.
        clip: bounds of what goes into the functions; 0 for none.
        before_reset: a GRU's: the state is multiplied first.
    """

    weights: tuple[Bounded, ...]
    recurrences: tuple[Bounded, ...]
    biases: tuple[tuple[Bounded, ...], ...]
    functions: tuple[Function, ...]
    clip: float = 0.0
    before_reset: bool = False

    def gate(self, number: int, x: Bounded, state: Bounded) -> Bounded:
        """Data and state times their weights, and the biases, in any order."""
        return _total([(x, self.weights[number]), (state, self.recurrences[number])], self.biases[number])

    def applied(self, number: int, x: Bounded) -> Bounded:
        """A function of what is clipped."""
        return self.functions[number](x.clip(-self.clip, self.clip) if self.clip else x)


def _total(products: Sequence[tuple[Bounded, Bounded]], biases: Sequence[Bounded]) -> Bounded:
    """One sum of all products and biases: rows of data by rows of weights."""
    first = products[0][0]
    # Biases count as products with 1, so that they may come anywhere in the sum.
    ones = exact(first, np.ones((*first.value.shape[:-1], len(biases))))
    rows = stacked(biases, -1)
    data = joined([*(data for data, _ in products), ones], -1)
    return data @ joined([*(weight for _, weight in products), rows], -1).move(lambda array: np.swapaxes(array, -1, -2))


def rnn(cell: Cell, x: Bounded, state: tuple[Bounded, ...]) -> tuple[Bounded, ...]:
    """One step of a plain layer."""
    return (cell.applied(0, cell.gate(0, x, state[0])),)


def lstm(cell: Cell, x: Bounded, state: tuple[Bounded, ...]) -> tuple[Bounded, ...]:
    """One step: gates in the order input, output, forget, cell."""
    hidden, inner = state
    enter, leave, keep = (cell.applied(0, cell.gate(number, x, hidden)) for number in (0, 1, 2))
    inner = keep * inner + enter * cell.applied(1, cell.gate(3, x, hidden))
    return leave * cell.functions[2](inner), inner


def gru(cell: Cell, x: Bounded, state: tuple[Bounded, ...]) -> tuple[Bounded, ...]:
    """One step: gates in the order update, reset, new; biases of the data and of the state apart."""
    (hidden,) = state
    update, reset = (cell.applied(0, cell.gate(number, x, hidden)) for number in (0, 1))
    data, past, (bias, inner) = (x, cell.weights[2]), cell.recurrences[2], cell.biases[2]
    if cell.before_reset:
        total = _total([data], [bias]) + reset * _total([(hidden, past)], [inner])
    else:
        total = _total([data, (reset * hidden, past)], [bias, inner])
    new = cell.applied(1, total)
    # Both forms are in use: two products, or one of the difference.
    return (widest((1.0 - update) * new + update * hidden, new + update * (hidden - new)),)


def held(alive: Array, now: Bounded, before: Bounded) -> Bounded:
    """The new state while a sequence lasts."""
    return chosen(np.broadcast_to(alive, now.value.shape), now, before)


def filtered(x: Bounded, weights: Bounded, time: Bounded, memory: Bounded, rank: int) -> Bounded:
    """Filters of rank 1 (SVDF): products of the data, behind what was remembered, weighed along time and added up.

    Args:
        x: (batch, size).
        weights: (filters, size).
        time: (filters, steps).
        memory: (batch, filters * steps), of which the oldest step is forgotten.
        rank: filters of a unit.

    Returns:
        (batch, filters / rank).
    """
    newest = (x @ weights.move(np.transpose)).move(lambda array: array[..., None])
    filters, steps = time.value.shape
    before = memory.reshape(-1, filters, steps).move(lambda array: array[..., 1:])
    products = joined([before, newest], -1) * time
    return products.reshape(-1, filters // rank, rank * steps).sum(-1, keepdims=False)
