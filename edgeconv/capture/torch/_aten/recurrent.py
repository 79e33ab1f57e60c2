"""Recurrent layers: ONNX's LSTM, GRU and RNN, one node per layer for both directions; cells are written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from edgeconv.capture.torch._builder import Builder, Entry, Unsupported, sizes_of

_LSTM, _GRU, _RNN = (0, 3, 1, 2), (1, 0, 2), (0,)
"""By position of a gate in ONNX: its position in torch.

LSTM: input, output, forget, cell in ONNX; input, forget, cell, output in torch. GRU: update, reset, new in ONNX; reset,
update, new in torch.
"""


def lstm(
    b: Builder, x: ir.Value, hx: Sequence[ir.Value], params: Sequence[ir.Value], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> Sequence[ir.Value | None]:  # fmt: skip
    """x (length, N, size), or batch first; states (layers · directions, N, hidden): one LSTM node per layer.

    Projections (``proj_size``) are folded into the recurrence (`_projected`). Dropout in training is refused.
    """
    is_projected = sizes_of(hx[0])[2] != sizes_of(hx[1])[2]
    settings = _Settings("LSTM", _LSTM, has_biases, num_layers, bidirectional, batch_first, is_projected=is_projected)
    return _layers(b, x, list(hx), params, settings, is_random=train and dropout > 0)


def gru(
    b: Builder, x: ir.Value, hx: ir.Value, params: Sequence[ir.Value], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> Sequence[ir.Value | None]:  # fmt: skip
    """One GRU node per layer; arguments as of `lstm`.

    torch applies the reset gate after the product of the state with its weight: ONNX's ``linear_before_reset``.
    """
    more = {"linear_before_reset": 1}
    settings = _Settings("GRU", _GRU, has_biases, num_layers, bidirectional, batch_first, more)
    return _layers(b, x, [hx], params, settings, is_random=train and dropout > 0)


def rnn(activation: str) -> Entry:
    """One RNN node per layer, with that activation; arguments as of `lstm`."""

    def entry(
        b: Builder, x: ir.Value, hx: ir.Value, params: Sequence[ir.Value], has_biases: bool, num_layers: int,
        dropout: float, train: bool, bidirectional: bool, batch_first: bool,
    ) -> Sequence[ir.Value | None]:  # fmt: skip
        more = {"activations": [activation] * (2 if bidirectional else 1)}
        settings = _Settings("RNN", _RNN, has_biases, num_layers, bidirectional, batch_first, more)
        return _layers(b, x, [hx], params, settings, is_random=train and dropout > 0)

    return entry


class _Settings:
    """What all layers of one module share.

    `order` is of gates (`_LSTM`), `attributes` are those of the ONNX node.
    """

    def __init__(
        self, op_type: str, order: tuple[int, ...], has_biases: bool, layers: int, both: bool, batch_first: bool,
        attributes: Mapping[str, Any] | None = None, *, is_projected: bool = False,
    ) -> None:  # fmt: skip
        self.op_type = op_type
        self.order = order
        self.has_biases = has_biases
        self.layers = layers
        self.directions = 2 if both else 1
        self.batch_first = batch_first
        self.is_projected = is_projected
        self.attributes = {"direction": "bidirectional" if both else "forward", **(attributes or {})}

    @property
    def stride(self) -> int:
        """Number of parameters of one direction of one layer: W, R, two biases, a projection."""
        return (4 if self.has_biases else 2) + self.is_projected


def _layers(
    b: Builder, x: ir.Value, begin: list[ir.Value], params: Sequence[ir.Value], settings: _Settings, *, is_random: bool
) -> Sequence[ir.Value | None]:
    """The output of the last layer and the final states of all, as torch orders them.

    Args:
        b: appends the nodes.
        x: as torch's module takes it.
        begin: initial states, each (layers · directions, N, size): hidden, and of an LSTM the cell.
        params: `_Settings.stride` per direction, direction after direction, layer after layer.
        settings: see there.
        is_random: whether dropout between the layers draws random numbers.
    """
    count = settings.directions
    if is_random:
        raise Unsupported("dropout between the layers, in training")
    if len(params) != settings.layers * count * settings.stride:
        raise Unsupported("parameters of another number than the layers have")
    y = b.transpose(x, (1, 0, 2)) if settings.batch_first else x
    ends: list[list[ir.Value]] = [[] for _ in begin]
    for layer in range(settings.layers):
        first = layer * count * settings.stride
        starts = [first + direction * settings.stride for direction in range(count)]
        states = [_state(b, value, layer * count, count) for value in begin]
        weights = [[_constant_weight(b, value) for value in params[at : at + settings.stride]] for at in starts]
        results = (_projected if settings.is_projected else _layer)(b, y, weights, states, settings)
        length, _, batch, hidden = sizes_of(results[0])  # torch has the directions side by side in the last axis
        y = b.reshape(b.transpose(results[0], (0, 2, 1, 3)), (length, batch, count * hidden))
        for end, state in zip(ends, results[1:], strict=True):
            end.append(state)
    outputs: list[ir.Value | None] = [b.transpose(y, (1, 0, 2)) if settings.batch_first else y]
    return [*outputs, *(b.concat(end, 0) if b.is_used(i) else None for i, end in enumerate(ends, start=1))]


def _state(b: Builder, value: ir.Value, start: int, count: int) -> ir.Value | None:
    """The initial states of a layer; None for zeros, which are ONNX's default."""
    constant = b.constant_of(value)
    if constant is not None:
        part = constant[start : start + count]
        return None if not part.any() else b.exactly(part, b.dtype)
    return value if sizes_of(value)[0] == count else b.slice(value, 0, start, start + count)


