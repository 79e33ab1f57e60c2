"""Writes a `.tflite` file as ONNX, once it is seen to compute the same.

Three checks, each stricter than the next can be: every operator in ONNX against the reference; the outputs of LiteRT
against the ONNX graph; and, of integers, every layer of LiteRT against the reference on LiteRT's own operands.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeconv.core import NCHW, Array, Artifact, Comparison, Fidelity, Run, Sample, TensorSpec, Verdict
from edgeconv.core.defaults import DEVICE_TIMEOUT_S
from edgeconv.core.domain import Domain, draw
from edgeconv.core.named_files import is_onnx, naming, read_named
from edgeconv.core.precision import to_float32
from edgeconv.core.threads import one_thread
from edgeconv.core.variants import DEFAULT_FIDELITY
from edgeconv.devices import Sessions, find
from edgeconv.errors import EmitError
from edgeconv.flow.inspection.as_onnx_operators import difference
from edgeconv.flow.output import staged
from edgeconv.flow.running import judged_running
from edgeconv.graph.domains import domains_of
from edgeconv.parity import compare
from edgeconv.parity.writing import ReadBack
from edgeconv.reference import tflite

_FLOAT = Fidelity(sqnr_db=80.0)  # float32 alone is 90 dB and more off; another meaning is far below
_FLOATS = ("fp32", "fp16")
_SAME = "LiteRT computes the same on noise"
_SHAPE_OPERANDS = {"RESHAPE": 1, "TRANSPOSE_CONV": 0}  # which input of the operator is the shape of its result
_LEAST = 0.25  # of positive noise: a quantized tensor does not round it to 0


@dataclass(frozen=True)
class AsOnnx:
    """What became of a file.

    Attributes:
        written: whether it was; not where something is seen to compute otherwise.
        checked: whether LiteRT was seen to compute what the file says.
        reason: why it was not written or not checked; else how it was checked.
        sqnr_db: of LiteRT's outputs, from those of the ONNX graph in float64, decibels; None where it did not run.
    """

    written: bool
    checked: bool
    reason: str
    sqnr_db: float | None = None


def write_as_onnx(path: Path, out: Path) -> AsOnnx:
    """Writes a `.tflite` file as ONNX, checked on noise.

    Each operator in ONNX is held against what the file says of the same operands. Then LiteRT: of a file in float its
    outputs are held against those of the ONNX graph in float64; of one in integers each layer against the exact
    integers of its own operands, since single steps of rounding add up from layer to layer.

    Returns:
        What became of it. It is written, unchecked, where LiteRT is not installed or cannot run it.

    Raises:
        EmitError: it is no `.tflite` file; an operator of it has no form in ONNX; `out` cannot be written.
        RewriteError: the graph cannot be evaluated.
    """
    from edgeconv.reference.tflite.as_onnx import to_onnx

    if path.suffix.lower() != ".tflite" or not is_onnx(out):
        raise EmitError("a .tflite file is written as an .onnx file", where=str(path), hint="give one, and OUT.onnx")
    data = read_named(path, kind=".tflite", error=EmitError)
    with naming(path):
        model = to_onnx(tflite.read(data))
    with one_thread():
        outcome = _checked(path, data, model)
    if outcome.written:
        with staged(out.parent) as staging:
            staging.write(out.name, ir.to_proto(model).SerializeToString())
    return outcome


def _checked(path: Path, data: bytes, model: ir.Model) -> AsOnnx:
    from edgeconv.parity.writing import read_back

    # 1. LiteRT on noise; on milder noise where it refuses the first (a root of a negative number, an index too large).
    file, graph = read_back(path), tflite.read(data)
    sha256 = hashlib.sha256(data).hexdigest()
    artifact = Artifact(path, "tflite", file.variant, NCHW, sha256, file.inputs, file.outputs, len(data))
    with Sessions() as sessions:
        for sample in _samples(file.inputs, _shapes(graph), domains_of(model, negative=())):
            stored = {spec.name: spec.to_file(sample.inputs[spec.name]) for spec in file.inputs}
            run = sessions.run(find("litert"), artifact, [sample], timeout_s=DEVICE_TIMEOUT_S)
            if run.verdict is not Verdict.FAIL:
                break
        # 2. Operator by operator, ONNX against the file's own reference.
        refused, differs = _of_operators(graph, stored)
        if differs:
            return AsOnnx(written=False, checked=True, reason=f"the ONNX graph computes something else: {differs}")
        if run.verdict is not Verdict.PASS:
            return AsOnnx(written=True, checked=False, reason=f"LiteRT: {run.reason}" if run.reason else "")
        # 3. LiteRT's outputs; and of integers its layers, whose single steps would add up to any distance at the end.
        rows = _compared(run, sample, stored, model, file, artifact)
        sqnr_db = min((row.metrics.sqnr_db for row in rows if row.metrics is not None), default=math.inf)
        failed = [row.reason for row in rows if row.verdict is Verdict.FAIL]
        if file.variant in _FLOATS or (refused and not failed):
            same = f"{_SAME}; no operator is judged by itself: {refused}" if refused else _SAME
            reason = f"LiteRT computes something else: {failed[0]}" if failed else same
            return AsOnnx(not failed, True, reason, sqnr_db)
        if refused:
            return AsOnnx(True, False, f"{refused}; LiteRT is {sqnr_db:.0f} dB from the graph", sqnr_db)
        link = judged_running(sessions, find("litert"), artifact, [sample], run, rows, timeout_s=DEVICE_TIMEOUT_S)
    if link.verdict is Verdict.PASS:
        unjudged = "".join(f"; {part}" for part in link.reason.split("; ") if "could not be judged" in part)
        return AsOnnx(True, True, f"{_SAME}, layer by layer{unjudged}", sqnr_db)
    fails = link.verdict is Verdict.FAIL
    reason = f"LiteRT computes something else: {link.reason}" if fails else f"LiteRT: {link.reason}"
    return AsOnnx(not fails, fails, reason, sqnr_db)


def _of_operators(graph: tflite.TfliteGraph, stored: Mapping[str, Array]) -> tuple[str, str]:
    """Why the file itself cannot be evaluated, where that is so; and the first operator that differs in ONNX."""
    dtypes = {tensor.name: tensor.held_as for tensor in (graph.tensors[index] for index in graph.inputs)}
    try:
        values = tflite.evaluate(graph, {name: stored[name].astype(dtype) for name, dtype in dtypes.items()})
    except EmitError as error:
        return f"{error.where}: {error.what}" if error.where else error.what, ""
    return "", difference(graph, values)


def _compared(
    run: Run, sample: Sample, stored: Mapping[str, Array], model: ir.Model, file: ReadBack, artifact: Artifact
) -> Sequence[Comparison]:
    """LiteRT's outputs against those of the ONNX graph in float64."""
    from edgeconv.reference import evaluate

    names = [spec.name for spec in file.outputs]
    values = evaluate(model, stored, keep=names)
    expected = {spec.name: to_float32(spec.from_file(values[spec.name])) for spec in file.outputs}
    bound = _FLOAT if file.variant in _FLOATS else DEFAULT_FIDELITY[file.variant]
    reference = Run("onnx", "onnx", (expected,))
    return compare(run, reference, [sample], artifact=artifact.path.name, tolerance=bound, output_names=names)


