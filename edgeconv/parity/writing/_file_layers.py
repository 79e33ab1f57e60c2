"""The layers of another converter's file by the module's values: for whoever cuts one of them out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.errors import RewriteError
from edgeconv.graph.traits import Trait, having_any
from edgeconv.parity.writing._alike import Alike, orders_of
from edgeconv.parity.writing._float_layers import expected_of, layers_of_floats
from edgeconv.parity.writing._held import Graph
from edgeconv.parity.writing._integers import layers_of_integers
from edgeconv.parity.writing._layers import Ends, LayerOff, OnValues
from edgeconv.parity.writing._read_back import ReadBack

_OF_FLOATS = "fp32"
_MOVING = having_any([Trait.MOVES, Trait.SCALED]) | {
    *("QUANTIZE", "DEQUANTIZE", "PAD", "PADV2", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS")
}
"""Of both formats, what a converter may put before an operator."""
_MOST_WRONG = 8  # tensors that are looked at for what they have to be
_SAME = 1e-9  # of the largest number: what two graphs round otherwise in float64


class FileLayers:
    """Each tensor of a file beside the value of the module that it is, or has to be.

    Args:
        file: read back.
        models: the module's graphs, in each form that a converter may have it in, the one with most of its folds last.
        sample: and what the module makes of it.
        ends: of the file.

    Raises:
        RewriteError: the file cannot be evaluated on real numbers.
        EmitError: likewise.
    """

    def __init__(self, file: ReadBack, models: Sequence[ir.Model], sample: OnValues, ends: Ends) -> None:
        real = file.real
        if real is None:
            raise RewriteError("it has subgraphs, or chooses scales as it runs, and is not read layer by layer")
        self._file, self._sample = real, sample
        self._graphs = [Graph(model) for model in reversed(models)]
        self._inputs = {key: spec.name for key, spec in zip(real.inputs, ends.inputs, strict=True)}
        self._layers = (
            layers_of_floats(real, sample, ends)
            if file.variant == _OF_FLOATS
            else layers_of_integers(file, real, [graph.real_constants for graph in self._graphs], sample, ends)
        )
        self._due: dict[Hashable, Alike | None] = {}

    @cached_property
    def holding(self) -> Mapping[str, Array]:
        """By the tensors that are a value of the module that value, as the file arranges it: float64."""
        held = ((layer, layer.alike) for layer in self._layers if layer.holds)
        return {self._name(layer): self._arranged(alike, layer) for layer, alike in held if alike is not None}

    def is_wrong(self, tensor: str) -> bool:
        """Whether a tensor is none of the module's values on this sample."""
        return tensor not in self.holding

    def expected(self, tensor: str) -> Array | None:
        """What a tensor has to be, as the file arranges it: float64; None where no value of the module tells."""
        layer = next((layer for layer in self._layers if self._name(layer) == tensor), None)
        due = None if layer is None else self._due_of(layer)
        return None if layer is None or due is None else self._arranged(due, layer)

    def tensor_of(self, name: str) -> str | None:
        """The tensor that is, or has to be, a value of the module, or the last one that is named below it.

        Of one that the file does not have by itself, it is the first that is computed of it: a layer with its
        activation.
        """
        return next(filter(None, map(self._computed_of, self._named(name))), None)

    def _computed_of(self, name: str) -> str | None:
        for graph in self._graphs:
            values = [value for node in graph.model.graph for value in node.outputs if value.name == name]
            seen = set(values)
            for value in values:
                if tensor := self._tensor_with(value.name or ""):
                    return tensor
                after = (result for use in value.uses() for result in use.node.outputs)
                values += [result for result in after if result not in seen]  # the loop goes on with them
                seen.update(values)
        return None

    def _tensor_with(self, value: str) -> str | None:
        """The first tensor that is a value of the module, or has to be."""
        array = self._sample.values.get(value)
        if array is None:
            return None
        for layer in self._layers:
            if layer.holds and layer.alike is not None and _is_same(array, self._sample.values[layer.alike.value]):
                return self._name(layer)
        # What is computed of a wrong tensor is wrong, too, and no cause explains it: the search ends soon.
        wrong = islice((layer for layer in self._layers if not layer.holds), _MOST_WRONG)
        due = ((layer, self._due_of(layer)) for layer in wrong)
        return next((self._name(layer) for layer, alike in due if alike is not None and alike.value == value), None)

    def _name(self, layer: LayerOff) -> str:
        return self._file.names[layer.tensor]

    def _arranged(self, alike: Alike, layer: LayerOff) -> Array:
        return alike.arranged(self._sample.values[alike.value], layer.shape)

    @cached_property
    def _known(self) -> dict[Hashable, str]:
        """The module's value by the keys of tensors that are one as it has it, and of the file's inputs."""
        held = ((layer.tensor, layer.alike) for layer in self._layers if layer.holds)
        return self._inputs | {key: alike.value for key, alike in held if alike is not None and alike.plain}

    def _named(self, name: str) -> Iterator[str]:
        """The module's values of a name, then those below it, the last first."""
        order = [value.name or "" for graph in self._graphs for node in graph.model.graph for value in node.outputs]
        for value in (name, *reversed(order)):
            if value in self._sample.values and (value == name or value.startswith(f"{name}.")):
                yield value

    def _held(self, graph: Graph) -> dict[str, Array]:
        return {name: self._sample.values[name] for name in set(self._known.values()) & graph.named}

    def _due_of(self, layer: LayerOff) -> Alike | None:
        """The value that a tensor is or has to be: by likeness, by a cause, or by what it is computed from."""
        if layer.tensor not in self._due:
            self._due[layer.tensor] = layer.alike or self._explained(layer) or self._of_same_operands(layer)
        return self._due[layer.tensor]

    def _explained(self, layer: LayerOff) -> Alike | None:
        expected = expected_of(layer, self._file, self._layers, self._sample, self._graphs)
        return None if expected is None else expected.alike

    def _of_same_operands(self, layer: LayerOff) -> Alike | None:
        """The first of the module's values that are computed of the same ones, and the next of an activation."""
        read, array = self._read(layer), layer.array
        if not read or array is None:
            return None
        for graph in self._graphs:
            held = self._held(graph)
            values = {*held, *self._inputs.values()}
            free = [name for name in graph.floats if name in self._sample.values and name not in held]
            of_size = [name for name in free if self._sample.values[name].size == array.size]
            same = [name for name in of_size if graph.operands(name, held) & values == read]
            same.sort(key=lambda name: len(graph.values_between(name, held)))
            if same:
                name = same[min(int(layer.part.activates), len(same) - 1)]
                return min((Alike(name, axes) for axes in orders_of(self._sample.values[name])), key=self._off(layer))
        return None

    def _off(self, layer: LayerOff) -> Callable[[Alike], float]:
        """How far a tensor is from a value in some order of its axes."""
        array = layer.array
        assert array is not None
        return lambda alike: float(np.square(self._arranged(alike, layer) - array).sum())

    def _read(self, layer: LayerOff) -> frozenset[str]:
        """The module's values that one operator computes a tensor from; none where a wrong layer lies before it."""
        makers = {key: item.part for item in self._layers for key in item.part.outputs}
        waiting, read = [layer.part], set[str]()
        computing = set[Hashable]()
        while waiting:
            part = waiting.pop()
            if part.operator not in _MOVING:
                computing.update(part.outputs)
            for key in part.inputs:
                if key in self._known:
                    read.add(self._known[key])
                elif key in makers:
                    waiting.append(makers[key])
        return frozenset(read) if len(computing) <= 1 else frozenset()


def _is_same(array: Array, other: Array) -> bool:
    """Whether two graphs compute one value."""
    if array.shape != other.shape or array.dtype.kind != other.dtype.kind:
        return False
    return bool(np.allclose(array, other, rtol=0, atol=_SAME * float(np.abs(array).max(initial=0.0)), equal_nan=True))
