"""What only processes show: the same bytes whatever the folder and the hash seed, nothing said, nothing left."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import Any

import programs
import pytest

SCRIPT = """
import hashlib, json, sys, torch, onnx_ir as ir
from torch import nn
from edgeconv.capture import capture
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.errors import CaptureError

def digest(data):
    return hashlib.sha256(data).hexdigest()

torch.manual_seed(0)
layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(), nn.PixelShuffle(2), nn.SiLU()]
module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 5))
model = capture(module, (torch.randn(1, 3, 8, 8),), input_names=["input"], output_names=["output"])
told = {"graph": digest(ir.to_proto(model).SerializeToString(deterministic=True))}
official = ("onnxscript", "torch.onnx._internal.exporter._core")
told["official"] = [name for name in sys.modules if name.startswith(official)]
told["onnx"] = digest(to_onnx(model, metadata={"a": "1", "b": "2"}).data)
told["tflite"] = digest(to_tflite(model, metadata={"a": "1", "b": "2"}).data)

class Branches(nn.Module):
    def forward(self, x):
        return x if x.mean() > 0 else -x

try:
    capture(Branches(), (torch.randn(3),), input_names=["input"], output_names=["output"])
except CaptureError:
    told["branches"] = "refused"
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes print, with other hash seeds and in other folders: Python itself, and a fork of another."""
    answers = []
    environment = {**os.environ, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    for forked in (False, True):
        folder = tmp_path_factory.mktemp("process")
        command = [sys.executable, "-c", SCRIPT]
        options: dict[str, Any] = {"cwd": folder, "env": environment}
        done = (
            programs.run([SCRIPT], code=True, **options)
            if forked
            else subprocess.run(command, capture_output=True, text=True, check=True, **options)
        )
        assert done.stderr == ""
        assert list(folder.iterdir()) == []
        answers.append(json.loads(done.stdout))
    return answers


@pytest.mark.parametrize("what", ["graph", "onnx", "tflite"])
def test_the_same_bytes(what: str, told: list[dict[str, Any]]) -> None:
    first, second = told
    assert len(first[what]) == hashlib.sha256().digest_size * 2
    assert first[what] == second[what]


def test_a_refusal_is_told_by_the_exception_alone(told: list[dict[str, Any]]) -> None:
    assert [answer["branches"] for answer in told] == ["refused", "refused"]


def test_the_official_exporter_is_not_even_imported(told: list[dict[str, Any]]) -> None:
    assert told[0]["official"] == []
