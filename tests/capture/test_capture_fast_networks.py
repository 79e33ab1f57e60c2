"""Whole networks on both paths: the same float64 output, the same names of module outputs."""

from __future__ import annotations

import pytest
import pytorchcv_networks as zoo
import torch
from test_capture_fast import _captured, assert_same

# Small ones that between them hold inplace activations, channel shuffles, gates, concatenations and residuals.
QUICK = {"mobilenetv3_small_w1", "shufflenetv2b_w1", "squeezenet_v1_1"}


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(e, id=e[1], marks=() if e[1] in QUICK else pytest.mark.slow)
        for e in zoo.NETWORKS
        if e[1] in zoo.ON_BOTH_PATHS
    ],
)
def test_both_paths_give_the_same_output(entry: tuple) -> None:
    module = zoo.network(*entry)
    x = torch.randn(1, 3, *entry[2], generator=torch.Generator().manual_seed(7))
    assert_same(_captured(module, x, "fast"), _captured(module, x, "official"), module, x)
