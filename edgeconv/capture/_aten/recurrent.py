"""Recurrent layers: LSTM, GRU and RNN of ONNX, one node per layer; cells are written out.

ONNX has other orders of gates than torch (input, output, forget, cell beside input, forget, cell, output; update, reset
beside reset, update) and one node for both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch

from edgeconv.capture._builder import Builder, Entry, Unsupported, sizes_of

_LSTM, _GRU, _RNN = (0, 3, 1, 2), (1, 0, 2), (0,)
"""Which of torch's gates each of ONNX's is."""


def lstm(
    b: Builder, x: ir.Value, hx: Sequence[ir.Value], params: Sequence[ir.Value], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> Sequence[ir.Value | None]:  # fmt: skip
    settings = _Settings("LSTM", _LSTM, has_biases, num_layers, bidirectional, batch_first)
    return _layers(b, x, list(hx), params, settings, is_random=train and dropout > 0)


def gru(
    b: Builder, x: ir.Value, hx: ir.Value, params: Sequence[ir.Value], has_biases: bool, num_layers: int,
    dropout: float, train: bool, bidirectional: bool, batch_first: bool,
) -> Sequence[ir.Value | None]:  # fmt: skip
    """torch resets what the state was multiplied to, which ONNX calls ``linear_before_reset``."""
    more = {"linear_before_reset": 1}
    settings = _Settings("GRU", _GRU, has_biases, num_layers, bidirectional, batch_first, more)
    return _layers(b, x, [hx], params, settings, is_random=train and dropout > 0)


def rnn(activation: str) -> Entry:
    """A plain recurrent layer of that activation."""

    def entry(
        b: Builder, x: ir.Value, hx: ir.Value, params: Sequence[ir.Value], has_biases: bool, num_layers: int,
        dropout: float, train: bool, bidirectional: bool, batch_first: bool,
    ) -> Sequence[ir.Value | None]:  # fmt: skip
        more = {"activations": [activation] * (2 if bidirectional else 1)}
        settings = _Settings("RNN", _RNN, has_biases, num_layers, bidirectional, batch_first, more)
        return _layers(b, x, [hx], params, settings, is_random=train and dropout > 0)

    return entry


class _Settings:
    """What is the same for all layers."""

    def __init__(
        self, op_type: str, order: tuple[int, ...], has_biases: bool, layers: int, both: bool, batch_first: bool,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.op_type = op_type
        self.order = order
        self.has_biases = has_biases
        self.layers = layers
        self.directions = 2 if both else 1
        self.batch_first = batch_first
        self.attributes = {"direction": "bidirectional" if both else "forward", **(attributes or {})}

    @property
    def stride(self) -> int:
        """Parameters of one direction of one layer."""
        return 4 if self.has_biases else 2


def _layers(
    b: Builder, x: ir.Value, begin: list[ir.Value], params: Sequence[ir.Value], settings: _Settings, *, is_random: bool
) -> Sequence[ir.Value | None]:
    count = settings.directions
    if is_random:
        raise Unsupported("dropout between the layers, in training")
    if len(params) != settings.layers * count * settings.stride:
        raise Unsupported("projections")
    y = b.transpose(x, (1, 0, 2)) if settings.batch_first else x
    ends: list[list[ir.Value]] = [[] for _ in begin]
    for layer in range(settings.layers):
        first = layer * count * settings.stride
        own = [params[first + k * settings.stride : first + (k + 1) * settings.stride] for k in range(count)]
        states = [_state(b, value, layer * count, count) for value in begin]
        results = _layer(b, y, own, states, settings)
        length, _, batch, hidden = sizes_of(results[0])
        y = b.reshape(b.transpose(results[0], (0, 2, 1, 3)), (length, batch, count * hidden))
        for end, state in zip(ends, results[1:], strict=True):
            end.append(state)
    made: list[ir.Value | None] = [b.transpose(y, (1, 0, 2)) if settings.batch_first else y]
    return [*made, *(b.concat(end, 0) if b.is_used(i) else None for i, end in enumerate(ends, start=1))]


def _state(b: Builder, value: ir.Value, start: int, count: int) -> ir.Value | None:
    """The initial states of a layer; None where they are zeros, which a node need not be told."""
    known = b.known(value)
    if known is not None:
        part = known[start : start + count]
        return None if not part.any() else b.exactly(part, b.dtype)
    return value if sizes_of(value)[0] == count else b.slice(value, 0, start, start + count)


def _layer(
    b: Builder, x: ir.Value, own: Sequence[Sequence[ir.Value]], states: Sequence[ir.Value | None], settings: _Settings
) -> list[ir.Value]:
    """The results of one layer: of all steps, [length, directions, batch, hidden], and the last states."""
    tensors = [[_known(b, value) for value in each] for each in own]
    hidden = tensors[0][1].shape[1]

    def stacked(index: int) -> torch.Tensor:
        gates = [each[index].reshape(len(settings.order), hidden, *each[index].shape[1:]) for each in tensors]
        return torch.stack([gate[list(settings.order)].flatten(0, 1) for gate in gates])

    bias = None
    if settings.has_biases:
        bias = b.exactly(torch.cat([stacked(2), stacked(3)], 1), b.dtype)
    length, batch, _ = sizes_of(x)
    whole, last = (length, len(own), batch, hidden), (len(own), batch, hidden)
    inputs = [x, b.exactly(stacked(0), b.dtype), b.exactly(stacked(1), b.dtype), bias, None, *states]
    return b.add_many(
        settings.op_type, inputs, [whole, *([last] * len(states))], hidden_size=hidden, **settings.attributes
    )


def _known(b: Builder, value: ir.Value) -> torch.Tensor:
    tensor = b.known(value)
    if tensor is None:
        raise Unsupported("weights that are computed")
    return tensor


def lstm_cell(
    b: Builder, x: ir.Value, hx: Sequence[ir.Value], w_ih: ir.Value, w_hh: ir.Value, b_ih: ir.Value | None = None,
    b_hh: ir.Value | None = None,
) -> Sequence[ir.Value]:  # fmt: skip
    hidden, cell = hx
    gates = b.add("Add", _product(b, x, w_ih, b_ih), _product(b, hidden, w_hh, b_hh))
    enter, keep, new, leave = b.split(gates, 1, [sizes_of(hidden)[1]] * 4)
    kept = b.add("Mul", b.add("Sigmoid", keep), cell)
    entered = b.add("Mul", b.add("Sigmoid", enter), b.add("Tanh", new))
    cell = b.add("Add", kept, entered)
    return [b.add("Mul", b.add("Sigmoid", leave), b.add("Tanh", cell)), cell]


def gru_cell(
    b: Builder, x: ir.Value, hx: ir.Value, w_ih: ir.Value, w_hh: ir.Value, b_ih: ir.Value | None = None,
    b_hh: ir.Value | None = None,
) -> ir.Value:  # fmt: skip
    """new + update · (state - new), which is torch's own form of the mean."""
    sizes = [sizes_of(hx)[1]] * 3
    inputs = b.split(_product(b, x, w_ih, b_ih), 1, sizes)
    states = b.split(_product(b, hx, w_hh, b_hh), 1, sizes)
    reset, update = (b.add("Sigmoid", b.add("Add", inputs[i], states[i])) for i in (0, 1))
    new = b.add("Tanh", b.add("Add", inputs[2], b.add("Mul", reset, states[2])))
    return b.add("Add", new, b.add("Mul", update, b.add("Sub", hx, new)))


def rnn_cell(activation: str) -> Entry:
    """A plain recurrent cell of that activation."""

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
