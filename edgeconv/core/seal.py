"""Generated texts that end with their own checksum, so that an edited one can be told from ours."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SEAL = "sha256 of the lines above: "
_MOST_SEALED_BYTES = 2**32  # C source of a file of 2 GiB would have more, and no compiler takes it


def sealed(text: str, comment: str) -> str:
    """Appends a line with the text's checksum, by which `is_sealed` recognizes it until somebody edits it.

    Args:
        text: whole lines.
        comment: how its language writes a remark, with ``{}`` for the words: ``"/* {} */"``.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text + comment.format(f"{_SEAL}{digest}") + "\n"


def is_sealed(path: Path) -> bool:
    """Whether a file is still, byte for byte, a text that `sealed` made; a link or a device is not."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_SEALED_BYTES:
        return False
    body, line_end, last = path.read_bytes().removesuffix(b"\n").rpartition(b"\n")
    digest = last.partition(_SEAL.encode())[2][:64].decode("ascii", "replace")
    return hashlib.sha256(body + line_end).hexdigest() == digest
