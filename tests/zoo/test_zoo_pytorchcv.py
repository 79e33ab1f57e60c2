"""Published networks, with random weights and BatchNorm statistics that are not trivial, to both formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytorchcv_networks import NETWORKS, OTHERS, network, other_network, sample_of

import edgeconv
from edgeconv.core import Verdict

SMALL = [entry for entry in NETWORKS if entry[1] in ("resnet20_cifar10", "nin_cifar10")]
"""Those that are quick, in the fast suite too."""

# Networks that cannot be exported to both formats: the shape of their input, and what the one line says.
REFUSED: dict[tuple[str, str], tuple[tuple[int, ...], type[edgeconv.EdgeconvError], str]] = {
    ("revnet", "revnet38"): ((1, 3, 224, 224), edgeconv.CaptureError, "code that cannot be traced"),
    ("superpointnet", "superpointnet"): ((1, 1, 128, 128), edgeconv.CaptureError, "control flow depends on the values"),
}


@pytest.mark.slow
@pytest.mark.parametrize("entry", NETWORKS, ids=[entry[1] for entry in NETWORKS])
def test_exports_within_tolerance(entry: tuple, tmp_path: Path) -> None:
    check(entry[1], network(*entry), sample_of(((1, 3, *entry[2]),)), tmp_path)


@pytest.mark.parametrize("entry", SMALL, ids=[entry[1] for entry in SMALL])
def test_small_ones_are_exported_and_pass(entry: tuple, tmp_path: Path) -> None:
    check(entry[1], network(*entry), sample_of(((1, 3, *entry[2]),)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("entry", OTHERS, ids=[entry[1] for entry in OTHERS])
def test_networks_of_other_inputs_are_exported_and_pass(entry: tuple, tmp_path: Path) -> None:
    module, factory, shapes, arguments = entry
    check(factory, other_network(module, factory, shapes, arguments), sample_of(shapes), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("names", REFUSED, ids=[factory for _, factory in REFUSED])
def test_networks_that_cannot_be_exported_are_refused_in_one_line(names: tuple[str, str], tmp_path: Path) -> None:
    shape, kind, line = REFUSED[names]
    with pytest.raises(kind, match=line) as caught:
        edgeconv.export(other_network(*names, (shape,), {}), sample_of((shape,)), tmp_path / "out", name=names[1])
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def check(name: str, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path) -> None:
    result = edgeconv.export(module, inputs, folder, name=name, devices=("torch", "onnxruntime", "litert"))
    assert result.report is not None
    rows = result.report.comparisons
    links = [link for row in rows for link in row.links]
    for link in links:
        assert link.verdict is Verdict.PASS, link.reason
        assert link.used is not None
        assert link.used <= 1, link.reason
    # Where a runtime fuses all of a network into sums of a thousand products, these use little of their bound.
    assert max(link.used or 0.0 for link in links) > 0.05
    wrong = [(row.device, row.output, row.reason) for row in rows if row.verdict is not Verdict.PASS]
    assert not wrong, name
