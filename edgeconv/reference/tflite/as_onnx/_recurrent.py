"""Recurrent layers of the first run of a file, in which the states begin at 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgeconv.reference.tflite.as_onnx._site import Rule, Site

_ACTIVATIONS = {1: "Relu", 4: "Tanh"}  # schema.fbs: ActivationFunctionType
_TANH = 4
# TFLite's order of gates is input, forget, cell, output; ONNX's is input, output, forget, cell; of peepholes the same
# without the cell.
_GATES, _PEEPHOLES = (0, 3, 1, 2), (0, 2, 1)
# Inputs of the LSTM (kernels/lstm_shared.h): 1 to 4 weights of the data, 5 to 8 of the output before, by gate; 9 to 11
# peepholes, 12 to 15 biases, 16 and 17 the projection, 18 and 19 the states, 20 to 23 scales of the layer norm.
_FORGET = 1
_PEEPHOLE = {0: 9, 1: 10, 3: 11}
_NORM_EPSILON = 1e-8  # kNormalizationConstant of MeanStddevNormalization, portable_tensor_utils.cc
_MOST_STEPS = 512  # of some twenty operators each


def _lstm(site: Site) -> None:
    """Inputs as `edgeconv.reference.tflite._operators.recurrent` lists them. Where there is no input gate, it lets in
    what the forget gate leaves: 1 - sigmoid(x) = sigmoid(-x), so that it has the weights of that gate, negated.
    """
    _check(site)
    steps = site.shape(0)[0 if site.call.flag("time_major") else 1]
    # A cell begins at 0 and grows by at most 1 per step: in few steps it cannot reach the bound of the clip.
    clip, is_zero = site.call.number("cell_clip"), site.call.source(19).variable
    clips = 0 < clip < steps or (clip > 0 and not is_zero)
    if clips or site.has(16) or any(site.has(at) for at in range(20, 24)):
        _unrolled(site, steps)
        return
    data, recurrent, biases = (_rows(site, [_gate(site, begin, gate) for gate in _GATES]) for begin in (1, 5, 12))
    nothing = site.zeros([1, 4 * site.shape(6)[1]])  # ONNX has biases of the data and of the output before
    whole = site.node("Concat", [biases, nothing], axis=1)
    peepholes = None
    if site.has(10):
        peepholes = _rows(site, [_gate(site, 9, gate) for gate in _PEEPHOLES])
    states = [_state(site, at) for at in (18, 19)]
    operands = [_time_first(site), data, recurrent, whole, None, *states, peepholes]
    site.give(_result(site, "LSTM", operands, hidden_size=site.shape(6)[1]))


def _check(site: Site) -> None:
    call = site.call
    if call.quantized or call.flag("diagonal_recurrent_tensors"):
        raise call.refuse("of quantized integers, or with diagonal weights, is not written in ONNX")
    if call.integer("fused_activation_function") != _TANH:
        raise call.refuse("has another activation than tanh, which ONNX asks for by other names")


def _unrolled(site: Site, steps: int) -> None:
    """Step by step, in operators that ONNX has: what its LSTM cannot do is clip a cell, project and normalize."""
    if steps > _MOST_STEPS:
        what = f"projects its output, clips its cell or has a layer norm, and takes {steps} steps"
        raise site.call.refuse(f"{what}: at most {_MOST_STEPS} are written out one by one")
    weights = _Weights(site)
    x = _time_first(site)
    output, cell, results = site[18], site[19], []
    for step in range(steps):
        # 1. What is forgotten, what enters, and the cell that they make of the one before.
        now = site.node("Gather", [x, site.sizes(step)], axis=0)
        forget = site.node("Sigmoid", [weights.total(1, now, output, cell)])
        if site.has(1):
            entering = site.node("Sigmoid", [weights.total(0, now, output, cell)])
        else:
            entering = site.node("Sub", [weights.one, forget])
        new = site.node("Tanh", [weights.total(2, now, output, None)])
        parts = [site.node("Mul", [forget, cell]), site.node("Mul", [entering, new])]
        cell = weights.clipped(site.node("Add", parts), site.call.number("cell_clip"))
        # 2. What leaves: the output gate's peephole sees the new cell, those of the others saw the one before.
        leaving = site.node("Sigmoid", [weights.total(3, now, output, cell)])
        output = weights.projected(site.node("Mul", [leaving, site.node("Tanh", [cell])]))
        results.append(site.node("Unsqueeze", [output, weights.first]))
    joined = site.node("Concat", results, axis=0)
    site.give(joined if site.call.flag("time_major") else site.node("Transpose", [joined], perm=[1, 0, 2]))


class _Weights:
    """The weights of an unrolled layer, transposed for MatMul, and its constants: all steps share them."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.one, self.first = site.number(1.0), site.sizes([0])
        self._epsilon = site.number(_NORM_EPSILON)
        self._columns = {at: site.weights(at, (1, 0)) for at in (*range(1, 9), 16) if site.has(at)}

    def total(self, gate: int, x: ir.Value, output: ir.Value, cell: ir.Value | None) -> ir.Value:
        """The operand of a gate's activation; gates are input, forget, cell, output."""
        site = self._site
        products = [
            site.node("MatMul", pair) for pair in ((x, self._columns[1 + gate]), (output, self._columns[5 + gate]))
        ]
        total = site.node("Add", products)
        peephole = _PEEPHOLE.get(gate)
        if peephole is not None and cell is not None and site.has(peephole):
            total = site.node("Add", [total, site.node("Mul", [cell, site[peephole]])])
        # The norm is of the sum without the bias, which comes behind it.
        if site.has(20 + gate):
            centered = site.node("Sub", [total, self._mean(total)])
            squares = site.node("Add", [self._mean(site.node("Mul", [centered, centered])), self._epsilon])
            total = site.node("Mul", [site.node("Div", [centered, site.node("Sqrt", [squares])]), site[20 + gate]])
        return site.node("Add", [total, site[12 + gate]])

    def projected(self, output: ir.Value) -> ir.Value:
        """After the projection, where there is one."""
        site = self._site
        if not site.has(16):
            return output
        value = site.node("MatMul", [output, self._columns[16]])
        value = site.node("Add", [value, site[17]]) if site.has(17) else value
        return self.clipped(value, site.call.number("proj_clip"))

    def clipped(self, value: ir.Value, most: float) -> ir.Value:
        """Between a number and its negative; a number of 0 clips nothing."""
        return self._site.clipped(value, -most, most) if most > 0 else value

    def _mean(self, value: ir.Value) -> ir.Value:
        return self._site.node("ReduceMean", [value, self._site.sizes([-1])], keepdims=1)


