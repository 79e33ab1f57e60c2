"""Link 3 of one constant that several operators read: as it is, and as integers of several scales."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_writing import emitted, judged
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.core.verdicts import Verdict
from edgeconv.flow.variants import Quantization, Variant, variants_of
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize


def _inverse_sigmoid(x: Tensor) -> Tensor:
    share = torch.sigmoid(x)
    return torch.log(share.clamp(min=1e-5) / (1 - share).clamp(min=1e-5))


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "both ends of a share": _inverse_sigmoid,  # 0 in steps of 1/32768, a step in those of the other
    "two clamps": lambda x: (4 * x).clamp(max=0.0771) + (x / 3).clamp(max=0.0771),
    "one side": lambda x: x.clamp(min=-0.3),
    "other side": lambda x: x.clamp(max=0.7),
}


class Clamped(nn.Module):
    """A convolution, and what is clamped of it."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv2d(3, 8, 1), form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.conv(x))


def _made(name: str, variant: str) -> tuple[Variant, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    module, data = Clamped(FORMS[name]).eval(), torch.randn(1, 3, 12, 12)
    inputs = {"x": data.numpy()}
    model = optimize(capture(module, (data,), input_names=["x"], output_names=["y"]))
    (made,) = variants_of(model, (variant,), Quantization(batches=lambda: [inputs]), Silent())
    return made, inputs


@pytest.mark.parametrize("variant", ["int8", "int16x8"])
@pytest.mark.parametrize("name", FORMS)
def test_a_bound_is_held_to_the_integers_that_this_operator_reads_of_it(
    name: str, variant: str, tmp_path: Path
) -> None:
    """Integers of a clamped layer saturate on the way, under the layer's name: they are no values of the graph."""
    made, inputs = _made(name, variant)
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason
