"""What is done to the float graph before it is quantized is asked for, switched, and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

import edgeconv
from edgeconv.core import Array, Sample
from edgeconv.flow.job import job_of
from edgeconv.recipe import load_recipe

_SHAPE = (1, 3, 8, 8)


class _Net(torch.nn.Module):
    """Its first convolution makes about 6, and never anything near zero; its second pads nothing."""

    def __init__(self, act: type[torch.nn.Module] = torch.nn.ReLU) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act = torch.nn.Conv2d(3, 8, 1), act()
        self.second, self.last = torch.nn.Conv2d(8, 4, 3), act()
        self.third = torch.nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.first.weight *= 0.1
            assert self.first.bias is not None
            self.first.bias.fill_(6.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.third(self.last(self.second(self.act(self.first(x)))))
        return y


def _batches() -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal(_SHAPE).astype(np.float32)} for _ in range(4)]


def _exported(
    folder: Path, act: type[torch.nn.Module] = torch.nn.ReLU, **asked: bool
) -> tuple[edgeconv.ExportResult, list[str]]:
    """An int8 export on the calibration data themselves, and the names of the values in its graph."""
    samples = [Sample(str(at), batch) for at, batch in enumerate(_batches())]
    result = edgeconv.export(
        _Net(act),
        (torch.zeros(_SHAPE),),
        folder,
        name="net",
        formats="onnx",
        variants="int8",
        quantization=edgeconv.Quantization(batches=_batches, **asked),  # type: ignore[arg-type]
        devices=["onnxruntime"],
        samples=samples,
    )
    return result, [value.name or "" for node in ir.load(folder / "net.int8.onnx").graph for value in node.outputs]


def _sqnr_db(result: edgeconv.ExportResult) -> float:
    assert result.report is not None
    (row,) = result.report.comparisons
    assert row.metrics is not None
    return row.metrics.sqnr_db


@pytest.mark.parametrize("equalize", [False, True])
def test_biases_are_absorbed_only_where_that_is_asked_for(tmp_path: Path, equalize: bool) -> None:
    plain, without = _exported(tmp_path / "off", equalize=equalize)
    absorbed, with_it = _exported(tmp_path / "on", equalize=equalize, absorb_biases=True)
    assert not [name for name in without if ".absorbed" in name]
    ends = tuple(f"act{way}.absorbed{order}" for way in (".equalized", "") for order in ("", ".reordered"))
    assert [name for name in with_it if name.endswith(ends)]  # as data say
    assert _sqnr_db(plain) > 25  # both compute what torch does
    assert _sqnr_db(absorbed) > _sqnr_db(plain) + 3  # most of the range from 0 up stood empty


def test_recipes_have_the_switch(tmp_path: Path) -> None:
    text = 'name = "net"\n[model]\nfactory = "torch.nn:ReLU"\n[[inputs]]\nname = "x"\nshape = [1, 3]\n[quantize]\n'
    asked = []
    for line in ("", "absorb_biases = true\n"):
        recipe = tmp_path / "net.toml"
        recipe.write_text(text + line)
        asked.append(job_of(load_recipe(recipe), prove=False, devices=None).quantization.absorb_biases)
    assert asked == [False, True]


def test_the_report_says_what_writing_relu6_as_relu_does_to_the_float_network(tmp_path: Path) -> None:
    result, _ = _exported(tmp_path, torch.nn.ReLU6, relu6_as_relu=True)
    six, open_ended = (_Net(act).eval() for act in (torch.nn.ReLU6, torch.nn.ReLU))
    effect = []
    for batch in _batches():
        with torch.no_grad():
            a, b = (net.double()(torch.from_numpy(batch["x"]).double()) for net in (open_ended, six))
        effect.append(10 * float(torch.log10(b.square().sum() / (a - b).square().sum())))
    assert 0 < min(effect) < 60  # it does something to this one
    told = f"ReLU6 is written as ReLU in 2 places: that alone leaves {min(effect):.1f} dB on the calibration data"
    assert result.report is not None
    assert told in result.report.notes
    assert told in (tmp_path / "parity.html").read_text()
    quiet, _ = _exported(tmp_path / "not asked for", torch.nn.ReLU6)
    assert not [note for note in quiet.notes if "ReLU6" in note]