def _gate(site: Site, begin: int, gate: int) -> ir.Value:
    """A gate's share of the weights, of the biases or of the peepholes."""
    if site.has(1):
        return site[begin + gate]
    return site.node("Neg", [site[begin + _FORGET]]) if gate == 0 else site[begin + gate]


def _rows(site: Site, parts: Sequence[ir.Value]) -> ir.Value:
    """One below the other, for the only direction."""
    return site.node("Unsqueeze", [site.node("Concat", parts, axis=0), site.sizes([0])])


def _state(site: Site, at: int) -> ir.Value | None:
    """A state; a variable one is 0, which is what ONNX begins with."""
    return None if site.call.source(at).variable else site.node("Unsqueeze", [site[at], site.sizes([0])])


def _time_first(site: Site) -> ir.Value:
    return site[0] if site.call.flag("time_major") else site.node("Transpose", [site[0]], perm=[1, 0, 2])


def _result(site: Site, kind: str, operands: Sequence[ir.Value | None], **attributes: int | Sequence[str]) -> ir.Value:
    (value,) = site.builder.nodes(kind, operands, [f"{site.call.result.name}/{kind}"], **attributes)
    value = site.node("Squeeze", [value, site.sizes([1])])
    return value if site.call.flag("time_major") else site.node("Transpose", [value], perm=[1, 0, 2])


def _rnn(site: Site) -> None:
    number = site.call.integer("fused_activation_function")
    if number not in _ACTIVATIONS:
        raise site.call.refuse(f"has the fused activation {number}, which ONNX has no word for here")
    data, recurrent, bias = (_rows(site, [site[at]]) for at in (1, 2, 3))
    size = site.shape(2)[0]
    whole = site.node("Concat", [bias, site.zeros([1, size])], axis=1)
    operands = [_time_first(site), data, recurrent, whole, None, _state(site, 4)]
    site.give(_result(site, "RNN", operands, hidden_size=size, activations=[_ACTIVATIONS[number]]))


def _svdf(site: Site) -> None:
    """See `edgeconv.reference.tflite._operators.recurrent`; of integers no activation is applied."""
    # Inputs (kernels/svdf.cc): data, weights of features and of time, bias, state.
    batch, (filters, memory), rank = site.shape(0)[0], site.shape(2), site.call.integer("rank")
    # 1. The state forgets its oldest column, and gets the newest.
    newest = site.as_stored(site.node("MatMul", [site[0], site.weights(1, (1, 0))]), 4)
    before = site.node("Reshape", [site[4], site.sizes([batch, filters, memory])])
    recent = site.node("Slice", [before, *map(site.sizes, ([1], [memory], [2]))])
    whole = site.node("Concat", [recent, site.node("Unsqueeze", [newest, site.sizes([2])])], axis=2)
    # 2. Each filter weighs its memory; `rank` filters in a row make one unit.
    weighed = site.node("ReduceSum", [site.node("Mul", [whole, site[2]]), site.sizes([2])], keepdims=0)
    parts = site.node("Reshape", [weighed, site.sizes([batch, filters // rank, rank])])
    units = site.node("ReduceSum", [parts, site.sizes([2])], keepdims=0)
    units = site.node("Add", [units, site[3]]) if site.has(3) else units
    site.give(units if site.call.quantized else site.activated(units))


RULES: Mapping[str, Rule] = {
    "SVDF": _svdf,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
    "UNIDIRECTIONAL_SEQUENCE_RNN": _rnn,
}
