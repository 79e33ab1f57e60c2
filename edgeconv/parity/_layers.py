"""Each layer of a quantized graph by itself: a runtime's integers against the graph's, given the same operands.

The graph is cut at every intermediate whose integers the runtime returns: the layer after it reads the runtime's
integers, and the result of the layer before it is quantized and compared with them. So errors do not add up: each
layer answers for its own rounding alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array, Comparison, Fidelity, IntegerTensor, LayerSteps
from edgeconv.core.affine import dequantized, limits_of, saturated
from edgeconv.core.threads import one_thread
from edgeconv.errors import ParityError
from edgeconv.graph.edit import producer_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.traits import Trait, having
from edgeconv.parity._fidelity import failed, steps_apart
from edgeconv.parity._kernels import KernelSite, allowance

_HELD = "/held"  # suffix of the graph inputs that take a runtime's integers


def layer_steps(
    model: ir.Model,
    tensors: Sequence[IntegerTensor],
    samples: Sequence[Mapping[str, Array]],
    runs: Sequence[Mapping[str, Array]],
) -> tuple[LayerSteps, ...]:
    """Measures every layer that ends in one of the tensors.

    Args:
        model: the quantized graph; not changed.
        tensors: the intermediates that the runtime returns. Quantized values that are not among them lie within a
            layer, and are not rounded.
        samples: the graph's inputs, NCHW, by name.
        runs: for each sample the integers of every tensor, by the tensor's name, in the file's layout.

    Returns:
        One entry per tensor, in the graph's order. The reference is computed in float64, rounded half to even and
        saturated, as QuantizeLinear does.

    Raises:
        ParityError: the graph does not quantize what a tensor is said to hold.
        RewriteError: the graph cannot be evaluated.
    """
    from edgeconv.reference import evaluate_each  # torch, which proving again does not need

    cut = _Cut(model, tensors)
    counts_by_end: list[Counter[int]] = [Counter() for _ in cut.ends]
    feeds = ({**sample, **cut.feeds(run)} for sample, run in zip(samples, runs, strict=True))
    with one_thread():
        for values, run in zip(evaluate_each(cut.model, feeds, keep=cut.value_names), runs, strict=True):
            for counts, end in zip(counts_by_end, cut.ends, strict=True):
                counts.update(_steps(end.tensor, run[end.tensor.name], values[end.value]))
    return tuple(
        LayerSteps(end.title, end.operators, dict(sorted(counts.items())), *end.allowance)
        for counts, end in zip(counts_by_end, cut.ends, strict=True)
    )


def judge_layers(row: Comparison, layers: Sequence[LayerSteps]) -> Comparison:
    """A row with the layers of its artifact, and the verdict that they leave it.

    A layer may be off by what the row's bound says, or by what its kernel is specified to be where that is more.
    """
    row = replace(row, layers=tuple(layers))
    most_lsb = row.tolerance.layer_lsb if isinstance(row.tolerance, Fidelity) else None
    if most_lsb is None:
        return row
    off = [layer for layer in layers if layer.largest > max(most_lsb, layer.most)]
    if not off:
        return row
    worst = max(off, key=lambda layer: layer.largest)
    operators = f" ({', '.join(worst.operators)})" if worst.operators else ""
    others = f", and {len(off) - 1} more of {len(layers)}" if len(off) > 1 else ""
    steps = "1 step" if worst.largest == 1 else f"{worst.largest} steps"
    reason = (
        f"layer {worst.name}{operators} is {steps} from what the graph makes of its operands, at most "
        f"{max(most_lsb, worst.most)} are allowed{others}"
    )
    return failed(row, reason)


def unjudged_layers(row: Comparison, why: str) -> Comparison:
    """The row, failed, of a device that should return intermediates and did not."""
    return failed(row, f"its layers cannot be judged: {why}")


@dataclass(frozen=True)
class _End:
    """The end of a layer: tensor, name of the float value before quantization and after, operators, allowance."""

    tensor: IntegerTensor
    value: str
    title: str
    operators: tuple[str, ...]
    allowance: tuple[int, str]


class _Cut:
    """A copy of the graph that reads a runtime's integers at every cut, and rounds nowhere else.

    Attributes:
        model: its inputs are the graph's, and one for every cut value.
        ends: where it was cut, in its order.
    """

    def __init__(self, model: ir.Model, tensors: Sequence[IntegerTensor]) -> None:
        self.model = model.clone()
        self._inputs: list[tuple[IntegerTensor, ir.Value]] = []
        graph = self.model.graph
        self._graph_inputs = frozenset(graph.inputs)
        order = {node: at for at, node in enumerate(graph)}
        pairs = {_name_of(node.outputs[0]): node for node in graph if node.op_type == "QuantizeLinear"}
        unknown = sorted({name for tensor in tensors for name in tensor.values} - pairs.keys())
        if unknown:
            raise ParityError(f"the graph quantizes no {unknown[0]!r}", where="layers", hint="export again")
        titles = {name: self._cut(pairs[name], tensor) for tensor in tensors for name in tensor.values}
        for name in pairs.keys() - titles.keys():
            _bypass(pairs[name])
        ends = []
        for tensor in sorted(tensors, key=lambda tensor: order[pairs[tensor.values[0]]]):
            source = pairs[tensor.values[0]].inputs[0]
            nodes = _between(source, order)
            types = tuple(node.op_type for node in nodes)
            title, allowed = titles[tensor.values[0]], self._allowed(tensor, nodes)
            ends.append(_End(tensor, _name_of(source), title, types, allowed))
        self.ends = tuple(ends)

    @property
    def value_names(self) -> list[str]:
        """The values to evaluate, each once."""
        return list(dict.fromkeys(end.value for end in self.ends))

    def feeds(self, run: Mapping[str, Array]) -> dict[str, Array]:
        """The cut values as real numbers in torch's layout, of a runtime's integers."""
        return {_name_of(value): _real(tensor, run[tensor.name], _shape(value)) for tensor, value in self._inputs}

    def _allowed(self, tensor: IntegerTensor, nodes: Sequence[ir.Node]) -> tuple[int, str]:
        """The largest allowance of a layer's operators."""
        scales = {value: operand.scale for operand, value in self._inputs}
        sites = []
        for node in nodes:
            source = next((scales[value] for value in node.inputs if value in scales), tensor.scale)
            sites.append(KernelSite(node, source, tensor.scale, tensor.dtype))
        return max(map(allowance, sites), default=(0, ""))

    def _cut(self, node: ir.Node, tensor: IntegerTensor) -> str:
        """Replaces a dequantized value by a graph input for the runtime's integers; returns the value's former name."""
        source, integers = node.inputs[0], node.outputs[0]
        assert source is not None  # QuantizeLinear has an operand
        runtime_input = ir.Value(
            name=unique_name(self.model.graph, f"{integers.name}{_HELD}"), shape=source.shape, type=source.type
        )
        self.model.graph.inputs.append(runtime_input)
        self._inputs.append((tensor, runtime_input))
        results = [use.node.outputs[0] for use in integers.uses()]
        for result in results:
            ir.convenience.replace_all_uses_with(result, runtime_input, replace_graph_outputs=True)
        return _name_of(source if source in self._graph_inputs or not results else results[0])


