"""LSTM, GRU and RNN as what they are step by step: TFLite's own operators keep their state from one call to the next.

UNIDIRECTIONAL_SEQUENCE_LSTM begins where the last call ended, unless the program resets the file's variables: two calls
with the same input would give two results. So each step is written out, up to `LONGEST` of them. The products with the
inputs of all steps are one layer in front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.emit.tflite.lower._lowering import refusal
from edgeconv.graph.edit import KEEP_FLOAT, constant, input_of, is_taken
from edgeconv.graph.recurrence import RECURRENT, activations_of
from edgeconv.graph.steps import Steps, sizes_of

LONGEST = 256
"""Steps in both directions together: an LSTM of 256 is some 4,000 operators."""
WHOLE_LAYER = "the recurrent layer"
"""The beginning of the one reason to stay float that all operators of a written-out layer share."""
# The operator of each activation; those that are missing are no operators.
_ACTIVATIONS: Mapping[str, str] = {
    "elu": "Elu",
    "hardsigmoid": "HardSigmoid",
    "leakyrelu": "LeakyRelu",
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "tanh": "Tanh",
}
Array = npt.NDArray[Any]


def unrolled(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    """The graph with its recurrent layers written out; itself where it has none.

    Args:
        model: left as it is.
        sizes: of its symbolic dimensions, which the graph that is returned has in their place.

    Raises:
        EmitError: a layer of more than `LONGEST` steps, of computed weights, of a shape that is not known, or with an
            activation that has no form.
    """
    if not any(node.op_type in RECURRENT and node.domain == "" for node in model.graph):
        return model
    model = model.clone()
    for value in (*model.graph.inputs, *(value for node in model.graph for value in node.outputs)):
        if value.shape is not None and sizes:
            value.shape = value.shape.evaluate(sizes)
    for node in list(model.graph):
        if node.op_type in RECURRENT and node.domain == "":
            _write_out(model.graph, node)
    return model


@dataclass(frozen=True)
class _Direction:
    """One direction of a layer; the weights lie as MatMul takes them.

    Attributes:
        steps: what appends nodes.
        op_type: LSTM, GRU or RNN.
        weight: [inputs, gates * hidden].
        recurrence: [hidden, gates * hidden].
        bias: of input and state, [gates * hidden] each.
        holes: the peepholes of an LSTM, each [hidden], or None.
        functions: the activations: name of the operator and its attributes.
        node: the layer.
    """

    steps: Steps
    op_type: str
    weight: Array
    recurrence: Array
    bias: tuple[Array, Array]
    holes: Sequence[Array] | None
    functions: Sequence[tuple[str, Mapping[str, float]]]
    node: ir.Node
    constants: dict[str, ir.Value] = field(default_factory=dict)

    @property
    def hidden(self) -> int:
        """The size of the state."""
        return len(self.recurrence)

    def activated(self, number: int, x: ir.Value) -> ir.Value:
        """An activation of x, after the node's ``clip``."""
        clip = self.node.attributes.get_float("clip", 0.0)
        if clip:
            bounds = [self.row(np.array(bound), name) for bound, name in ((-clip, "lowest"), (clip, "highest"))]
            x = self.add("Clip", x, *bounds)
        return self.function(number, x)

    def function(self, number: int, x: ir.Value) -> ir.Value:
        """An activation."""
        operator, attributes = self.functions[number]
        return self.add(operator, x, **attributes)

    def add(self, operator: str, x: ir.Value, *others: ir.Value, **attributes: float) -> ir.Value:
        """A node that keeps the shape of its first input."""
        return self.steps.add(operator.lower(), operator, [x, *others], sizes_of(x), attributes)

    def row(self, array: Array, name: str) -> ir.Value:
        """A constant, which all steps share."""
        if name not in self.constants:
            self.constants[name] = self.steps.constant(np.array(array, np.float32, order="C"), name)
        return self.constants[name]

    def product(self, state: ir.Value | None, gates: slice, name: str) -> ir.Value | None:
        """The state times its weights of some gates; None of a state of zeros."""
        if state is None:
            return None
        columns = slice(gates.start * self.hidden, gates.stop * self.hidden)
        weight = self.recurrence[:, columns]
        sizes = [sizes_of(state)[0], weight.shape[1]]
        return self.steps.add(name, "MatMul", [state, self.row(weight, f"{name}.weight")], sizes)

    def gates(self, x: ir.Value) -> list[ir.Value]:
        """The gates beside each other in x, [batch, gates * hidden], as one value each."""
        return self.steps.split(x, [self.hidden] * (sizes_of(x)[1] // self.hidden), 1, "gate")

    def plus(self, x: ir.Value, other: ir.Value | None) -> ir.Value:
        """The sum, or x where there is nothing to add (a state of zeros)."""
        return x if other is None else self.add("Add", x, other)


State = tuple[ir.Value | None, ...]


def _rnn(layer: _Direction, x: ir.Value, state: State) -> State:
    return (layer.activated(0, layer.plus(x, layer.product(state[0], slice(0, 1), "past"))),)


def _lstm(layer: _Direction, x: ir.Value, state: State) -> State:
    """Gates in the order input, output, forget, cell."""
    hidden, cell = state
    enter, leave, keep, new = layer.gates(layer.plus(x, layer.product(hidden, slice(0, 4), "past")))

    def seen(gate: ir.Value, index: int, value: ir.Value | None) -> ir.Value:
        if layer.holes is None or value is None:
            return gate
        return layer.add("Add", gate, layer.add("Mul", value, layer.row(layer.holes[index], f"peephole_{index}")))

    # Without a cell before it, nothing is forgotten, and the forget gate is not computed.
    enter = layer.activated(0, seen(enter, 0, cell))
    entered = layer.add("Mul", enter, layer.activated(1, new))
    if cell is not None:
        if layer.node.attributes.get_int("input_forget", 0):
            ones = layer.row(np.ones(1), "one")
            share = layer.steps.add("rest", "Sub", [ones, enter], sizes_of(enter), dtype=enter.dtype)
        else:
            share = layer.activated(0, seen(keep, 2, cell))
        cell = layer.add("Add", layer.add("Mul", share, cell), entered)
    else:
        cell = entered
    leave = layer.activated(0, seen(leave, 1, cell))
    return layer.add("Mul", leave, layer.function(2, cell)), cell


def _gru(layer: _Direction, x: ir.Value, state: State) -> State:
    """Gates in the order update, reset, new; new + update · (state - new) is the mean of both."""
    (hidden,) = state
    inputs, before_reset = layer.gates(x), bool(layer.node.attributes.get_int("linear_before_reset", 0))
    # linear_before_reset: the new gate's product takes the state as it is, and is reset; else it takes the reset state.
    past = layer.product(hidden, slice(0, 3 if before_reset else 2), "past")
    pasts: list[ir.Value | None] = [None] * 3
    if past is not None:
        pasts = [*layer.gates(past), None][:3]
    update, reset = (layer.activated(0, layer.plus(inputs[i], pasts[i])) for i in (0, 1))
    bias = layer.row(layer.bias[1][2 * layer.hidden :], "new.bias")
    if before_reset:
        inner = pasts[2]
        if inner is None:  # a state of zeros leaves the bias
            candidate = layer.add("Mul", reset, bias)
        else:
            candidate = layer.add("Mul", reset, layer.add("Add", inner, bias))
    else:
        reduced = None if hidden is None else layer.add("Mul", reset, hidden)
        candidate = layer.product(reduced, slice(2, 3), "reduced") or bias
        candidate = layer.add("Add", candidate, bias) if candidate is not bias else bias
    new = layer.activated(1, layer.add("Add", inputs[2], candidate))
    if hidden is None:
        ones = layer.row(np.ones(1), "one")
        share = layer.steps.add("rest", "Sub", [ones, update], sizes_of(update), dtype=update.dtype)
        return (layer.add("Mul", share, new),)
    return (layer.add("Add", new, layer.add("Mul", update, layer.add("Sub", hidden, new))),)


_STEPS: Mapping[str, Callable[[_Direction, ir.Value, State], State]] = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}


def _write_out(graph: ir.Graph, node: ir.Node) -> None:
    x, weight, recurrence = node.inputs[0], _array(node, 1, "weights"), _array(node, 2, "weights")
    if x is None or x.shape is None or not x.shape.is_static():
        _refuse(node, "its shape is not known")
    if weight is None or recurrence is None:
        _refuse(node, "it has no weights")
    length, count = sizes_of(x)[0], len(weight)
    if length * count > LONGEST:
        _refuse(node, f"it has {length * count} steps, and at most {LONGEST} are written out")
    named = next((value.name for value in node.outputs if value.name), node.op_type)
    # Said before the steps are made: they take over the marks of the node.
    node.metadata_props[KEEP_FLOAT] = f"{WHOLE_LAYER} {named!r} is computed in floats"
    steps = Steps(graph, node, f"{named}/")
    direction = node.attributes.get_string("direction", "forward")
    runs = []
    for number in range(count):
        layer = _direction(steps, node, number, weight[number], recurrence[number])
        runs.append(_run(layer, x, _begin(steps, node, number), number == 1 or direction == "reverse"))
    steps.replace(_results(steps, node, runs))


def _results(steps: Steps, node: ir.Node, runs: Sequence[tuple[list[ir.Value], State]]) -> dict[ir.Value, ir.Value]:
    """The values that replace the node's outputs, for those that are read."""
    batch, hidden = sizes_of(runs[0][0][0])
    length, count = len(runs[0][0]), len(runs)
    results: dict[ir.Value, ir.Value] = {}
    for index, result in enumerate(node.outputs):
        if not is_taken(result):
            continue
        if index == 0:
            rows = [steps.concat(run[0], 0, f"steps_{number}") for number, run in enumerate(runs)]
            shape = [length, 1, batch, hidden]
            parts = [steps.reshape(row, shape, f"direction_{number}") for number, row in enumerate(rows)]
        else:
            ends = [run[1][index - 1] for run in runs]
            parts = [steps.reshape(end, [1, batch, hidden], f"end_{index}_{n}") for n, end in enumerate(ends)]
        joined = steps.concat(parts, 1 if index == 0 else 0, f"directions_{index}") if count > 1 else parts[0]
        results[result] = joined
    return results


def _run(layer: _Direction, x: ir.Value, state: State, backwards: bool) -> tuple[list[ir.Value], State]:
    """The output of each step, in the order of the input, and the last states."""
    length, batch, inputs = sizes_of(x)
    bias = layer.bias[0].copy()
    # The biases of input and state are one sum, added once for all steps.
    bias_size = bias.size if layer.op_type != "GRU" else 2 * layer.hidden
    bias[:bias_size] += layer.bias[1][:bias_size]  # but for the GRU's new gate, which resets its own
    # One product with the inputs of all steps; each step slices its rows.
    flat = layer.steps.reshape(x, [length * batch, inputs], "inputs")
    sizes = [length * batch, bias.size]
    wide = layer.steps.add("entering", "MatMul", [flat, layer.row(layer.weight, "input.weight")], sizes)
    wide = layer.add("Add", wide, layer.row(bias, "input.bias"))
    # A step of a batch is all of the batch's axis, which may be open.
    stacked = layer.steps.reshape(wide, [length, batch, bias.size], "entered") if batch > 1 < length else wide
    outputs: dict[int, ir.Value] = {}
    for place in reversed(range(length)) if backwards else range(length):
        entering = wide
        if length > 1:
            entering = layer.steps.slice(stacked, 0, place, place + 1, "step")
            entering = layer.steps.reshape(entering, [batch, bias.size], "step.flat") if batch > 1 else entering
        after = _STEPS[layer.op_type](layer, entering, state)
        is_inside = _is_inside(layer, place, batch)
        if is_inside is not None:
            outputs[place] = _chosen(layer, is_inside, after[0], None)
            state = tuple(_chosen(layer, is_inside, new, old) for new, old in zip(after, state, strict=True))
        else:
            state = after
            if state[0] is not None:
                outputs[place] = state[0]
    return [outputs[place] for place in range(length)], state


def _is_inside(layer: _Direction, place: int, batch: int) -> ir.Value | None:
    """Whether a step lies before the end of each sequence, [batch, 1]; None where it does in all of them."""
    lengths = input_of(layer.node, 4)
    if lengths is None:
        return None
    stated = constant(lengths)
    if stated is None:
        bound = layer.steps.constant(np.array(place, np.int32), "place")
        longer = layer.steps.add("longer", "Greater", [lengths, bound], [batch], dtype=ir.DataType.BOOL)
        return layer.steps.reshape(longer, [batch, 1], "inside")
    inside = stated > place
    return None if inside.all() else layer.steps.constant(inside[:, None], "inside")


def _chosen(layer: _Direction, is_inside: ir.Value, new: ir.Value | None, old: ir.Value | None) -> ir.Value:
    """The new state of the sequences that are not at their end, the old one (None: zeros) of the others."""
    other = layer.row(np.zeros(1), "zero") if old is None else old
    if new is None:
        return other
    return layer.steps.add("state", "Where", [is_inside, new, other], sizes_of(new), dtype=new.dtype)


def _begin(steps: Steps, node: ir.Node, number: int) -> State:
    """The initial states of a direction, [batch, hidden]; None for zeros."""
    states: list[ir.Value | None] = []
    for index in (5, 6) if node.op_type == "LSTM" else (5,):
        value = input_of(node, index)
        array = constant(value)
        if value is None or (array is not None and not array.any()):
            states.append(None)
            continue
        part = steps.slice(value, 0, number, number + 1, f"begin_{index}")
        states.append(steps.reshape(part, sizes_of(value)[1:], f"begin_{index}.flat"))
    return tuple(states)


def _direction(steps: Steps, node: ir.Node, number: int, weight: Array, recurrence: Array) -> _Direction:
    bias, holes = _array(node, 3, "bias"), _array(node, 7, "peepholes")
    half = len(weight)
    halves = np.zeros(2 * half, np.float32) if bias is None else bias[number]
    return _Direction(
        steps,
        node.op_type,
        weight.T,
        recurrence.T,
        (halves[:half], halves[half:]),
        None if holes is None else np.split(holes[number], 3),
        _functions(node, number),
        node,
    )


def _functions(node: ir.Node, number: int) -> list[tuple[str, Mapping[str, float]]]:
    """The activations of a direction: each one's operator, and its attributes."""
    activations = activations_of(
        node.op_type,
        number,
        node.attributes.get_strings("activations", ()),
        node.attributes.get_floats("activation_alpha", ()),
        node.attributes.get_floats("activation_beta", ()),
    )
    for activation in activations:
        if activation.name not in _ACTIVATIONS:
            _refuse(node, f"its activation {activation.name!r} has no form")
    return [(_ACTIVATIONS[activation.name], activation.parameters) for activation in activations]


def _array(node: ir.Node, index: int, what: str) -> Array | None:
    array = constant(input_of(node, index))
    if array is None and input_of(node, index) is not None:
        _refuse(node, f"its {what} are no constants")
    return array


def _refuse(node: ir.Node, why: str) -> NoReturn:
    raise refusal(node, why)
