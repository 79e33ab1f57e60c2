"""Recurrent layers, in real numbers.

Specification: UNIDIRECTIONAL_SEQUENCE_LSTM, UNIDIRECTIONAL_SEQUENCE_RNN; tensorflow/lite/kernels/lstm_eval.cc. States
are variable tensors, and begin at 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._graph import Array

# The order of the weights among the operator's inputs (kernels/lstm_shared.h).
_INPUT, _FORGET, _CELL, _OUTPUT = range(4)
_TANH = 4  # schema.fbs: ActivationFunctionType
_NORM_EPSILON = 1e-8  # kNormalizationConstant of MeanStddevNormalization, portable_tensor_utils.cc


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def _lstm(call: Call) -> Array:
    """Inputs 1 to 4 weigh the data, 5 to 8 the output before, 9 to 11 the cell (peepholes), for each of the four gates;
    12 to 15 are their biases, 16 and 17 a projection, 18 and 19 the states, 20 to 23 coefficients of a layer norm.
    Without an input gate, it is what the forget gate leaves.
    """
    if call.quantized or call.flag("diagonal_recurrent_tensors"):
        raise call.refuse("of quantized integers, or with diagonal weights, is not computed")
    if call.integer("fused_activation_function") != _TANH:
        raise call.refuse("has another activation than tanh")
    x = call.real(0)
    x = x if call.flag("time_major") else np.swapaxes(x, 0, 1)
    output, cell = call.real(18).copy(), call.real(19).copy()
    results = []
    for step in x:
        forget = _sigmoid(_gate(call, _FORGET, step, output, cell))
        absent = call.optional(1) is None
        entering = 1 - forget if absent else _sigmoid(_gate(call, _INPUT, step, output, cell))
        cell = forget * cell + entering * np.tanh(_gate(call, _CELL, step, output, None))
        cell = _clipped(cell, call.number("cell_clip"))
        output = _sigmoid(_gate(call, _OUTPUT, step, output, cell)) * np.tanh(cell)
        if call.optional(16) is not None:
            output = output @ call.real(16).T + (0.0 if call.optional(17) is None else call.real(17))
            output = _clipped(output, call.number("proj_clip"))
        results.append(output)
    joined = np.stack(results)
    return joined if call.flag("time_major") else np.swapaxes(joined, 0, 1)


def _gate(call: Call, gate: int, x: Array, output: Array, cell: Array | None) -> Array:
    total = x @ call.real(1 + gate).T + output @ call.real(5 + gate).T
    peephole = {_INPUT: 9, _FORGET: 10, _OUTPUT: 11}.get(gate)
    if peephole is not None and cell is not None and call.optional(peephole) is not None:
        total = total + cell * call.real(peephole)
    if call.optional(20 + gate) is not None:
        centred = total - total.mean(axis=-1, keepdims=True)
        total = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + _NORM_EPSILON) * call.real(20 + gate)
    return np.asarray(total + call.real(12 + gate))


def _clipped(x: Array, most: float) -> Array:
    return np.clip(x, -most, most) if most > 0 else x


def _rnn(call: Call) -> Array:
    x = call.real(0)
    x = x if call.flag("time_major") else np.swapaxes(x, 0, 1)
    state, results = call.real(4), []
    tanh = call.integer("fused_activation_function") == _TANH
    for step in x:
        total = step @ call.real(1).T + state @ call.real(2).T + call.real(3)
        state = np.tanh(total) if tanh else call.activated(total)
        results.append(state)
    joined = np.stack(results)
    return joined if call.flag("time_major") else np.swapaxes(joined, 0, 1)


OPERATORS: Mapping[str, Kernel] = {
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
    "UNIDIRECTIONAL_SEQUENCE_RNN": _rnn,
}