def _bypass(node: ir.Node) -> None:
    """Removes the rounding of a value within a layer: the runtime's operator does not round it."""
    source, results = node.inputs[0], [use.node.outputs[0] for use in node.outputs[0].uses()]
    assert source is not None  # QuantizeLinear has an operand
    for result in results:
        ir.convenience.replace_all_uses_with(result, source, replace_graph_outputs=True)


def _shape(value: ir.Value) -> list[int]:
    """The dimensions, -1 for an open batch."""
    assert value.shape is not None  # every value of a graph has one
    return [size if isinstance(size, int) else -1 for size in value.shape]


def _name_of(value: ir.Value | None) -> str:
    """The name of a value that has one."""
    return (value.name if value is not None else None) or ""


def _between(value: ir.Value | None, order: Mapping[ir.Node, int]) -> list[ir.Node]:
    """The operators between a value and the graph's inputs, but for those that only quantize and dequantize."""
    visited: set[ir.Node] = set()
    left = [value]
    while left:
        value = left.pop()
        node = producer_of(value)
        if node is not None and node not in visited:
            visited.add(node)
            left += node.inputs
    nodes = sorted(visited, key=order.__getitem__)
    return [node for node in nodes if node.op_type not in having(Trait.SCALED)]


def _real(tensor: IntegerTensor, integers: Array, shape: Sequence[int]) -> Array:
    """What integers of a file stand for, as a value of this shape."""
    return dequantized(_as_value(tensor, integers, shape), tensor.scale, tensor.zero_point)


def _as_value(tensor: IntegerTensor, integers: Array, shape: Sequence[int]) -> Array:
    """A file's tensor in torch's layout; -1 in the shape is an open batch."""
    return integers.reshape([shape[axis] for axis in tensor.axes]).transpose(np.argsort(tensor.axes))


def _steps(tensor: IntegerTensor, integers: Array, real: Array) -> Mapping[int, int]:
    """How many elements are how many steps from the integers that stand for real numbers."""
    expected = saturated(real / tensor.scale, limits_of(tensor.dtype), tensor.zero_point)
    return steps_apart([(_as_value(tensor, integers, real.shape), expected)], 1.0)