def _layer(
    b: Builder, x: ir.Value, tensors: Sequence[Sequence[torch.Tensor]], states: Sequence[ir.Value | None],
    settings: _Settings,
) -> list[ir.Value]:  # fmt: skip
    """One node: its output of all steps, (length, directions, batch, hidden), and the final states."""
    hidden = tensors[0][1].shape[1]

    def stacked(index: int) -> torch.Tensor:
        """The parameter at this index, of all directions, with its gates in ONNX's order."""
        gates = [
            parameters[index].reshape(len(settings.order), hidden, *parameters[index].shape[1:])
            for parameters in tensors
        ]
        return torch.stack([gate[list(settings.order)].flatten(0, 1) for gate in gates])

    bias = None
    if settings.has_biases:
        # ONNX has the biases of the input and of the state in one tensor, one behind the other (Wb, Rb).
        bias = b.exactly(torch.cat([stacked(2), stacked(3)], 1), b.dtype)
    length, batch, _ = sizes_of(x)
    whole, last = (length, len(tensors), batch, hidden), (len(tensors), batch, hidden)
    inputs = [x, b.exactly(stacked(0), b.dtype), b.exactly(stacked(1), b.dtype), bias, None, *states]
    return b.add_many(
        settings.op_type, inputs, [whole, *([last] * len(states))], hidden_size=hidden, **settings.attributes
    )


def _projected(
    b: Builder, x: ir.Value, tensors: Sequence[Sequence[torch.Tensor]], states: Sequence[ir.Value | None],
    settings: _Settings,
) -> list[ir.Value]:  # fmt: skip
    """An LSTM with ``proj_size`` (Sak et al., 2014): its output is h = P s, a projection of the state s.

    ONNX's LSTM has no projection. But the gates W x + U h are W x + (U P) s, those of a plain LSTM with the recurrence
    U P, which is multiplied in float64 and rounded once; its outputs are then multiplied by P. An initial output h₀ is
    the projection of no known s: U h₀ has to enter the first step only. So h₀ is appended to the input of the first
    step, with zeros at all others, and U to W.
    """
    entering, cell = states
    projections = [parameters[-1].double() for parameters in tensors]
    inputs = [parameters[0].double() for parameters in tensors]
    if entering is not None:
        x = b.concat([x, *_at_first_steps(b, entering, sizes_of(x)[0])], 2)
        for direction, (_, recurrence, *_) in enumerate(tensors):  # each reads its own h₀ of those that are appended
            columns = [torch.zeros_like(recurrence, dtype=torch.float64)] * len(tensors)
            columns[direction] = recurrence
            inputs[direction] = torch.cat([inputs[direction], *columns], 1)
    plain = [
        [w, parameters[1].double() @ p, *parameters[2:-1]]
        for w, p, parameters in zip(inputs, projections, tensors, strict=True)
    ]
    whole, hidden, last = _layer(b, x, plain, [None, cell], settings)
    return [_product_each(b, whole, projections, 1), _product_each(b, hidden, projections, 0), last]


