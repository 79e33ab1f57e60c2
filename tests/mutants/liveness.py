"""Whether a fault changes what a file computes: the file's function in float64, or in exact integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
from exports import Export, Model

from edgeconv.core import Array, Sample
from edgeconv.core.threads import one_thread
from edgeconv.reference import evaluate, tflite

LEAST = 1e-7
"""A fault is live where an output moves by this part of the output's largest magnitude."""
Outputs = Mapping[str, Array]
Function = Callable[[Sample], Outputs]


def function_of(export: Export, data: bytes) -> Function:
    """What a file computes, by the independent readers.

    Raises:
        EdgeconvError: it cannot be read, or, when it is called, evaluated.
    """
    artifact = export.artifact
    if artifact.format == "onnx":
        return partial(graph_outputs, ir.from_proto(onnx.load_from_string(data)), export.model.outputs)
    graph = tflite.read(data)

    def outputs(sample: Sample) -> Outputs:
        inputs = {spec.name: spec.to_file(sample.inputs[spec.name]) for spec in artifact.inputs}
        with one_thread():
            values = tflite.evaluate(graph, inputs)
        return {spec.name: values[spec.name] for spec in artifact.outputs}

    return outputs


def graph_outputs(graph: ir.Model, names: Sequence[str], sample: Sample) -> Outputs:
    """What a graph computes."""
    with one_thread():
        return evaluate(graph, sample.inputs, keep=list(names))


def change(before: Outputs, after: Outputs) -> float:
    """The largest change of an output, as a part of that output's largest magnitude."""
    changes = [0.0]
    for name, expected in before.items():
        actual = after[name]
        if actual.shape != expected.shape or actual.dtype.kind != expected.dtype.kind:
            return np.inf
        a, b = actual.astype(np.float64), expected.astype(np.float64)
        with np.errstate(all="ignore"):
            difference = np.abs(a - b)
        difference[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0  # infinities alike
        finite = np.abs(b[np.isfinite(b)])
        scale = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
        changes.append(
            float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max() / scale) if difference.size else 0.0
        )
    return max(changes)


class Clean:
    """What the right file, or the right graph, makes of the probes; computed as they are asked for."""

    def __init__(self, function: Function, probes: Sequence[Sample]) -> None:
        self._function, self._probes = function, probes
        self._outputs: list[Outputs] = []

    @classmethod
    def file(cls, export: Export) -> Clean:
        """Of an export's file."""
        return cls(function_of(export, export.data), export.model.probes)

    @classmethod
    def graph(cls, model: Model) -> Clean:
        """Of a model's rewritten graph."""
        return cls(partial(graph_outputs, model.graph, model.outputs), model.probes)

    def change(self, other: Function) -> float:
        """How far another function is from it, over the probes until one shows that it is live.

        Raises:
            EdgeconvError: the other cannot be evaluated.
        """
        most = 0.0
        for index, probe in enumerate(self._probes):
            if index == len(self._outputs):
                self._outputs.append(self._function(probe))
            most = max(most, change(self._outputs[index], other(probe)))
            if most >= LEAST:
                break
        return most
