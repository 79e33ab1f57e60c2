"""Link 3 of constants that a file has in parts, in blocks or in another order: each is the graph's, rounded once."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from crossed import slow_but
from test_writing import emitted, judged
from torch import nn
from writing_faults import cut_off_in_tflite

from edgeconv.capture import capture
from edgeconv.core.verdicts import Verdict
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize


class Lstm(nn.Module):
    """Rows of an image, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(8, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cell(x.mean(1))[0]


X = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
# Of more numbers, most of them, than are solved.
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "parts": lambda: nn.Sequential(nn.Conv2d(4, 32, 1), nn.Conv2d(32, 32, 7, padding=3, groups=32)),
    "parts of one row": lambda: nn.Conv2d(4, 40, (1, 27), padding=(0, 13), groups=4),
    "blocks": lambda: nn.Sequential(nn.Conv2d(4, 32, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1, groups=32)),
    "phases": lambda: nn.ConvTranspose2d(4, 40, 2, 2),
    "turned": lambda: nn.ConvTranspose2d(4, 20, 3, 1, 1),
    "groups": lambda: nn.ConvTranspose2d(4, 40, 3, 2, 1, groups=2),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(4, 40, 1), nn.ConvTranspose2d(40, 40, 4, 2, 1, groups=40)),
    "recurrent": Lstm,
}


VARIANTS = ("fp16", "int8", "int16x8")
# Every layer in one variant, without those whose forms others have (turned and grouped filters); the rest is slow.
FAST = [(name, VARIANTS[at % 3]) for at, name in enumerate(LAYERS) if name not in ("turned", "groups", "recurrent")]
FLOAT = {("recurrent", "int8"), ("recurrent", "int16x8")}  # they stay float32
CASES = slow_but([*FAST, ("recurrent", "fp16")], [case for case in product(LAYERS, VARIANTS) if case not in FLOAT])


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_weights_that_are_cut_off_are_told_in_any_form_of_their_layer(name: str, variant: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = optimize(capture(LAYERS[name]().eval(), (torch.from_numpy(X),), input_names=["x"], output_names=["y"]))
    batches = [{"x": X}]
    (made,) = variants_of(model, (variant,), Quantization(lambda: batches, rounding="nearest"), Silent())
    contents, path = emitted(made, "tflite"), tmp_path / "net.tflite"
    right = judged(made, batches[0], contents, contents.data, path)
    assert right.verdict is Verdict.PASS, right.reason
    planted = {where: data for _, data, where in cut_off_in_tflite(contents.data)}
    assert planted
    verdicts = {where: judged(made, batches[0], contents, data, path).verdict for where, data in planted.items()}
    assert set(verdicts.values()) == {Verdict.FAIL}, verdicts


class SharedEps(nn.Module):
    """An eps that is a constant of the graph, and one of the same number that is LayerNormalization's attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        scaled = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.norm(self.linear(scaled))


def test_a_constant_of_the_graph_may_serve_for_a_number_that_only_the_writer_has(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = optimize(capture(SharedEps().eval(), (torch.from_numpy(X),), input_names=["x"], output_names=["y"]))
    (made,) = variants_of(model, ("fp16",), Quantization(), Silent())
    contents, path = emitted(made, "tflite"), tmp_path / "net.tflite"
    right = judged(made, {"x": X}, contents, contents.data, path)
    assert right.verdict is Verdict.PASS, right.reason
