"""Refuses variants and options that cannot be honored on what rounds by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.core import values
from edgeconv.core.quantization_options import QuantizationOptions
from edgeconv.errors import INT8_ONLY, WEIGHTS_ONLY, QuantizeError
from edgeconv.graph.edit import ROUNDED_WEIGHTS

_HONORED = ("batches", "io", "keep_float", "keep_roundings", "places", "pixels")
_OF_FLOATS = ("fp32", "fp16", "int8-weights")


def check_choices(names: Sequence[str], quantization: QuantizationOptions) -> None:
    """Checks what is chosen for a graph that is quantized already: few options have a meaning there.

    Raises:
        QuantizeError: another variant than its own is chosen, or an option that cannot be honored.
    """
    wrong = [name for name in names if name != "int8"]
    if wrong:
        raise QuantizeError("the model is quantized already", where=wrong[0], hint=INT8_ONLY)
    for setting in dataclasses.fields(quantization):
        if setting.name not in _HONORED and getattr(quantization, setting.name) != setting.default:
            what = "the model is quantized already, and keeps its own numbers"
            raise QuantizeError(what, where=setting.name, hint="leave it out, or quantize the float model")


def check_weights(model: ir.Model, names: Sequence[str]) -> None:
    """Checks the variants of a module that rounds its weights, and nothing else.

    Raises:
        QuantizeError: one is chosen whose scales would come from calibration, which rounds the weights anew.
    """
    wrong = [name for name in names if name not in _OF_FLOATS]
    if wrong and ROUNDED_WEIGHTS in model.metadata_props:
        count = values.counted(int(model.metadata_props[ROUNDED_WEIGHTS]), "weight")
        what = f"the module rounds {count} itself, and nothing that its layers read: calibration rounds them anew"
        raise QuantizeError(what, where=wrong[0], hint=WEIGHTS_ONLY)
