"""Whole networks on both paths: the same float64 output, the same names of module outputs."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import pytorchcv_networks as zoo
import torch
from test_capture_fast import _captured, assert_same

from edgeconv.capture import capture
from edgeconv.reference import evaluate

PATHS: tuple[Literal["fast", "official"], ...] = ("fast", "official")
# Small ones that between them hold inplace activations, gates, concatenations and residuals.
QUICK = {"mobilenetv3_small_w1", "squeezenet_v1_1"}
# It makes indices of where a constant is not zero, whose number the fast path does not take for known.
OFFICIAL_ALONE = {"isqrtcovresnet18"}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(e, id=e[1], marks=() if e[1] in QUICK else pytest.mark.slow)
        for e in zoo.NETWORKS
        if e[1] not in OFFICIAL_ALONE
    ],
)
def test_both_paths_give_the_same_output(entry: tuple) -> None:
    module = zoo.network(*entry)
    x = torch.randn(1, 3, *entry[2], generator=torch.Generator().manual_seed(7))
    assert_same(_captured(module, x, "fast"), _captured(module, x, "official"), module, x)


@pytest.mark.slow
@pytest.mark.parametrize("entry", zoo.OTHERS, ids=[entry[1] for entry in zoo.OTHERS])
def test_both_paths_of_networks_of_other_inputs(entry: tuple) -> None:
    module, factory, shapes, arguments = entry
    inputs = zoo.sample_of(shapes)
    net = zoo.other_network(module, factory, shapes, arguments)
    names = [f"input_{index}" for index in range(len(inputs))]
    fast, official = (capture(net, inputs, input_names=names, output_names=(), path=path) for path in PATHS)
    wide = {
        name: (value.double() if value.is_floating_point() else value).numpy()
        for name, value in zip(names, inputs, strict=True)
    }
    got, expected = evaluate(fast, wide), evaluate(official, wide)
    for value in official.graph.outputs:
        name = value.name or ""
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-10, atol=1e-10 * np.abs(expected[name]).max())
