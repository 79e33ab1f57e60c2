"""Published networks, with random weights and BatchNorm statistics that are not trivial, to both formats."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pytorchcv_networks import NETWORKS, network

import edgeconv


@pytest.mark.slow
@pytest.mark.parametrize("entry", NETWORKS, ids=[entry[1] for entry in NETWORKS])
def test_exports_within_tolerance(entry: tuple, tmp_path: Path) -> None:
    x = torch.randn(1, 3, *entry[2], generator=torch.Generator().manual_seed(7))
    result = edgeconv.export(network(*entry), (x,), tmp_path, name=entry[1], devices=("torch", "onnxruntime", "litert"))
    assert result.report is not None
    wrong = [
        (row.device, row.output, row.reason, row.metrics and row.metrics.max_abs)
        for row in result.report.comparisons
        if row.verdict is not edgeconv.Verdict.PASS
    ]
    assert not wrong
    operators = [node.op for node in result.graphs[-1].nodes]
    assert len(operators) > 5
