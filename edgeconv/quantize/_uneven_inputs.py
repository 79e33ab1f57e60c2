"""What reads an input of unlike features stays float: a temperature beside a pressure, at one scale for both.

An image's channels are alike. Columns of a table and series of sensors are often not: at the scale of the widest the
others are rounded to nothing before the first layer sees them. Where the calibration data show that, the operators from
the input to the first layer, or to a division by constants that makes its features alike, compute in float. Such inputs
are small, and so is what that costs; images (4 axes and more) are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from edgeconv.quantize._apart import lost_channels
from edgeconv.quantize._calibrate import Calibration
from edgeconv.quantize._channels import readers_of_input
from edgeconv.quantize._graph import name_of, named
from edgeconv.quantize._structure import Structure


def uneven_inputs(model: ir.Model, structure: Structure, calibration: Calibration) -> Iterator[tuple[str, str]]:
    """Operators that stay float so that features of an input keep what they vary: their names, and why.

    Args:
        model: float32, NCHW.
        structure: of the model.
        calibration: of the model.
    """
    for source in model.graph.inputs:
        channels = calibration.channels.get(named(source))
        reason = lost_channels([channels], f"{named(source)} has features with") if channels is not None else None
        for node in readers_of_input(source) if reason is not None else ():
            layer = structure.layers.get(name_of(node))
            # With a layer stays what is computed with it: a clamp or the bias behind a product.
            for name in dict.fromkeys([name_of(node), named(layer.output) if layer is not None else name_of(node)]):
                if name not in structure.kept_float:
                    yield name, reason or ""
