"""Recurrent layers, step by step.

Specification: RNN, GRU, LSTM, with every attribute: directions, activations and their parameters, ``clip``,
``input_forget``, ``linear_before_reset``, ``layout``; lengths of sequences, initial states, peepholes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F  # noqa: N812

from edgeconv.graph.recurrence import RECURRENT, activations_of
from edgeconv.reference._call import Call, Operator, Result, Tensor

Function = Callable[[Tensor], Tensor]
# By name: the function of the input and of its parameters.
_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "elu": lambda x, alpha: torch.where(x < 0, alpha * torch.expm1(x), x),
    "hardsigmoid": lambda x, alpha, beta: (alpha * x + beta).clamp(0, 1),
    "leakyrelu": lambda x, alpha: torch.where(x < 0, alpha * x, x),
    "relu": torch.relu,
    "scaledtanh": lambda x, alpha, beta: alpha * torch.tanh(beta * x),
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "softsign": F.softsign,
    "tanh": torch.tanh,
    "thresholdedrelu": lambda x, alpha: torch.where(x > alpha, x, torch.zeros_like(x)),
}


@dataclass(frozen=True)
class _Layer:
    """One direction of a node.

    Attributes:
        weight: W, [gates * hidden, inputs].
        recurrence: R, [gates * hidden, hidden].
        bias: Wb and Rb, [gates * hidden] each.
        functions: the activations, in the order of the specification.
        clip: bounds the operands of the activations; 0 for no bound.
        peephole: P of an LSTM, [3 * hidden], or None.
        coupled: the LSTM's forget gate is one minus its input gate (``input_forget``).
        before_reset: the GRU applies its reset gate after the product with R (``linear_before_reset``).
    """

    weight: Tensor
    recurrence: Tensor
    bias: tuple[Tensor, Tensor]
    functions: list[Function]
    clip: float
    peephole: Tensor | None
    coupled: bool
    before_reset: bool


Step = Callable[[_Layer, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]


def _bounded(layer: _Layer, number: int, x: Tensor) -> Tensor:
    x = x.clamp(-layer.clip, layer.clip) if layer.clip else x
    return layer.functions[number](x)


def _rnn(layer: _Layer, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (hidden,) = state
    return (_bounded(layer, 0, x @ layer.weight.mT + hidden @ layer.recurrence.mT + sum(layer.bias)),)


def _gru(layer: _Layer, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gates in the order update, reset, new."""
    (hidden,) = state
    inputs = (x @ layer.weight.mT + layer.bias[0]).chunk(3, -1)
    update_row, reset_row, new_row = layer.recurrence.chunk(3)
    biases = layer.bias[1].chunk(3)
    update = _bounded(layer, 0, inputs[0] + hidden @ update_row.mT + biases[0])
    reset = _bounded(layer, 0, inputs[1] + hidden @ reset_row.mT + biases[1])
    # ONNX, GRU: ht = g(Xt Wh + (rt . Ht-1) Rh + Rbh + Wbh), or with linear_before_reset rt . (Ht-1 Rh + Rbh). torch and
    # cuDNN have the latter.
    past = reset * (hidden @ new_row.mT + biases[2]) if layer.before_reset else reset * hidden @ new_row.mT + biases[2]
    new = _bounded(layer, 1, inputs[2] + past)
    return ((1 - update) * new + update * hidden,)


