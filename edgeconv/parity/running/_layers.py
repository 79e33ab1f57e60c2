"""The walk over a file: each value that a runtime returns, against what the file makes of the runtime's own operands.

A value is *returned* where the runtime gave it as an output of a probe, and *fed* where it is an input or a constant.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeconv.core import Array
from edgeconv.errors import EdgeconvError
from edgeconv.parity.bounds import Bound
from edgeconv.parity.running._layer_cache import LayerCache
from edgeconv.parity.running._step import Layer, Operand, Step

Reading = Callable[[Hashable, Array], Operand]
"""Makes of a returned value what an operator behind it read."""

_LONG = 8  # operators of a piece, beyond which each kind is named once


@dataclass(frozen=True)
class Judged:
    """What a walk over a sample finds: the layers in the file's order, and why others could not be judged, by name."""

    layers: tuple[Layer, ...]
    unjudged: Mapping[str, str]


def judged_layers(
    steps: Sequence[Step],
    fed: Mapping[Hashable, Operand],
    returned: Mapping[Hashable, Array],
    readings: Sequence[Reading],
    name_of: Callable[[Hashable], str],
    cache: LayerCache | None = None,
) -> Judged:
    """Judges each returned value by the operators that lead to it from returned ones.

    Errors do not add up from layer to layer: an operator reads what the runtime itself had. Where the runtime returns
    nothing, within a piece that it fuses, the exact values go on with the errors that they may have.

    Args:
        steps: the operators, in the order of execution.
        fed: inputs and constants.
        returned: results, as the runtime has them.
        readings: how the operators behind a returned value may have read it; one by which it is right is enough.
        name_of: the name of a returned value.
        cache: layers that were judged already; these are added.
    """
    layers: dict[Hashable, Layer] = {}
    unjudged: dict[str, str] = {}
    left = frozenset(returned)  # the values that no reading so far has found to be right
    for at, reading in enumerate(readings):
        # 1. What another device, or the other layout of the file, computed to the last bit alike was judged there.
        keys = {} if cache is None else cache.keys(steps, fed, returned, at)
        same = {key for key in keys.keys() & left if cache is not None and keys[key] in cache.layers}
        # 2. The others, along the file.
        needed = _needed(steps, returned, left - same)
        walk = _Walk(fed, returned, reading, Counter(key for step in needed for key in step.inputs))
        judged = set()
        for step in needed:
            for key, piece, bound in walk.step(step):
                if key in left - same:
                    judged.add(key)
                    layers[key] = _layer(name_of(key), piece, bound, returned[key])
        if cache is not None:
            layers |= {key: replace(cache.layers[keys[key]], name=name_of(key)) for key in same}
            cache.layers |= {keys[key]: layers[key] for key in judged & keys.keys()}
        for key in walk.unjudged.keys() & layers.keys() & left:
            del layers[key]  # it is not right by a narrower reading, and may be by this one
        unjudged |= {name_of(key): why for key, why in walk.unjudged.items() if key in left}
        left = frozenset(key for key in left if key in layers and not layers[key].used <= 1)
        if not left:
            break
    order = {key: at for at, step in enumerate(steps) for key in step.outputs}
    return Judged(tuple(layers[key] for key in sorted(layers, key=order.__getitem__)), unjudged)


def carried_through(steps: Sequence[Step], fed: Mapping[Hashable, Operand], outputs: Sequence[Hashable]) -> list[Bound]:
    """The outputs of a file, with the worst errors that correct evaluations may add up from the inputs on.

    Errors that are likely are not carried: what grows from layer to layer is what is carried, whatever each adds.

    Args:
        steps: its operators, in the order of execution.
        fed: inputs and constants.
        outputs: the keys of its outputs.

    Raises:
        ParityError: an operator has no bound of operands that have errors.
    """
    values = dict(fed)
    readers_left = Counter([*outputs, *(key for step in steps for key in step.inputs)])
    for step in steps:
        bounds = step.bounds([None if key is None else values[key] for key in step.inputs])
        for key, bound in zip(step.outputs, bounds, strict=False):
            values[key] = replace(bound, likely=bound.worst) if bound.has_errors else bound.exact
        readers_left.subtract(step.inputs)
        for key in {*step.inputs, *step.outputs}:
            if key is not None and readers_left[key] <= 0:
                values.pop(key, None)
    return [_as_bound(values[key]) for key in outputs]


def _as_bound(value: Operand) -> Bound:
    """A value; an exact one as a bound of nothing."""
    if isinstance(value, Bound):
        return value
    exact = np.asarray(value)
    return Bound(exact, np.zeros(exact.shape), np.zeros(exact.shape))


def _needed(steps: Sequence[Step], returned: Collection[Hashable], wanted: Collection[Hashable]) -> list[Step]:
    """The steps that lead to these values from returned ones."""
    keys, needed = set(wanted), []
    for step in reversed(steps):
        if keys.intersection(step.outputs):
            needed.append(step)
            keys.update(key for key in step.inputs if key is not None and key not in returned)
    return needed[::-1]


class _Walk:
    """The values so far, read in one way.

    Attributes:
        unjudged: why others have none.
    """

    def __init__(
        self,
        fed: Mapping[Hashable, Operand],
        returned: Mapping[Hashable, Array],
        reading: Reading,
        reads: Counter[Hashable],
    ) -> None:
        self.unjudged: dict[Hashable, str] = {}
        self._returned, self._reading, self._reads_left = returned, reading, reads
        self._values: dict[Hashable, Operand] = dict(fed)
        self._pieces: dict[Hashable, tuple[str, ...]] = {}

    def step(self, step: Step) -> Iterator[tuple[Hashable, tuple[str, ...], Bound]]:
        """Bounds the results of an operator: of each that is returned, the operators that lead to it, and its bound."""
        # A piece: the operators from the returned values before to here, which the runtime may have fused.
        before = [name for key in step.inputs if key in self._pieces for name in self._pieces[key]]
        piece = (*dict.fromkeys(before), step.operator) if len(before) > _LONG else (*before, step.operator)
        bounds, reason = self._bounds(step)
        for key, bound in zip(step.outputs, bounds, strict=False):
            if key in self._returned:
                if bound is None:
                    self.unjudged[key] = reason
                else:
                    yield key, piece, bound
            elif bound is not None:
                self._values[key] = bound if bound.has_errors else bound.exact
                self._pieces[key] = piece
                if self._reads_left[key] > 1:
                    _ = bound.worst  # computed once, and not for every reader
        self._reads_left.subtract(step.inputs)
        for key in {*step.inputs, *step.outputs}:
            if self._reads_left[key] <= 0:
                self._values.pop(key, None)

    def _bounds(self, step: Step) -> tuple[Sequence[Bound | None], str]:
        """Of each result; or why there is none."""
        nothing: Sequence[Bound | None] = [None] * len(step.outputs)
        operands: list[Operand] = []
        for key in step.inputs:
            if key in self._returned:
                operands.append(self._reading(key, self._returned[key]))
            elif key is None or key in self._values:
                operands.append(None if key is None else self._values[key])
            else:
                return nothing, "it follows a value that has no bound"
        try:
            return step.bounds(operands), ""
        except EdgeconvError as error:
            return nothing, error.what


def _layer(name: str, operators: tuple[str, ...], bound: Bound, returned: Array) -> Layer:
    if not returned.size:
        return Layer(name, operators, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    use = bound.use(returned)
    return Layer(name, operators, use.used, use.error, use.bound, use.likely, use.signal, use.noise, use.widest)
