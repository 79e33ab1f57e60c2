"""ONNX: recurrent layers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from edgeconv.graph.recurrence import RECURRENT, activations_of
from edgeconv.parity.bounds import _recurrent as recurrent
from edgeconv.parity.bounds._bounded import Bounded, by_sign, exact, stacked, widest
from edgeconv.parity.bounds._site import Rule, Site


def _by_exponentials(x: Bounded) -> Bounded:
    """The sigmoid as 1 / (1 + exp(-x)), and exp(x) / (1 + exp(x)) below 0."""
    power = x.monotone(lambda values: np.minimum(values, 0.0)).function("exp")
    inverse = (-x).monotone(lambda values: np.minimum(values, 0.0)).function("exp")
    return by_sign(x, 1.0 / (inverse + 1.0), power / (power + 1.0))


def _sigmoid(x: Bounded) -> Bounded:
    return widest(x.function("sigmoid"), ((x * 0.5).function("tanh") + 1.0) * 0.5, _by_exponentials(x))


# Kernels of recurrent layers have functions of their own beside those of the operators Sigmoid and Tanh: ONNX Runtime's
# GRU a sigmoid of its polynomial of tanh (`gru_reset_gate_sigmoid` of onnxruntime/core/providers/cpu/rnn/
# rnn_helpers.cc), its RNN a tanh of a sigmoid, which is off by units of 1 near 0 (`Tanh` of rnn_activation_functors.h).
_OWN: Mapping[str, Mapping[str, recurrent.Function]] = {
    "GRU": {"sigmoid": _sigmoid},
    "RNN": {
        "sigmoid": _sigmoid,
        "tanh": lambda x: widest(x.function("tanh"), _by_exponentials(x * 2.0) * 2.0 - 1.0),
    },
}
_Step = Callable[[recurrent.Cell, Bounded, tuple[Bounded, ...]], tuple[Bounded, ...]]


def _recurrent(step: _Step, op_type: str) -> Rule:
    states = RECURRENT[op_type].states

    def rule(site: Site) -> tuple[Bounded | None, ...]:
        if site.attribute("layout", 0) or site.optional(7) is not None or site.attribute("input_forget", 0):
            raise site.unknown("with peepholes, coupled gates or the batch in front")
        x, count, hidden = site.x(), site[1].shape[0], site[2].shape[2]
        zeros = exact(x, np.zeros((count, x.value.shape[1], hidden)))
        begin = [site.maybe(index) or zeros for index in (5, 6)[:states]]
        backwards = [site.text("direction", "forward") == "reverse", True]
        runs = []
        for number in range(count):
            state = tuple(part.move(lambda array, at=number: array[at]) for part in begin)  # type: ignore[misc]
            cell = _cell(site, number)
            runs.append(_run(site, functools.partial(step, cell), x, state, backwards=backwards[number]))
        y = stacked([run[0] for run in runs], 1)
        return y, *(stacked([run[1][at] for run in runs], 0) for at in range(states))

    return rule


def _cell(site: Site, number: int) -> recurrent.Cell:
    gates = RECURRENT[site.node.op_type].gates

    def parts(index: int) -> list[Bounded]:
        # One operand has all gates, one behind the other; B (3) those of the data, and then those of the state.
        whole = site.x(index)
        size = whole.value.shape[1] // (gates if index < 3 else 2 * gates)
        count = gates if index < 3 else 2 * gates
        return [whole.move(lambda array, at=at: array[number, at * size : (at + 1) * size]) for at in range(count)]  # type: ignore[misc]

    names: list[str] = []
    activations = activations_of(site.node.op_type, number, site.attribute("activations", names), (), ())
    own = [activation.name for activation in activations]
    functions = {**recurrent.FUNCTIONS, **_OWN.get(site.node.op_type, {})}
    if any(name not in functions for name in own):  # those that are known have no parameters
        raise site.unknown(f"with activations {', '.join(own)}")
    hidden = site[2].shape[2]
    zeros = [exact(site.x(), np.zeros(hidden))] * 2 * gates
    biases = zeros if site.optional(3) is None else parts(3)
    return recurrent.Cell(
        tuple(parts(1)),
        tuple(parts(2)),
        tuple((biases[at], biases[gates + at]) for at in range(gates)),
        tuple(functions[name] for name in own),
        site.number("clip", 0.0),
        bool(site.attribute("linear_before_reset", 0)),
    )


def _run(
    site: Site,
    step: Callable[[Bounded, tuple[Bounded, ...]], tuple[Bounded, ...]],
    x: Bounded,
    state: tuple[Bounded, ...],
    *,
    backwards: bool,
) -> tuple[Bounded, tuple[Bounded, ...]]:
    """All steps of one direction; behind a sequence's end its state stays, and its results are 0."""
    length, batch = x.value.shape[:2]
    stated = site.optional(4)
    lengths = np.full(batch, length) if stated is None else stated
    outputs: list[Bounded] = [state[0]] * length
    for place in reversed(range(length)) if backwards else range(length):
        new = step(x.move(lambda array, at=place: array[at]), state)  # type: ignore[misc]
        alive = (place < lengths)[:, None]
        state = tuple(recurrent.held(alive, now, before) for now, before in zip(new, state, strict=True))
        outputs[place] = recurrent.held(alive, new[0], exact(new[0], np.zeros(new[0].value.shape)))
    return stacked(outputs, 0), state


RULES: Mapping[str, Rule] = {
    "GRU": _recurrent(recurrent.gru, "GRU"),
    "LSTM": _recurrent(recurrent.lstm, "LSTM"),
    "RNN": _recurrent(recurrent.rnn, "RNN"),
}