def _lstm(layer: _Layer, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gates in the order input, output, forget, cell; peepholes input, output, forget."""
    hidden, cell = state
    gates = x @ layer.weight.mT + hidden @ layer.recurrence.mT + sum(layer.bias)
    enter, leave, keep, new = gates.chunk(4, -1)
    # ONNX, LSTM: Pi and Pf see the cell before the step, Po (below) the one after it.
    holes = (0.0, 0.0, 0.0) if layer.peephole is None else layer.peephole.chunk(3)
    enter = _bounded(layer, 0, enter + holes[0] * cell)
    keep = 1 - enter if layer.coupled else _bounded(layer, 0, keep + holes[2] * cell)
    cell = keep * cell + enter * _bounded(layer, 1, new)
    leave = _bounded(layer, 0, leave + holes[1] * cell)
    return leave * layer.functions[2](cell), cell


def _recurrent(step: Step, op_type: str) -> Operator:
    """The operator that runs a step over a sequence.

    Args:
        step: computes the next state.
        op_type: GRU, LSTM or RNN.
    """
    states = RECURRENT[op_type].states

    def operator(call: Call) -> Result:
        batch_first = bool(call.attribute("layout", 0))
        x = call[0].transpose(0, 1) if batch_first else call[0]
        count = call[1].shape[0]  # of directions
        direction = call.text("direction", "forward")
        hidden = call[2].shape[2]
        initial = [call.optional(index) for index in (5, 6)[:states]]
        zeros = x.new_zeros(count, x.shape[1], hidden)
        stated = [state.transpose(0, 1) if state is not None and batch_first else state for state in initial]
        begin = [zeros if state is None else state for state in stated]
        runs = [
            _run(call, step, _layer(call, number), x, [state[number] for state in begin], backwards)
            for number, backwards in enumerate([direction == "reverse", True][:count])
        ]
        y = torch.stack([run[0] for run in runs], 1)
        ends = [torch.stack([run[1][number] for run in runs]) for number in range(states)]
        if batch_first:
            return y.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends)
        return y, *ends

    return operator


def _layer(call: Call, number: int) -> _Layer:
    weight, recurrence, bias = call[1][number], call[2][number], call.optional(3)
    half = weight.shape[0]
    bias = weight.new_zeros(2 * half) if bias is None else bias[number]
    peephole = call.optional(7) if call.node.op_type == "LSTM" else None
    return _Layer(
        weight,
        recurrence,
        (bias[:half], bias[half:]),
        _functions(call, number),
        call.attribute("clip", 0.0),
        None if peephole is None else peephole[number],
        bool(call.attribute("input_forget", 0)),
        bool(call.attribute("linear_before_reset", 0)),
    )


def _functions(call: Call, number: int) -> list[Function]:
    """The activations of a direction."""
    names: list[str] = []
    alphas: list[float] = []
    betas: list[float] = []
    activations = activations_of(
        call.node.op_type,
        number,
        call.attribute("activations", names),
        call.attribute("activation_alpha", alphas),
        call.attribute("activation_beta", betas),
    )
    unknown = [activation.name for activation in activations if activation.name not in _ACTIVATIONS]
    if unknown:
        raise call.refuse(f"has no activation {unknown[0]!r}")
    return [partial(_ACTIVATIONS[activation.name], **activation.parameters) for activation in activations]


def _run(
    call: Call, step: Step, layer: _Layer, x: Tensor, begin: list[Tensor], backwards: bool
) -> tuple[Tensor, list[Tensor]]:
    """Runs one direction; returns its outputs, [length, batch, hidden], and the final states.

    Behind the end of a shorter sequence the outputs are 0 and the state stays.
    """
    length, batch = x.shape[:2]
    lengths = call.optional(4)
    lengths = torch.full((batch,), length) if lengths is None else lengths.to(torch.int64)
    state, outputs = tuple(begin), [x.new_zeros(begin[0].shape)] * length
    for place in reversed(range(length)) if backwards else range(length):
        alive = (place < lengths)[:, None]
        new = step(layer, x[place], state)
        state = tuple(torch.where(alive, now, before) for now, before in zip(new, state, strict=True))
        outputs[place] = torch.where(alive, new[0], torch.zeros_like(new[0]))
    return torch.stack(outputs), list(state)


OPERATORS: dict[str, Operator] = {
    "GRU": _recurrent(_gru, "GRU"),
    "LSTM": _recurrent(_lstm, "LSTM"),
    "RNN": _recurrent(_rnn, "RNN"),
}
