"""The reference module and the networks built of it.

Plain torch modules: they train, their state dicts carry the well-known keys, and nothing in them knows of export.
"""

from __future__ import annotations

from edgeconv.nn.dsconv import DepthwiseSeparableConv
from edgeconv.nn.mobilenet import MOBILENET_V1_BLOCKS, MobileNetDSC

__all__ = ["MOBILENET_V1_BLOCKS", "DepthwiseSeparableConv", "MobileNetDSC"]