def _at_first_steps(b: Builder, value: ir.Value, length: int) -> list[ir.Value]:
    """States (directions, batch, size) as one sequence per direction, with zeros at all steps but its first.

    The first step of the reverse direction is the last of the sequence.
    """
    sequences = []
    for direction in range(sizes_of(value)[0]):
        state = b.slice(value, 0, direction, direction + 1)
        before, after = (0, length - 1) if direction == 0 else (length - 1, 0)
        if length > 1:
            amounts = b.ints(before, 0, 0, after, 0, 0)
            shape = (length, *sizes_of(state)[1:])
            state = b.add("Pad", state, amounts, b.scalar(0), shape=shape, mode="constant")
        sequences.append(state)
    return sequences


def _product_each(b: Builder, value: ir.Value, projections: Sequence[torch.Tensor], axis: int) -> ir.Value:
    """Multiplies each direction, along `axis`, with its own projection."""
    parts = b.split(value, axis, [1] * len(projections)) if len(projections) > 1 else [value]
    products = [
        b.matmul(part, b.exactly(projection.T, b.dtype)) for part, projection in zip(parts, projections, strict=True)
    ]
    return b.concat(products, axis)


def _constant_weight(b: Builder, value: ir.Value) -> torch.Tensor:
    tensor = b.constant_of(value)
    if tensor is None:
        raise Unsupported("weights that are computed")
    return tensor


def lstm_cell(
    b: Builder, x: ir.Value, hx: Sequence[ir.Value], w_ih: ir.Value, w_hh: ir.Value, b_ih: ir.Value | None = None,
    b_hh: ir.Value | None = None,
) -> Sequence[ir.Value]:  # fmt: skip
    """One step of an LSTM, x (N, size), states (N, hidden), written out: two Gemms, the gates, both new states."""
    hidden, cell = hx
    gates = b.add("Add", _product(b, x, w_ih, b_ih), _product(b, hidden, w_hh, b_hh))
    enter, keep, new, leave = b.split(gates, 1, [sizes_of(hidden)[1]] * 4)
    remembered = b.add("Mul", b.add("Sigmoid", keep), cell)
    entered = b.add("Mul", b.add("Sigmoid", enter), b.add("Tanh", new))
    cell = b.add("Add", remembered, entered)
    return [b.add("Mul", b.add("Sigmoid", leave), b.add("Tanh", cell)), cell]


def gru_cell(
    b: Builder, x: ir.Value, hx: ir.Value, w_ih: ir.Value, w_hh: ir.Value, b_ih: ir.Value | None = None,
    b_hh: ir.Value | None = None,
) -> ir.Value:  # fmt: skip
    """One step of a GRU, written out: new + update · (state - new), as torch computes (1 - z) · n + z · h."""
    sizes = [sizes_of(hx)[1]] * 3
    inputs = b.split(_product(b, x, w_ih, b_ih), 1, sizes)
    states = b.split(_product(b, hx, w_hh, b_hh), 1, sizes)
    reset, update = (b.add("Sigmoid", b.add("Add", inputs[i], states[i])) for i in (0, 1))
    new = b.add("Tanh", b.add("Add", inputs[2], b.add("Mul", reset, states[2])))
    return b.add("Add", new, b.add("Mul", update, b.add("Sub", hx, new)))


def rnn_cell(activation: str) -> Entry:
    """One step of a plain recurrent layer with that activation: two Gemms and their sum."""

    def entry(
        b: Builder, x: ir.Value, hx: ir.Value, w_ih: ir.Value, w_hh: ir.Value, b_ih: ir.Value | None = None,
        b_hh: ir.Value | None = None,
    ) -> ir.Value:  # fmt: skip
        return b.add(activation, b.add("Add", _product(b, x, w_ih, b_ih), _product(b, hx, w_hh, b_hh)))

    return entry


def _product(b: Builder, x: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    shape = (sizes_of(x)[0], sizes_of(weight)[0])
    return b.add("Gemm", x, weight, bias, shape=shape, alpha=1.0, beta=1.0, transA=0, transB=1)


TABLE: Mapping[str, Entry] = {
    "aten.lstm.input": lstm,
    "aten.gru.input": gru,
    "aten.rnn_tanh.input": rnn("Tanh"),
    "aten.rnn_relu.input": rnn("Relu"),
    "aten.lstm_cell.default": lstm_cell,
    "aten.gru_cell.default": gru_cell,
    "aten.rnn_tanh_cell.default": rnn_cell("Tanh"),
    "aten.rnn_relu_cell.default": rnn_cell("Relu"),
}
