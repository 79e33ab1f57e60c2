"""Maps whatever readers raise on damaged files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgeconv.errors import EdgeconvError, EmitError, is_own_fault


@contextmanager
def damaged(what: str) -> Iterator[None]:
    """Any exception within the block means that the file is damaged, but for those that show a bug of ours.

    Readers of protobuf check little and raise another kind of error for each kind of damage.

    Raises:
        EmitError: says `what`.
    """
    try:
        yield
    except EdgeconvError:
        raise
    except Exception as error:  # protobuf, onnx and numpy: see above
        if is_own_fault(error):
            raise
        raise EmitError(what, hint="export it again") from error


NO_ONNX = "not an ONNX file, or damaged"
