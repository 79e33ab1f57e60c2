"""The text of a starting recipe: given values are filled in, all other keys stand as comments that explain them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

_MODEL = """\
# Written by `edgeconv init`: every key is described in models/README.md of edgeconv.
# Export and prove: edgeconv export {file}
name = {name}
# description = "A sentence for the report"

[model]
# A class or function that returns a torch.nn.Module; its Python file lies beside this one, or is installed.
factory = {factory}
# args = {{ num_classes = 10 }}  # its keyword arguments
{weights}
"""
_NO_WEIGHTS = """\
# weights = "weights.safetensors"  # or a checkpoint (.pt, .pth); without weights, they are drawn:
# seed = 0\
"""
_WEIGHTS = """\
weights = {weights}
# key = "state_dict"  # where in the checkpoint the weights lie
# prefix = "module."  # what their names begin with there and not in the module\
"""
_INPUT = """
# One table per argument of forward, in its order; NCHW. ["batch", 3, 224, 224] leaves the batch open.
[[inputs]]
name = {name}
shape = {shape}
# dtype = "float32"
"""
_REST = """
# [outputs]
# names = ["logits"]  # by default the keys of a dict, or output, output_1, ...

[export]
formats = ["onnx", "tflite"]
variants = ["fp32"]  # also fp16, int8, int8-mixed, int8-weights, int16x8
# tflite_layouts = ["nhwc", "nchw"]
# opset = 18

[parity]
# devices = ["onnxruntime", "litert", "tflite-runtime"]  # by default all that run here: edgeconv devices
# tolerance = { atol = 1e-5, rtol = 1e-5 }

# What the files are judged on: noise, and better still what the network is for.
[[parity.random]]
seed = 0
# scale = 1.0
# [[parity.images]]
# files = ["cat.jpg", "dog.jpg"]  # read as [preprocessing] says
# [[parity.arrays]]
# file = "samples.npz"

# [preprocessing]
# resize = 256
# center_crop = 224
# rescale = 0.00392156862745098  # 1/255
# mean = [0.485, 0.456, 0.406]
# std = [0.229, 0.224, 0.225]

# How variants of integers are made.
# [quantize]
# io = "float32"  # or int8, uint8: of the files' inputs and outputs
# keep_float = ["head.*"]
# keep_roundings = true  # in the int8 .onnx also where onnxruntime computes a small layer faster in float

# What they are calibrated on: some hundred typical inputs.
# [[quantize.images]]
# folder = "calibration"
"""


def template(
    factory: str,
    inputs: Mapping[str, Sequence[int | str]],
    *,
    name: str,
    file: str,
    weights: str | None = None,
) -> str:
    """The text of a recipe.

    Args:
        factory: ``package.module:callable``.
        inputs: shapes by name, in the order of forward; a str is an open batch.
        name: of the artifacts.
        file: the recipe's own name.
        weights: a file; None for none.
    """
    stated = _NO_WEIGHTS if weights is None else _WEIGHTS.format(weights=_quoted(weights))
    head = _MODEL.format(file=file, name=_quoted(name), factory=_quoted(factory), weights=stated)
    tables = [_INPUT.format(name=_quoted(key), shape=json.dumps(list(shape))) for key, shape in inputs.items()]
    first, *others = tables
    comment = _INPUT.splitlines(keepends=True)[1]
    return "".join([head, first, *(table.replace(comment, "") for table in others), _REST])


def _quoted(text: str) -> str:
    """A TOML string: JSON's form, with DEL escaped, too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
