"""Calibration: runs the float graph on the user's data and records the range of every activation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.core.layouts import hint_to_move
from edgeconv.core.observed import Observed
from edgeconv.core.quantization_options import Override, QuantizationOptions
from edgeconv.core.values import kind_of
from edgeconv.errors import QuantizeError, is_own_fault
from edgeconv.graph.argument import checked_model
from edgeconv.graph.edit import constant
from edgeconv.quantize._channels import ChannelCounts, Channels
from edgeconv.quantize._graph import named
from edgeconv.quantize._histogram import Histogram
from edgeconv.quantize._observers import OBSERVERS, Range
from edgeconv.quantize._onnxruntime import session
from edgeconv.quantize._parts import Joined, PartCounts
from edgeconv.quantize._patterns import overrides_by_value
from edgeconv.quantize._plan import REQUESTED
from edgeconv.quantize._read_elements import ReadElements
from edgeconv.quantize._structure import structure_of

if TYPE_CHECKING:
    import onnxruntime


_DEFAULT = QuantizationOptions()


@dataclass(frozen=True)
class Calibration:
    """What was seen of every activation.

    Attributes:
        observer: how a range is chosen from a histogram, one of `OBSERVERS`.
        percentile: of the observer of this name.
        overrides: of these two, by the name of the value.
        histograms: by the name of the value.
        batches: how many were run.
        bounds: of values and constants beyond which their readers cannot tell numbers apart, by name.
        infinite: the values that were infinite, as constants of the graph made them, and matter so.
        channels: of the values that the graph ends in (`edgeconv.quantize._channels`), by name.
        parts: of the joined values that the graph ends in (`edgeconv.quantize._parts`), by name and axis.
    """

    observer: str
    histograms: Mapping[str, Histogram]
    batches: int
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    infinite: frozenset[str] = frozenset()
    channels: Mapping[str, Channels] = field(default_factory=dict)
    parts: Mapping[str, Mapping[int, Joined]] = field(default_factory=dict)
    percentile: float = QuantizationOptions.percentile
    overrides: Mapping[str, Override] = field(default_factory=dict)
    _ranges: dict[tuple[str, int, str], Range] = field(default_factory=dict, init=False, repr=False, compare=False)

    def range_of(self, name: str, levels: int = 256, *, observer: str = "") -> Range:
        """The range of a value that is worth representing; it holds zero.

        Args:
            name: of the value.
            levels: that are to represent it.
            observer: in place of the calibration's own, where no override names one.

        Raises:
            QuantizeError: the value was not seen.
        """
        if name not in self.histograms:
            what = f"the calibration has no value {name!r}"
            raise QuantizeError(what, where="calibration", hint="calibrate this very graph")
        override = self.overrides.get(name)
        if override is not None and override.range is not None:
            return min(0.0, override.range[0]), max(0.0, override.range[1])
        observer, percent = self._choice(name, observer)
        key = name, levels, observer
        if key not in self._ranges:  # plans are made more than once of one calibration
            self._ranges[key] = OBSERVERS[observer](self.histograms[name], levels, percent)
        return self._ranges[key]

    def observed(self, name: str, *, observer: str = "") -> Observed | None:
        """What was seen of a value, and the observer of its range; None where that is stated, or it was not seen.

        Args:
            name: of the value.
            observer: see `range_of`.
        """
        override, seen = self.overrides.get(name), self.histograms.get(name)
        if seen is None or (override is not None and override.range is not None):
            return None
        return Observed(
            *self._choice(name, observer), seen.low, seen.high, seen.zeros, 2.0**seen.exponent, seen.first, seen.counts
        )

    def _choice(self, name: str, observer: str) -> tuple[str, float]:
        """The observer of a value, and the percentile that one of them heeds."""
        override = self.overrides.get(name)
        return (
            (override and override.observer) or observer or self.observer,
            (override and override.percentile) or self.percentile,
        )


def calibrate(
    model: ir.Model,
    batches: Iterable[Mapping[str, Array]],
    *,
    options: QuantizationOptions = _DEFAULT,
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({}),
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    """Runs the float graph by onnxruntime and counts the values of every activation that can be quantized.

    The batches are read one by one and never held. The result does not depend on their order or size.

    Args:
        model: float32, NCHW; not changed.
        batches: one mapping per inference: graph input -> array of the input's shape and dtype.
        options: of these `observer`, `percentile`, `override` and `keep_float`: of operators that will stay float, by
            the name of their first output, what enters and leaves them is looked at, and what only they make is not.
        bounds: see `edgeconv.quantize.bounds_of`; beyond them, values are counted as at them.
        progress: is told how far it is, in one line, after every batch.

    Raises:
        QuantizeError: an operator of an override is unknown, there are no batches, one does not fit the graph, or a
            value of the graph is NaN or infinite on it, but for infinities that the graph's own constants bring in:
            integers saturate at them. What a `Where` drops does not count, unless it drops all that there is.
    """
    checked_model(model, QuantizeError)
    overrides = overrides_by_value(model.graph, options.override)
    in_float = dict.fromkeys(options.keep_float, REQUESTED)
    structure, infinities = structure_of(model, in_float), _with_infinities(model.graph)
    names = [named(value) for value in structure.activations]
    # What is fused and may come apart: a bias whose Add is left in float after all, and a clamp behind a GELU that is,
    # as all are of 16 bits. Then what is before it rounds by itself.
    names += [layer.name for layer in structure.layers.values() if layer.added is not None]
    gelus = [named(last.outputs[0]) for last in dict.fromkeys(structure.spelled.values())]
    names += [name for name in gelus if name not in structure.groups]
    counts, elements = _Counts(names, bounds, infinities), ReadElements(model.graph)
    channels = ChannelCounts(model.graph, structure, infinities)
    parts = PartCounts(model.graph, structure, infinities)
    # Tables count whole: an embedding's rows that no calibration input picked may be picked later.
    for value in structure.activations:
        for table in tables_of(value):
            counts.add(named(value), table, f"the table of {named(value)}")
    count = 0
    for count, values in enumerate(run_float(model, batches, dict.fromkeys([*names, *elements.conditions])), start=1):
        read = elements.of(values)
        for name in names:
            where = f"calibration batch {count}, value {name}"
            counts.add(name, values[name], where, read.get(name))
        channels.add(values)
        parts.add(values)
        if progress is not None:
            progress(f"calibration batch {count}")
    if not count:
        raise QuantizeError("there is no calibration data", where="calibration", hint="give at least one batch")
    return Calibration(
        options.observer,
        counts.histograms(),
        count,
        bounds,
        frozenset(counts.infinite),
        channels.channels(),
        parts.joined(),
        options.percentile,
        overrides,
    )


class _Counts:
    """Counts the numbers of all activations into histograms, as the batches come."""

    def __init__(
        self, names: Iterable[str], bounds: Mapping[str, tuple[float, float]], may_be_infinite: Collection[str]
    ) -> None:
        self.bounds, self.may_be_infinite = bounds, may_be_infinite
        self.infinite: set[str] = set()
        self._read = {name: Histogram() for name in names}
        self._unread: dict[str, Histogram] = {}  # of values that nothing was read of so far
        self._seen: set[str] = set()

    def add(self, name: str, array: Array, where: str, read: npt.NDArray[np.bool_] | None = None) -> None:
        """Counts the elements of a value that are read, by default all; finite ones that are not until any is."""
        # Beyond its bounds a number is as good as the bound (`edgeconv.quantize._bounds`).
        array = np.clip(array, *self.bounds[name]) if name in self.bounds else array
        # A range is needed even of a value that no batch reads: then that of its elements as they are.
        if read is not None and not read.any() and name not in self._seen:
            self._unread.setdefault(name, Histogram()).add(array[np.isfinite(array)], where)
        elif read is not None:
            self._unread.pop(name, None)
            self._seen.add(name)
        array = array if read is None else array[read]
        if name in self.may_be_infinite and (beyond := np.isinf(array)).any():
            self.infinite.add(name)
            array = array[~beyond]
        self._read[name].add(array, where)

    def histograms(self) -> dict[str, Histogram]:
        return self._read | self._unread


def read_in(
    model: ir.Model, samples: Sequence[Mapping[str, Array]], names: Collection[str]
) -> dict[str, list[npt.NDArray[np.bool_]]]:
    """Which elements are read, sample by sample, of those of the named values of which some may go unread."""
    elements = ReadElements(model.graph)
    found: dict[str, list[npt.NDArray[np.bool_]]] = {name: [] for name in names if name in elements.names}
    for values in run_float(model, samples, elements.conditions) if found else ():
        read = elements.of(values)
        for name, flags in found.items():
            flags.append(read[name])
    return found


_PICKING = {"Gather": (0,), "GatherElements": (0,), "GatherND": (0,), "Where": (1, 2)}
"""Operators that choose elements of operands, and the places of those operands."""


def tables_of(value: ir.Value) -> list[Array]:
    """The constants that a value is picked from: other data than those of the calibration may pick any element."""
    node = value.producer()
    places = _PICKING.get(node.op_type, ()) if node is not None else ()
    arrays = [constant(node.inputs[index]) for index in places] if node is not None else []
    return [array for array in arrays if array is not None and array.dtype == np.float32]


def _with_infinities(graph: ir.Graph) -> set[str]:
    """The values that infinite constants of the graph may make infinite."""
    infinite = {name for name, value in graph.initializers.items() if _is_infinite(value)}
    for node in graph:
        if any(value is not None and (value.name in infinite or _is_infinite(value)) for value in node.inputs):
            infinite |= {named(value) for value in node.outputs if value.name}
    return infinite


def _is_infinite(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and array.dtype == np.float32 and bool(np.isinf(array).any())


def run_float(
    model: ir.Model, batches: Iterable[Mapping[str, Array]], names: Iterable[str]
) -> Iterator[dict[str, Array]]:
    """The named values of the graph in float32, batch by batch."""
    names = list(names)
    # onnxruntime gives no graph input back as an output; those are taken from the batch.
    computed = [name for name in names if name not in {value.name for value in model.graph.inputs}]
    session = session_of(model, computed)
    inputs = {item.name for item in session.get_inputs()}
    for number, batch in enumerate(batches, start=1):
        where = f"calibration batch {number}"
        if not isinstance(batch, Mapping) or set(batch) != inputs:
            got = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
            raise QuantizeError(f"it gives {got}", where=where, hint=f"give arrays named {', '.join(sorted(inputs))}")
        for value in model.graph.inputs:
            if (name := named(value)) in batch:
                _check_fits(batch[name], value, f"{where}, input {name!r}")
        with mapped(where):
            results = session.run(computed, dict(batch)) if computed else []
        activations = dict(zip(computed, results, strict=True))
        yield {name: batch[name] if name in batch else activations[name] for name in names}


def _check_fits(array: object, value: ir.Value, where: str) -> None:
    """Names an array of another dtype or shape for what it is, before onnxruntime does in its own words."""
    if not isinstance(array, np.ndarray):
        raise QuantizeError(f"it is {kind_of(array)}", where=where, hint="give an array of numpy")
    if value.dtype is not None and array.dtype != value.dtype.numpy():
        dtype = value.dtype.numpy().name
        what = f"it is {array.dtype.name}, and the model takes {dtype}"
        raise QuantizeError(what, where=where, hint=f"give array.astype({dtype!r})")
    sizes = tuple(value.shape) if value.shape is not None else None
    if sizes is None:
        return
    fits = len(sizes) == array.ndim and all(
        not isinstance(size, int) or size == length for size, length in zip(sizes, array.shape, strict=True)
    )
    if not fits:
        declared = ", ".join(str(size) if isinstance(size, int) else "any" for size in sizes)
        what = f"it has the shape {array.shape}, and the model takes ({declared})"
        moved = hint_to_move(array.shape, [size if isinstance(size, int) else "any" for size in sizes])
        raise QuantizeError(what, where=where, hint=moved or "give one batch as the module takes it, NCHW")


def session_of(model: ir.Model, outputs: Iterable[str], *, optimized: bool = True) -> onnxruntime.InferenceSession:
    """An onnxruntime session of the graph with these values as its outputs, or its own where none is named.

    What none of them needs is not computed.

    Without its optimizer a QDQ graph computes what it says: with it, onnxruntime 1.32 quantizes the float weights of
    operators that stand between a DequantizeLinear and a QuantizeLinear, one scale per weight.
    """
    model = model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs[:] = [values[name] for name in dict.fromkeys(outputs)] or list(model.graph.outputs)
    with mapped("onnxruntime"):
        return session(ir.to_proto(model).SerializeToString(), optimized=optimized)


@contextmanager
def mapped(where: str) -> Iterator[None]:
    """The border to onnxruntime."""
    try:
        yield
    # onnxruntime's exceptions have no common base but Exception, and its Python layer raises ValueError.
    except Exception as error:
        if is_own_fault(error):
            raise
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        what = f"onnxruntime refuses it: {message}"
        raise QuantizeError(what, where=where, hint="give the graph's own shapes") from error
