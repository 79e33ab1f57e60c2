"""Random networks through every variant and both formats, on the runtimes, against torch in float64.

A few seeds always run; the sweep is slow: EDGECONV_RANDOM_NETWORKS says how many (a hundred by default),
EDGECONV_RANDOM_FIRST where the seeds begin, EDGECONV_RANDOM_LOG a file that each outcome is added to.

Thought of: branches that join, values of several readers, dead steps, shared constants, outputs that are read, outputs
in tuples, lists and dicts, and submodules, buffers and outputs that are named as values of our own are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_judge import Expected, Outcome, decibels, judged, summary, sweep
from random_networks import RandomNetwork, drawn, tensors_of

import edgeconv

_COUNT = int(os.environ.get("EDGECONV_RANDOM_NETWORKS", "100"))
_FIRST = int(os.environ.get("EDGECONV_RANDOM_FIRST", "0"))
_LOG = os.environ.get("EDGECONV_RANDOM_LOG", "")


def _expected(network: RandomNetwork, x: torch.Tensor, seed: int) -> Expected:
    with torch.no_grad():
        outputs = [one.numpy() for one in tensors_of(network.double()(x.double()))]
        network.float()
        rng = torch.Generator().manual_seed(seed)
        halves: list[list[float]] = []
        for _ in range(3):
            near = x * (1 + 2.0**-12 * torch.randn(*x.shape, generator=rng))
            results = tensors_of(network(near, lambda value: value.half().float()))
            halves.append([decibels(a, b.numpy()) for a, b in zip(outputs, results, strict=True)])
    return Expected(outputs, {"fp16": [min(each) for each in zip(*halves, strict=True)]})


def tried(seed: int) -> Outcome:
    """A seed's network, exported and judged."""
    network, x = drawn(seed)
    data = [torch.randn(*x.shape, generator=torch.Generator().manual_seed(seed + 1 + at)).numpy() for at in range(4)]
    batches = [{"x": np.asarray(one)} for one in [x.numpy(), *data]]

    def export(folder: Path, formats: Any, variants: Any) -> edgeconv.ExportResult:
        return edgeconv.export(
            network, (x,), folder, name="net", formats=formats, variants=variants, input_names=["x"],
            quantization=edgeconv.Quantization(batches=lambda: batches),
        )  # fmt: skip

    return judged(seed, network.described, export, [x.numpy()], _expected(network, x, seed))


@pytest.mark.parametrize("seed", [0, 1, 3, 4, 5, 6])
def test_a_random_network_is_computed_or_refused(seed: int) -> None:
    outcome = tried(seed)
    assert not outcome.wrong, summary([outcome])
    assert outcome.right, summary([outcome])


@pytest.mark.slow
def test_no_random_network_is_exported_wrongly() -> None:
    outcomes = sweep(range(_FIRST, _FIRST + _COUNT), tried, Path(_LOG) if _LOG else None)
    assert not any(outcome.wrong for outcome in outcomes), summary(outcomes)
