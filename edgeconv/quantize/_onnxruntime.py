"""onnxruntime in this process: what a float graph computes on the user's data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import switch_off_telemetry

if TYPE_CHECKING:
    import onnxruntime

# Of onnxruntime 1.32: drops values that others read, see `edgeconv.emit.onnx._forms.apart_scales`.
_DISABLED = ["MatMulScaleFusion"]


def session(data: bytes, *, optimized: bool = True) -> onnxruntime.InferenceSession:
    """A session on the CPU that tells of errors alone; raises what onnxruntime does."""
    switch_off_telemetry()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # 0 verbose to 4 fatal
    options.log_severity_level = 3
    # Threads that wait by spinning took 8 of the 40 seconds that EfficientNet-Lite0 takes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        data, options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED
    )
