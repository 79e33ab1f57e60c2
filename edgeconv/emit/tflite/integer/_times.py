"""How long XNNPACK takes for an int8 convolution, with the tiles of two kinds of processors.

Most have products of matrices in narrow tiles: 8 channels of a tap are read at a time, and 16 results are made
(gemm-config.c: AVX-512 with VNNI or without; the dot products of Arm, too). Where the processor has AMX (Intel Xeon
since Sapphire Rapids), XNNPACK takes its tiles for every int8 product: 16 windows, 64 channels of a tap and 64 results
at once, and a layer of 16 results takes as long as one of 64. A form that is quick in one kind can be slow in the
other; a file runs on both. What a choice is judged by is their geometric mean, in which the narrow kind counts twice.

Fitted to 150 convolutions of LiteRT 2.3, one thread, narrow on an AMD EPYC with VNNI, wide on an Intel Xeon with AMX
(root mean square of what they are off by: 7 and 9 %); the same layer in both kinds on that Xeon, in ms
(`tests/processors/hidden.py vnni` hides AMX):

    1x1 of 112x112x8 to 8 channels, pixels read and written as one: 1, 2, 4      narrow  0.067 0.056 0.059
                                                                                 wide    0.273 0.148 0.094
    3x3, stride 2, of 224x224x3 to 16 channels, read x written: 2x1, 4x2, 8x4    narrow  0.159 0.180 0.204
                                                                                 wide    0.464 0.282 0.189
"""

from __future__ import annotations

from typing import NamedTuple

NARROW_DEPTH, NARROW_WIDTH = 8, 16
"""Channels of a tap that a narrow tile reads, and results that it makes."""
_WIDE = 64  # channels and results of a wide tile
_WIDE_WINDOWS = 16


class Times(NamedTuple):
    """Nanoseconds that a form of a layer takes on one core, in each kind of tiles."""

    narrow_ns: float
    wide_ns: float

    def plus(self, ns: float) -> Times:
        """With what takes as long on both, as moving bytes does."""
        return Times(self.narrow_ns + ns, self.wide_ns + ns)

    @property
    def mean_ns(self) -> float:
        """The geometric mean, in which the narrow kind counts twice: there are more of these processors."""
        return float((self.narrow_ns**2 * self.wide_ns) ** (1 / 3))


def product_times(windows: int, taps: int, channels: int, results: int, *, groups: int = 1) -> Times:
    """Of a convolution as a product of matrices.

    Args:
        windows: elements of the result, of one channel.
        taps: of a window, rows times columns.
        channels: of a tap, in one group.
        results: channels of the result, in one group.
        groups: each is a product by itself.
    """
    gathered = 3.0 if taps > 1 else 0.0  # a list of the rows of a window is read (igemm)
    depth, width = -(-channels // NARROW_DEPTH), -(-results // NARROW_WIDTH)
    narrow_ns = windows * (gathered + width * (2.1 + 0.57 * taps * depth))
    tiles = -(-windows // _WIDE_WINDOWS) * -(-results // _WIDE)
    wide_ns = tiles * (200.0 + 54.0 * taps * -(-channels // _WIDE)) + 0.21 * windows * results
    return Times(groups * narrow_ns, groups * wide_ns)


def depthwise_times(windows: int, taps: int, channels: int) -> Times:
    """Of XNNPACK's depthwise kernel, which is the same on both kinds of processors: 16 channels at a time."""
    vectors = windows * -(-channels // NARROW_WIDTH)
    return Times(vectors * (1.4 + 0.72 * taps), vectors * (2.3 + 1.2 * taps))
