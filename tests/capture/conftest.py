"""Evaluates a captured graph, every value of it, and hooks the modules that it came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

Arrays = dict[str, npt.NDArray[np.generic]]


def _evaluate(model: ir.Model, inputs: Sequence[torch.Tensor]) -> Arrays:
    proto = ir.to_proto(model)
    graph = proto.graph
    computed = {name for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    graph.output.extend(v for v in graph.value_info if v.name in computed and v.name not in outputs)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    feeds = {value.name: tensor.numpy() for value, tensor in zip(graph.input, inputs, strict=True)}
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))


def _hooked(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> Arrays:
    """What each call of each submodule returned in eval mode, copied at once; outputs that are no tensor left out."""
    calls: Counter[str] = Counter()
    seen: Arrays = {}

    def hook(path: str) -> Callable[[torch.nn.Module, object, object], None]:
        def keep(_module: torch.nn.Module, _args: object, output: object) -> None:
            name = f"{path}@{calls[path]}" if calls[path] else path
            calls[path] += 1
            if isinstance(output, torch.Tensor):
                seen[name] = output.detach().clone().numpy()

        return keep

    handles = [part.register_forward_hook(hook(path)) for path, part in module.named_modules() if path]
    with torch.no_grad():
        module.eval()(*inputs)
    for handle in handles:
        handle.remove()
    return seen


@pytest.fixture(scope="session")
def evaluate() -> Callable[[ir.Model, Sequence[torch.Tensor]], Mapping[str, npt.NDArray[np.generic]]]:
    """All values of a graph by name, from onnxruntime without its optimizer."""
    return _evaluate


@pytest.fixture(scope="session")
def hooked() -> Callable[[torch.nn.Module, Sequence[torch.Tensor]], Mapping[str, npt.NDArray[np.generic]]]:
    """The outputs of all module calls by name."""
    return _hooked
