"""A module, as a caller of edgeconv exports it: what torch computes must come out of both of its files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter
from torch.utils import _pytree as pytree

import edgeconv
from edgeconv.core import Artifact

TOLERANCE = 2e-5


class Of(torch.nn.Module):
    """A module whose forward is a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> Any:
        return self.function(*args)


def assert_right_in_both(
    module: Any, args: tuple[Any, ...], folder: Path, kwargs: Mapping[str, Any] | None = None,
    tolerance: float = TOLERANCE, **options: Any,
) -> None:  # fmt: skip
    """Exports to both formats and compares each output with the module's on the example inputs."""
    result = edgeconv.export(module, args, folder, name="net", kwargs=kwargs, **options)
    call = copy.deepcopy((args, dict(kwargs or {})))
    inputs = [_plain(leaf) for leaf in pytree.tree_leaves(call) if isinstance(leaf, torch.Tensor)]
    with torch.no_grad():
        expected = [
            _plain(leaf) for leaf in pytree.tree_leaves(module(*call[0], **call[1])) if isinstance(leaf, torch.Tensor)
        ]
    for artifact in result.artifacts:
        outputs = _run(artifact, inputs)
        assert len(outputs) == len(expected)
        for output, reference in zip(outputs, expected, strict=True):
            assert output.dtype == reference.dtype
            np.testing.assert_allclose(output, reference, rtol=tolerance, atol=tolerance, err_msg=artifact.format)


def _plain(tensor: torch.Tensor) -> npt.NDArray[Any]:
    return (tensor.detach().float() if tensor.is_floating_point() else tensor.detach()).numpy()


def _run(artifact: Artifact, inputs: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    feed = {spec.name: spec.to_file(array) for spec, array in zip(artifact.inputs, inputs, strict=True)}
    if artifact.format == "onnx":
        results = onnxruntime.InferenceSession(artifact.path.read_bytes()).run(None, feed)
    else:
        named = Interpreter(model_content=artifact.path.read_bytes()).get_signature_runner()(**feed)
        results = [named[spec.name] for spec in artifact.outputs]
    return [spec.from_file(np.asarray(array)) for spec, array in zip(artifact.outputs, results, strict=True)]
