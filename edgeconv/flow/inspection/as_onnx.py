"""Writes the graph that a `.tflite` file was read as in ONNX, once LiteRT is seen to compute the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgeconv.core import NCHW, Array, Artifact, Comparison, Fidelity, Run, Sample, TensorSpec, Verdict
from edgeconv.core.defaults import DEVICE_TIMEOUT_S
from edgeconv.core.named_files import is_onnx, read_named
from edgeconv.core.threads import one_thread
from edgeconv.core.variants import DEFAULT_FIDELITY
from edgeconv.devices import find, run_artifact
from edgeconv.errors import EmitError
from edgeconv.flow.output import staged
from edgeconv.parity import compare
from edgeconv.reference import tflite

_FLOAT = Fidelity(sqnr_db=80.0)  # float32 alone is 90 dB and more off; another meaning is far below


def write_as_onnx(path: Path, out: Path) -> tuple[Comparison, ...]:
    """Writes a `.tflite` file as ONNX, checked on noise: the ONNX graph in float64 against the file on LiteRT.

    Args:
        path: of the `.tflite` file.
        out: of the `.onnx` file.

    Returns:
        A row per output; skipped where LiteRT is not installed. The file is written unless one fails.

    Raises:
        EmitError: it is no `.tflite` file; an operator of it has no form in ONNX; `out` cannot be written.
        RewriteError: the graph cannot be evaluated.
    """
    from edgeconv.parity.writing import read_back
    from edgeconv.reference import evaluate
    from edgeconv.reference.tflite.as_onnx import to_onnx

    if path.suffix.lower() != ".tflite" or not is_onnx(out):
        raise EmitError("a .tflite file is written as an .onnx file", where=str(path), hint="give one, and OUT.onnx")
    data = read_named(path, kind=".tflite", error=EmitError)
    model = to_onnx(tflite.read(data))
    file = read_back(path)
    sample = Sample("noise", {spec.name: _noise(spec) for spec in file.inputs})
    names = [spec.name for spec in file.outputs]
    with one_thread():
        stored = {spec.name: spec.to_file(sample.inputs[spec.name]) for spec in file.inputs}
        values = evaluate(model, stored, keep=names)
    expected = {spec.name: _single(spec.from_file(values[spec.name])) for spec in file.outputs}
    sha256 = hashlib.sha256(data).hexdigest()
    artifact = Artifact(path, "tflite", file.variant, NCHW, sha256, file.inputs, file.outputs, len(data))
    run = run_artifact(find("litert"), artifact, [sample], timeout_s=DEVICE_TIMEOUT_S)
    bound = _FLOAT if file.variant in ("fp32", "fp16") else DEFAULT_FIDELITY[file.variant]
    reference = Run("onnx", out.name, (expected,))
    rows = compare(run, reference, [sample], artifact=path.name, tolerance=bound, output_names=names)
    if not any(row.verdict is Verdict.FAIL for row in rows):
        with staged(out.parent) as staging:
            staging.write(out.name, ir.to_proto(model).SerializeToString())
    return rows


def _noise(spec: TensorSpec) -> Array:
    """Standard normal numbers, in float32 where the file quantizes them; zeros and ones for plain integers."""
    generator = np.random.default_rng(0)
    shape = tuple(size for size in spec.shape if isinstance(size, int))
    if spec.dtype.startswith("float") or spec.scale is not None:
        return generator.standard_normal(shape, np.float32)
    return generator.integers(0, 2, shape).astype(spec.dtype)


def _single(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float64 else array
