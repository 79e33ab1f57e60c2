"""Recurrent layers, in real numbers, and SVDF in integers, too.

Specification: UNIDIRECTIONAL_SEQUENCE_LSTM, UNIDIRECTIONAL_SEQUENCE_RNN, SVDF; tensorflow/lite/kernels/lstm_eval.cc,
svdf.cc. States are variable tensors, and begin at 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgeconv.reference.tflite._call import Call, Kernel
from edgeconv.reference.tflite._fixed_point import factor, multiplied
from edgeconv.reference.tflite._graph import Array
from edgeconv.reference.tflite._operators._requantize import fitting

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
        centered = total - total.mean(axis=-1, keepdims=True)
        total = centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + _NORM_EPSILON) * call.real(20 + gate)
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


def _svdf(call: Call) -> Array:
    """SVDF (Nakkiran et al., 2015): filters of rank 1. Each weighs the data, keeps the last results, and weighs these.

    Inputs: data (batch, size), weights of the data (filters, size) and of time (filters, memory), a bias (units,), the
    memory as a state (batch, filters * memory). A unit adds up `rank` filters. A quantized memory is rounded to its own
    scale.
    """
    rank, x, time = call.integer("rank"), call[0], call[2]
    if x.ndim != 2 or time.ndim != 2 or rank < 1 or time.shape[0] % rank:
        raise call.refuse(f"has data {list(x.shape)}, weights of time {list(time.shape)} and the rank {rank}")
    operand = call.integers if call.quantized else call.real
    newest = operand(0) @ operand(1).T
    if call.quantized:
        real = call.scale(0) * call.scale(1) / call.scale(4)
        low, high = call.range_of(call.source(4))
        point = call.zero_point(4)
        newest = np.clip(multiplied(newest, factor(float(real))) + point, low, high) - point
    memory = operand(4).reshape(*newest.shape, time.shape[1])
    memory = np.concatenate([memory[..., 1:], newest[..., None]], axis=-1)
    filters = (memory * operand(2)).sum(axis=-1)
    units = filters.reshape(x.shape[0], -1, rank).sum(axis=-1)
    if not call.quantized:
        return call.activated(units if call.optional(3) is None else units + call.real(3))
    # EvalIntegerSVDF (kernels/internal/reference/svdf.h) has no activation but for the range of its integers.
    total = fitting(call, units if call.optional(3) is None else units + call[3].astype(np.int64))
    by = factor(float(call.scale(4) * call.scale(2) / call.scale(call.result)))
    return call.saturated(multiplied(total, by) + call.zero_point(call.result))


OPERATORS: Mapping[str, Kernel] = {
    "SVDF": _svdf,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
    "UNIDIRECTIONAL_SEQUENCE_RNN": _rnn,
}
