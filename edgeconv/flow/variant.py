"""One variant of a model: its graph, how it is written, and what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeconv import quantize
from edgeconv.core import Array, Emitted, IntegerTensor, Run, Sample, TensorSpec
from edgeconv.core.threads import one_thread
from edgeconv.emit.c_array import Golden, to_c
from edgeconv.errors import NO_SAMPLE, ParityError
from edgeconv.recipe import FORMATS

if TYPE_CHECKING:
    from edgeconv.parity import Integers
    from edgeconv.parity.coverage import Observe
    from edgeconv.parity.quantizing import Origin


@dataclass(frozen=True)
class Variant:
    """The graph and the settings that the files of a variant are written from.

    Attributes:
        name: ``"fp32"``, ``"int8"``, …
        model: its graph; shared with others, and not to be changed.
        weights: how the emitters store float weights.
        io: element type of the files' inputs and outputs.
        keep_roundings: whether an ``.onnx`` file rounds also what onnxruntime computes faster in float.
        exact: whether a ``.tflite`` file computes in floats what integer kernels do not round as the graph does.
        formats: that can hold it.
        plan: of a quantized one.
        notes: what the reader should know.
        search: what was tried for a target.
        origin: what its integers were made from; None of one without, and of a graph that was quantized already.
        intermediates: by the name of each file written from it, the tensors whose integers a runtime can return.
    """

    name: str
    model: ir.Model
    weights: str = "float32"
    io: str = "float32"
    keep_roundings: bool = False
    exact: bool = False
    formats: tuple[str, ...] = FORMATS
    plan: quantize.Plan | None = None
    notes: tuple[str, ...] = ()
    search: quantize.Search | None = None
    origin: Origin | None = None
    intermediates: Mapping[str, tuple[IntegerTensor, ...]] = field(default_factory=dict)

    def integers(self, samples: Sequence[Sample], observe: Observe | None = None) -> Integers | None:
        """What the quantized graph computes exactly on samples; None for one without quantized outputs."""
        from edgeconv.parity import Integers

        scales = {value.name or "": _scale_of(value) for value in self.model.graph.outputs}
        quantized = {name: scale for name, scale in scales.items() if scale is not None}
        if not quantized:
            return None
        return Integers(Run(f"graph-{self.name}", "", self.computed(samples, observe)), quantized)

    def computed(self, samples: Sequence[Sample], observe: Observe | None = None) -> tuple[Mapping[str, Array], ...]:
        """The outputs of the variant's graph in float64, by name: of a quantized one, what its integers say."""
        from edgeconv.reference import evaluate_each  # torch, which proving again does not need

        names = [value.name or "" for value in self.model.graph.outputs]
        with one_thread():
            return tuple(evaluate_each(self.model, (item.inputs for item in samples), keep=names, observe=observe))

    def as_c(self, file_name: str, emitted: Emitted, samples: Sequence[Sample]) -> tuple[str, str]:
        """A TFLite file of this variant as C, with the first sample that is for it and what `computed` says to that.

        Raises:
            ParityError: none is for it.
            EmitError: see `edgeconv.emit.c_array.to_c`.
        """
        sample = next((candidate for candidate in samples if candidate.is_for(self.name)), None)
        if sample is None:
            raise ParityError(f"no parity input is for the variant {self.name}", hint=NO_SAMPLE)
        (computed,) = self.computed([sample])
        inputs = [Golden(spec, _as_stored(spec, sample.inputs[spec.name])) for spec in emitted.inputs]
        outputs = [Golden(spec, _as_stored(spec, computed[spec.name])) for spec in emitted.outputs]
        return to_c(file_name, emitted.data, inputs, outputs)


def _as_stored(spec: TensorSpec, array: Array) -> Array:
    """An array in the layout and element type that the file declares."""
    return spec.to_file(array).astype(spec.dtype)


def _scale_of(value: ir.Value) -> float | None:
    """The scale of a graph output that DequantizeLinear makes, 1 of integers of QuantizeLinear; None of others."""
    node = value.producer()
    if node is not None and node.op_type == "QuantizeLinear":
        return 1.0
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[1] is None:
        return None
    scale = node.inputs[1].const_value
    return float(scale.numpy().reshape(-1)[0]) if scale is not None and scale.size == 1 else None
