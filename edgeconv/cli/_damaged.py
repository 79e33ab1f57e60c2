"""The border to files that may be damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgeconv.errors import EmitError


@contextmanager
def damaged(what: str) -> Iterator[None]:
    """Reading inside of this finds a damaged file, whatever it raises.

    Readers of protobuf check little and raise another kind of error for each kind of damage.

    Raises:
        EmitError: says `what`.
    """
    try:
        yield
    except EmitError:
        raise
    except Exception as error:
        raise EmitError(what, hint="export it again") from error


NO_ONNX = "not an ONNX file, or damaged"
