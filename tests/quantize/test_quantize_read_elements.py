"""What a `where` drops sets no scale, and may be infinite or not a number, in both formats.

Members thought of: logarithms, roots and quotients outside of their domain, exponentials that are large; chains of
them, on either side of a choice and under two of them; masks over fewer axes, so that rows of layers and of softmax are
dropped whole; other layouts in between; a value that is also read elsewhere; batches in which a mask takes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import Tensor, nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.core import Artifact
from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.quantize import calibrate

_X = torch.linspace(-3, 3, 2 * 4 * 6).reshape(2, 4, 6)
_FAR = torch.cat([_X, torch.full((2, 4, 2), 6.0)], 2)


class _Of(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x * 1.5, self.layer)


def _logarithm(y: Tensor, _: nn.Module) -> Tensor:
    y[y > 0.5] = y[y > 0.5].log()
    return y


def _chosen(y: Tensor, _: nn.Module) -> Tensor:
    return torch.where(y > 0.5, ((y - 0.5).sqrt() + 1) / y, torch.where(y < -1, (1 - y).log(), y * 0.5))


def _exponential(y: Tensor, _: nn.Module) -> Tensor:
    mask = y < 1
    y[mask] = torch.exp(y[mask]) * 2
    return torch.where(mask, y, y * 0.1)


def _rows(y: Tensor, layer: nn.Module) -> Tensor:
    rows = y.transpose(1, 2).reshape(-1, 4)
    mask = rows.amax(1) < 1
    chances = torch.zeros_like(rows)
    chances[mask] = layer(torch.exp(rows[mask])).softmax(-1)
    return chances


def _outputs(artifact: Artifact, x: Tensor) -> npt.NDArray[np.float64]:
    (given,), (taken,) = artifact.inputs, artifact.outputs
    array = given.to_file(x.numpy())
    if artifact.format == "onnx":
        result = onnxruntime.InferenceSession(str(artifact.path)).run(None, {given.name: array})[0]
    else:
        result = Interpreter(str(artifact.path)).get_signature_runner()(**{given.name: array})[taken.name]
    return taken.from_file(np.asarray(result)).astype(np.float64)


@pytest.mark.parametrize("function", [_logarithm, _chosen, _exponential, _rows])
def test_int8_files_keep_30_db_where_elements_are_read(function: Callable[..., Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = _Of(function).eval()
    quantization = edgeconv.Quantization(batches=lambda: [{"x": _FAR.numpy()}])
    result = edgeconv.export(
        module, (_FAR,), tmp_path, name="net", variants=("int8",), input_names=["x"], quantization=quantization
    )
    expected = module(_FAR).detach().numpy().astype(np.float64)
    for artifact in result.artifacts:
        error = expected - _outputs(artifact, _FAR)
        assert 10 * np.log10(np.square(expected).sum() / np.square(error).sum()) > 30, artifact.format


def _ranges(function: Callable[..., Any], *batches: Tensor) -> dict[str, tuple[float, float]]:
    module = _Of(function).eval()
    graph = capture(module, (batches[0],), input_names=["x"], output_names=[])
    seen = calibrate(
        graph, [{"x": batch.numpy()} for batch in batches], options=QuantizationOptions(observer="min-max")
    ).histograms
    return {name: (histogram.low, histogram.high) for name, histogram in seen.items()}


def test_of_batches_in_which_a_mask_takes_nothing_the_others_count() -> None:
    def forward(y: Tensor, _: nn.Module) -> Tensor:
        return torch.where(y > 1, y.exp(), y)

    nothing, some = torch.tensor([[-2.0, 0.0]]), torch.tensor([[-2.0, 2.0]])
    assert _ranges(forward, nothing)["exp"] == pytest.approx((0, 1))
    expected = pytest.approx((0, np.exp(3)))
    assert _ranges(forward, nothing, some)["exp"] == expected
    assert _ranges(forward, some, nothing)["exp"] == expected


def test_what_others_read_too_counts_whole() -> None:
    def forward(y: Tensor, _: nn.Module) -> Tensor:
        large = y.exp()
        return torch.where(y < 1, large, y) + large.sum()

    assert _ranges(forward, torch.tensor([[-2.0, 0.0, 2.0]]))["exp"] == pytest.approx((0, np.exp(3)))


def test_infinities_that_somebody_reads_are_refused() -> None:
    with pytest.raises(edgeconv.QuantizeError, match="value log: a value is NaN or infinite"):
        _ranges(lambda y, _: torch.where(y > -9, y.log(), y), torch.tensor([[-2.0, 2.0]]))
