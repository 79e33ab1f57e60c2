"""What the files of an export are called. C source has its TFLite file's name, with the suffixes of `emit.c_array`."""

from __future__ import annotations

from edgeconv.core import DATA_SUFFIX, NCHW

JSON, HTML, JUNIT = "parity.json", "parity.html", "parity.junit.xml"
"""The report, one per folder; the first is what other commands read."""


def artifact_name(model: str, variant: str, format_: str, layout: str) -> str:
    """``net.fp32.onnx``, ``net.fp32.tflite``; TFLite's convention is NHWC, and another layout is in the name."""
    infix = f".{NCHW}" if format_ == "tflite" and layout == NCHW else ""
    return f"{model}.{variant}{infix}.{format_}"


def data_name(artifact: str) -> str:
    """``net.fp32.onnx.data``: weights of an ``.onnx`` file that is too large to hold them."""
    return artifact + DATA_SUFFIX


def plan_name(model: str, variant: str) -> str:
    """``net.int8.plan.json``: the quantization plan of a variant, for all of its files."""
    return f"{model}.{variant}.plan.json"


def golden_name(model: str) -> str:
    """``net.golden.safetensors``: parity inputs, and what the source computes of them in float64."""
    return f"{model}.golden.safetensors"
