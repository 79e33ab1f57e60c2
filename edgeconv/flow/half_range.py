"""Finds values of a float16 file that leave float16's range on the parity inputs, which no CPU device would show.

onnxruntime on a CPU and XNNPACK on x86 compute a float16 file in float32, and agree there with torch. A GPU, an NPU
or an ARM processor that computes in float16 gives infinity instead (IEEE 754-2019, section 7.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.core import Artifact, Sample
from edgeconv.core.precision import FLOAT16_LARGEST
from edgeconv.core.threads import one_thread
from edgeconv.emit.half_precision import float32_region
from edgeconv.flow.variant import Variant
from edgeconv.graph.constants import new_constant
from edgeconv.graph.names import unique_name


def beyond_half(
    artifacts: Sequence[Artifact], variants: Sequence[Variant], samples: Sequence[Sample]
) -> tuple[str, ...]:
    """A note for each file of half precision in which a float16 value becomes infinite on the parity inputs.

    Args:
        artifacts: the files.
        variants: the graphs that they were written from.
        samples: of the proof; the one with the largest inputs is evaluated, in float64.

    Raises:
        RewriteError: a graph cannot be evaluated.
    """
    notes = []
    for variant in variants:
        judged = [sample for sample in samples if sample.is_for(variant.name)]
        if variant.weights != "float16" or not judged:
            continue
        sample = max(judged, key=_magnitude)
        own = [artifact for artifact in artifacts if artifact.variant == variant.name]
        beyond = {}
        for format_ in {artifact.format: None for artifact in own}:  # both layouts of a format hold the same values
            values = _in_halves(variant.model.graph, tflite=format_ == "tflite")
            beyond[format_] = _first_beyond(variant.model, values, sample)
        for artifact in own:
            first = beyond[artifact.format]
            notes += [f"{artifact.path.name}: {_note(*first, sample)}"] if first is not None else []
    return tuple(notes)


def _note(size: float, name: str, sample: Sample) -> str:
    return (
        f"{name!r} reaches {size:.3g} on the parity input {sample.name!r}, and float16 ends at {FLOAT16_LARGEST:g}: "
        "processors that compute in float16 give infinity there; scale the inputs, or deploy fp32"
    )


def _magnitude(sample: Sample) -> float:
    """The largest finite number of the inputs."""
    return max(
        (float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array))) for array in sample.inputs.values()),
        default=0.0,
    )


def _in_halves(graph: ir.Graph, *, tflite: bool) -> list[ir.Value]:
    """The values that a file holds in float16: what operators outside of the float32 region give and read."""
    region = float32_region(graph, tflite=tflite)
    if tflite and any(region.values()):
        return []  # the whole file is computed in float32 then
    outside = [node for node in graph if node not in region]
    touched = {value for node in outside for value in (*node.inputs, *node.outputs) if value is not None}
    computed = (*graph.inputs, *(value for node in graph for value in node.outputs))
    return [value for value in computed if value in touched and value.dtype == ir.DataType.FLOAT]


def _first_beyond(model: ir.Model, values: Sequence[ir.Value], sample: Sample) -> tuple[float, str] | None:
    """The first of the values, in the graph's order, that leaves float16's range on a sample: its size and name.

    Infinities are the module's own. The maxima are computed inside of a copy of the graph, so that no value outlives
    its last reader.
    """
    copy = model.clone()
    by_name = {value.name: value for value in (*copy.graph.inputs, *_results(copy.graph))}
    names = {_add_magnitude(copy.graph, by_name[value.name]): value.name or "" for value in values}
    if not names:
        return None
    from edgeconv.reference import evaluate  # torch, which an export of a file without proof does not need

    with one_thread():
        sizes = evaluate(copy, sample.inputs, keep=list(names))
    beyond = ((float(sizes[probe]), name) for probe, name in names.items() if sizes[probe] > FLOAT16_LARGEST)
    return next(beyond, None)


def _add_magnitude(graph: ir.Graph, value: ir.Value) -> str:
    """Adds nodes for the largest finite magnitude of a value; returns the name of their result.

    ReduceMax(Where(|x| <= the largest float64, |x|, 0)): neither NaN nor an infinity passes the comparison.
    """
    magnitude = _added(graph, "Abs", value)
    finite = _added(graph, "LessOrEqual", magnitude, _number(graph, np.finfo(np.float64).max), dtype=ir.DataType.BOOL)
    counted = _added(graph, "Where", finite, magnitude, _number(graph, 0.0))
    return _added(graph, "ReduceMax", counted, keepdims=0).name or ""


def _number(graph: ir.Graph, number: float) -> ir.Value:
    return new_constant(graph, "half_range", np.array(number))


def _added(
    graph: ir.Graph, op_type: str, *operands: ir.Value, dtype: ir.DataType = ir.DataType.DOUBLE, **attributes: int
) -> ir.Value:
    result = ir.Value(name=unique_name(graph, "half_range"), type=ir.TensorType(dtype))
    graph.append(ir.node(op_type, operands, attributes, outputs=[result]))
    return result


def _results(graph: ir.Graph) -> list[ir.Value]:
    return [value for node in graph for value in node.outputs]
