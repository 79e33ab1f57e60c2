"""What tests of models trained for integers share: configurations, a training of a few steps, and runtimes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn
from torch.ao import quantization as tq

from edgeconv.core import Artifact


def _rounding(observer: Any, low: int, high: int, dtype: torch.dtype, **options: Any) -> Any:
    return tq.FakeQuantize.with_args(observer=observer, quant_min=low, quant_max=high, dtype=dtype, **options)


PER_CHANNEL = _rounding(
    tq.MovingAveragePerChannelMinMaxObserver, -127, 127, torch.qint8, qscheme=torch.per_channel_symmetric, ch_axis=0
)
_AVERAGE = tq.MovingAverageMinMaxObserver
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    CONFIGS: dict[str, Any] = {
        **{name: tq.get_default_qat_qconfig(name) for name in ("qnnpack", "fbgemm", "x86")},
        "uint8": tq.QConfig(activation=_rounding(_AVERAGE, 0, 255, torch.quint8), weight=PER_CHANNEL),
        "int8": tq.QConfig(activation=_rounding(_AVERAGE, -128, 127, torch.qint8), weight=PER_CHANNEL),
        "four bits": tq.QConfig(activation=_rounding(_AVERAGE, 0, 15, torch.quint8), weight=PER_CHANNEL),
    }


def trained(net: nn.Module, config: Any, shape: tuple[int, ...]) -> Any:
    """A prepared module after six steps of observing noise, in eval mode, its observers off."""
    torch.manual_seed(0)
    net.train()
    net.qconfig = config  # type: ignore[assignment]
    prepared: Any = tq.prepare_qat(net)
    for _ in range(6):
        prepared(torch.randn(4, *shape))
    return prepared.eval().apply(tq.disable_observer)


def computed(artifact: Artifact, x: Tensor, *, by_graph: bool = False) -> np.ndarray:
    """On LiteRT, or onnxruntime: by its kernels of integers, or operator by operator as the graph says."""
    stored = artifact.inputs[0].to_file(x.numpy())
    if artifact.format == "onnx":
        options = onnxruntime.SessionOptions()
        if by_graph:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(artifact.path, options)
        (result,) = session.run(None, {artifact.inputs[0].name: stored})
    else:
        runner = Interpreter(str(artifact.path)).get_signature_runner()
        (result,) = runner(**{artifact.inputs[0].name: stored}).values()
    return artifact.outputs[0].from_file(np.asarray(result))
