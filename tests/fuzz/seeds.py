"""What mutants are made of: files of real exports, and recipes that name them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

import edgeconv
from edgeconv.nn import DepthwiseSeparableConv

RECIPE = """name = "net"
description = "words"
[model]
factory = "edgeconv.nn:DepthwiseSeparableConv"
args = { in_channels = 3, out_channels = 8 }
seed = 0
[model.warmup]
seed = 1
batches = 2
[[inputs]]
name = "x"
shape = [1, 3, 8, 8]
dtype = "float32"
[preprocessing]
resize = [8, 8]
mean = [0.5, 0.5, 0.5]
std = [0.2, 0.2, 0.2]
[export]
formats = ["onnx", "tflite"]
variants = ["fp32"]
[parity]
devices = ["onnxruntime"]
timeout_s = 60.0
[[parity.random]]
seed = 0
count = 2
[[parity.arrays]]
file = "in.npz"
[parity.tolerance]
atol = 1e-5
"""
PLANNED = """name = "net"
[model]
factory = "edgeconv.nn:DepthwiseSeparableConv"
args = { in_channels = 3, out_channels = 8 }
seed = 0
[[inputs]]
name = "x"
shape = [1, 3, 8, 8]
[export]
variants = ["int8"]
[quantize]
plan = "net.plan.json"
"""
WEIGHED = """name = "net"
[model]
factory = "edgeconv.nn:DepthwiseSeparableConv"
args = { in_channels = 3, out_channels = 8 }
weights = "net.safetensors"
[[inputs]]
name = "x"
shape = [1, 3, 8, 8]
"""


class Seeds:
    """One real export in four forms, and what its recipes name."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        module, x = DepthwiseSeparableConv(3, 8).eval(), torch.ones(1, 3, 8, 8)
        data = edgeconv.Quantization(batches=lambda: [{"x": x.numpy() * scale} for scale in (0.5, 1.0, 2.0)])
        edgeconv.export(
            module,
            (x,),
            folder,
            name="net",
            variants=("fp32", "fp16", "int8"),
            tflite_layout=("nhwc", "nchw"),
            input_names=["x"],
            quantization=data,
            devices=("onnxruntime", "litert"),
        )
        self.folder = folder
        self.report = json.loads((folder / "parity.json").read_text())
        self.plan = json.loads((folder / "net.int8.plan.json").read_text())
        self.tflite = {path.name: path.read_bytes() for path in sorted(folder.glob("*.tflite"))}
        self.onnx = (folder / "net.fp32.onnx").read_bytes()
        self.golden = (folder / "net.golden.safetensors").read_bytes()
        self.weights = bytes(save(module.state_dict(), metadata={"format": "pt"}))
        self.arrays = folder.parent / "in.npz"
        np.savez(self.arrays, x=np.zeros((2, 3, 8, 8), np.float32))

    def copied(self, target: Path, changes: dict[str, bytes]) -> None:
        """The export with some files others, and their checksums in its report, where that is not changed itself."""
        import hashlib

        shutil.copytree(self.folder, target)
        text = json.dumps(self.report)
        for name, data in changes.items():
            old = hashlib.sha256((self.folder / name).read_bytes()).hexdigest()
            text = text.replace(old, hashlib.sha256(data).hexdigest())
        if "parity.json" not in changes:
            (target / "parity.json").write_text(text)
        for name, data in changes.items():
            (target / name).write_bytes(data)

    def names(self) -> Sequence[str]:
        """Of the `.tflite` files."""
        return list(self.tflite)