def _samples(
    specs: Sequence[TensorSpec], shapes: Mapping[str, Array], domains: Mapping[str, Domain]
) -> Iterator[Sample]:
    """Noise; then what refuses less: roots take positive numbers, divisors are not 0, and every index may be 0.

    Args:
        specs: of the inputs.
        shapes: values of the inputs that state shapes, by name.
        domains: of the inputs of integers whose readers do not take every one, by name.
    """
    generator = np.random.default_rng(0)
    arrays = {spec.name: _drawn(spec, generator, at, domains) for at, spec in enumerate(specs)}
    arrays |= shapes
    yield Sample("noise", arrays)
    positive = {name: np.abs(array) + np.float32(_LEAST) for name, array in arrays.items() if array.dtype.kind == "f"}
    whole = {name: array for name, array in arrays.items() if array.dtype.kind in "iu" and name not in shapes}
    yield Sample("positive noise", arrays | positive | {name: array * 0 + 1 for name, array in whole.items()})
    yield Sample("positive noise and zeros", arrays | positive | {name: array * 0 for name, array in whole.items()})


def _shapes(graph: tflite.TfliteGraph) -> dict[str, Array]:
    """Inputs that say which shape a result has: in ONNX it is the one that the file states for it."""
    shapes = {}
    for operator in graph.operators:
        place = _SHAPE_OPERANDS.get(operator.name)
        index = operator.inputs[place] if place is not None and place < len(operator.inputs) else -1
        if index in graph.inputs:
            shape = np.array(graph.tensors[operator.outputs[0]].shape, graph.tensors[index].held_as)
            if shape.shape == graph.tensors[index].shape:
                shapes[graph.tensors[index].name] = shape
    return shapes


def _drawn(spec: TensorSpec, generator: np.random.Generator, at: int, domains: Mapping[str, Domain]) -> Array:
    """Standard normal numbers, in float32 where the file quantizes them; plain integers that their readers take."""
    shape = tuple(size for size in spec.shape if isinstance(size, int))
    if spec.dtype.startswith("float") or spec.scale is not None:
        return generator.standard_normal(shape, np.float32)
    if np.dtype(spec.dtype).kind in "iu":
        return draw(domains.get(spec.name, Domain()), shape, spec.dtype, [0, at])
    return generator.integers(0, 2, shape).astype(spec.dtype)
