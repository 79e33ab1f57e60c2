"""Links 1 to 4 of every block of a paper and every idiom of torch, in floats, halves and integers, in both formats.

What integers cost of weights that were drawn at random may miss an acceptance threshold; no link may break.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_zoo_papers import BLOCKS, _module

import edgeconv

LINKS = {"rewrites", "rounding", "writing", "running"}


def broken_links(folder: Path) -> list[str]:
    """File, device, link and reason of each link that does not hold."""
    report: dict[str, Any] = json.loads((folder / "parity.json").read_text())
    told = [(item["file"], "", link) for item in report["artifacts"] for link in item["links"]]
    told += [(row["artifact"], row["device"], link) for row in report["comparisons"] for link in row["links"]]
    assert {link["link"] for *_, link in told} >= {"writing", "running"}
    return [
        f"{file} {device} {link['link']}: {link['reason']}"
        for file, device, link in told
        if link["link"] in LINKS and link["verdict"] == "fail"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_no_link_of_a_right_file_breaks(name: str, tmp_path: Path) -> None:
    make, shapes = BLOCKS[name]
    generator = torch.Generator().manual_seed(1)
    args = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    names = [f"x{at}" for at in range(len(shapes))]
    noise = np.random.default_rng(2)

    def batches() -> list[dict[str, np.ndarray]]:
        pairs = list(zip(names, shapes, strict=True))
        return [{key: noise.standard_normal(shape).astype(np.float32) for key, shape in pairs} for _ in range(8)]

    edgeconv.export(
        _module(make),
        args,
        tmp_path,
        name="net",
        input_names=names,
        variants=("fp32", "fp16", "int8"),
        devices=("onnxruntime", "litert", "litert-reference"),
        quantization=edgeconv.Quantization(batches=batches),
    )
    assert not broken_links(tmp_path)
