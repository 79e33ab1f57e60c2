"""Weights and images that a stranger made.

Members thought of: floats of 4 and 8 bits, complex numbers, tensors of 10^12 elements by a stride of 0 (in the module's
place and beside it), keys that the module has not; PNG of 16 bits in grey and in colour, PPM of 16 bits.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

from edgeconv.errors import RecipeError
from edgeconv.recipe.preprocessing import _open
from edgeconv.recipe.weights import load_weights

PLAIN = {name: value.clone() for name, value in nn.Linear(4, 3).state_dict().items()}
VAST = torch.zeros(1).expand(10**6, 10**6)
FLOAT4 = torch.zeros(3, 4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weight": VAST}, "more elements than it holds in weight"),
        ({"extra": VAST}, "more elements than it holds in extra"),
        ({"weight": FLOAT4}, "float4_e2m1fn_x2 in the file"),
        ({"extra": FLOAT4}, "unexpected: extra"),
        ({"weight": PLAIN["weight"].to(torch.float8_e5m2)}, "float8_e5m2 in the file"),
        ({"weight": PLAIN["weight"].to(torch.complex64)}, "complex64 in the file"),
        ({"extra": torch.zeros(3)}, "unexpected: extra"),
    ],
)
def test_weights(changes: dict[str, torch.Tensor], words: str, tmp_path: Path) -> None:
    torch.save({**PLAIN, **changes}, tmp_path / "w.pt")
    with pytest.raises(RecipeError, match=words):
        load_weights(nn.Linear(4, 3), tmp_path / "w.pt")


def _png(channels: int) -> bytes:
    rows = b"".join(b"\0" + bytes(2 * channels * 8) for _ in range(8))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, {1: 0, 3: 2}[channels], 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in (*chunks, (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("name", "data"),
    [("grey.png", _png(1)), ("colour.png", _png(3)), ("colour.ppm", b"P6 8 8 65535\n" + bytes(8 * 8 * 6))],
)
def test_images_of_16_bits(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RecipeError, match="more than 8 bits per channel"):
        _open(tmp_path / name, "")
