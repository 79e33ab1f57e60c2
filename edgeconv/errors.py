"""Every error that edgeconv raises on purpose.

::

    EdgeconvError          the user's mistake, or the world's: exit code 2, one line
    ├── RecipeError        a recipe, its weights or its parity inputs
    ├── CaptureError       nn.Module -> graph
    ├── RewriteError       a rewrite's contract does not hold
    ├── QuantizeError      calibration, plan, QDQ
    │   └── TargetError    no number of layers in float reaches a target: exit code 1, as this is a result
    ├── EmitError          graph -> file, or the output folder
    ├── DeviceError        a device is unknown, missing or cannot be reached
    ├── ParityError        there is nothing sound to compare
    └── BundleError        a manifest or a bundle

A failed comparison is a result (exit code 1) and never an exception. Whatever else escapes is a bug of ours
(exit code 3). Foreign exceptions are mapped where they enter, ``from`` their cause.
"""

from __future__ import annotations


class EdgeconvError(Exception):
    """Base of the tree.

    Args:
        what: what is wrong, naming the culprit.
        where: the file, module, node or option where it was found.
        mend: what the user does about it.

    ``str(error)`` is one line: ``where: what; mend``.
    """

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what = _one_line(what)
        self.where = _one_line(where)
        self.mend = _one_line(mend)
        head = f"{self.where}: {self.what}" if self.where else self.what
        super().__init__(f"{head}; {self.mend}" if self.mend else head)


class RecipeError(EdgeconvError):
    """A recipe, its weights or its parity inputs cannot be used."""


class CaptureError(EdgeconvError):
    """The module cannot be turned into a graph."""


class RewriteError(EdgeconvError):
    """A rewrite found its contract broken."""


class QuantizeError(EdgeconvError):
    """Calibration, plan or QDQ nodes cannot be made."""


class TargetError(QuantizeError):
    """A target is not reached with any number of layers in float, nor with all of them."""


class EmitError(EdgeconvError):
    """The graph cannot be written in the format that was asked for, or to the place."""


class DeviceError(EdgeconvError):
    """A device is unknown, not installed or cannot be reached."""


class ParityError(EdgeconvError):
    """A comparison cannot be made at all, e.g. an artifact changed since its report."""


class BundleError(EdgeconvError):
    """A manifest or a bundle is not what it says."""


def _one_line(text: str) -> str:
    return " ".join(text.split())
