"""CenterCropPad: a Slice of the axes that become smaller, and a Pad of those that become larger.

Specification: CenterCropPad. Of an odd difference the smaller half is in front.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.graph.edit import stated_input
from edgeconv.graph.steps import Steps, sizes_of


def center_crop_pad(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """Both, or one of them; an Identity where the sizes stay."""
    x, sizes = stated_input(node), sizes_of(node.outputs[0])
    for axis, (before, after) in enumerate(zip(sizes_of(x), sizes, strict=True)):
        if after < before:
            start = (before - after) // 2
            x = steps.slice(x, axis, start, start + after, "cropped")
    if sizes_of(x) != sizes:
        added = np.array(sizes) - sizes_of(x)
        pads = steps.constant(np.concatenate([added // 2, added - added // 2]), "pads")
        x = steps.add("padded", "Pad", [x, pads], sizes)
    return {node.outputs[0]: x if steps.is_own(x) else steps.add("same", "Identity", [x], sizes)}
