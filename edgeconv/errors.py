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

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum


class Caller(Enum):
    """Who called: hints are worded for the command line, a recipe, or Python."""

    COMMAND_LINE = "command line"
    RECIPE = "recipe"
    PYTHON = "Python"


_caller: ContextVar[Caller] = ContextVar("edgeconv.caller", default=Caller.PYTHON)


@contextmanager
def telling(caller: Caller) -> Iterator[None]:
    """Within the block, `Wording` speaks to this caller; of nested callers, the outermost counts."""
    if _caller.get() is not Caller.PYTHON:
        yield
        return
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


@dataclass(frozen=True)
class Wording:
    """A choice or an instruction, worded for each caller; ``str()`` gives the present caller's wording.

    Attributes:
        flag: of the command line; empty where it has none, and the recipe's key is told.
        key: of the recipe.
        argument: of the Python functions.
    """

    flag: str
    key: str
    argument: str

    def __str__(self) -> str:
        if _caller.get() is Caller.PYTHON:
            return self.argument
        return self.flag if self.flag and _caller.get() is Caller.COMMAND_LINE else self.key


ONNX_ONLY = Wording("export with --format onnx", 'export formats = ["onnx"] only', 'export with formats="onnx"')
TFLITE_ONLY = Wording("export with --format tflite", 'export formats = ["tflite"] only', 'export with formats="tflite"')
TFLITE_TOO = Wording("add --format tflite", 'add "tflite" to formats', 'add "tflite" to formats')
FORMATS = Wording("--format", "export.formats", "formats")
VARIANTS = Wording("--variant", "export.variants", "variants")
LAYOUTS = Wording("", "export.tflite_layouts", "tflite_layout")
DEVICES = Wording("--device", "parity.devices", "devices")
SKIPPED = Wording("--no-rewrite", "skip_rewrites", "skip_rewrites")  # which no recipe states
PAIR_SAFE = Wording("", "pair_safe = true in [quantize]", "Quantization(pair_safe=True)")
CALIBRATE = Wording("", "name images, arrays or a generator in [quantize]", "pass Quantization(batches=...)")
NO_SAMPLE = Wording(
    "",
    "leave `variants` out of one of its parity inputs",
    "leave `variants` out of one of the samples, or pass one for it",
)
DECLARED = Wording(
    "",
    "check the declared input shapes and dtypes, and run the module once in torch with them",
    "check the shapes and dtypes of args, and run the module once in torch with them",
)
FIXED_BATCH = Wording(
    "export with a fixed batch: a number in front of the recipe's shape, or --shape NAME=1,… for an .onnx file",
    "export with a fixed batch: a number in front of the shape",
    "export with a fixed batch: no dynamic_batch, or, to export_onnx, a number in front of shapes",
)
NO_TORCH = Wording("leave out --device torch", "leave it out of parity.devices", "leave it out of devices")
INT8_ONLY = Wording(
    "ask for --variant int8, or export the float model",
    'state variants = ["int8"], or export the float model',
    'ask for variants="int8", or export the float model',
)
WEIGHTS_ONLY = Wording(
    "ask for fp32, fp16 or int8-weights, or export the float model",
    'state variants = ["fp32"], fp16 or int8-weights, or export the float model',
    "ask for the variants fp32, fp16 or int8-weights, or export the float model",
)
JUDGED = Wording("", "name more data in the recipe", "give Quantization(judged=...), data to judge by")
CALIBRATED = Wording("", "quantize", "quantization")
NO_C = Wording("leave --c-array out", "leave c_array out", "leave c_array out")
OUT = Wording("choose another folder with --out", "choose another folder", "choose another folder")


class EdgeconvError(Exception):
    """Base class of every error that the user can do something about.

    Args:
        what: what is wrong, naming the culprit.
        where: the file, module, node or option where it was found.
        hint: what the user does about it; a `Wording` where that depends on who is told.

    ``str(error)`` is one line: ``where: what; hint``. What is longer than 400 characters a word, or 2,000
    in all, loses its middle.
    """

    def __init__(self, what: str, *, where: str | Wording = "", hint: str | Wording = "") -> None:
        self.what = _one_line(what)
        self.where = _one_line(str(where))
        self.hint = _one_line(str(hint))
        head = f"{self.where}: {self.what}" if self.where else self.what
        super().__init__(f"{head}; {self.hint}" if self.hint else head)


class Ending(BaseException):
    """A signal or a time limit asks the process to end; handlers around foreign code must let it pass."""


def raise_if_ending(error: BaseException) -> None:
    """Raises interrupts and requests to end the process again; every other exception is the user's code's own.

    The foreign border catches every ``BaseException``, as a module may make classes of its own.
    """
    if isinstance(error, Ending | KeyboardInterrupt):
        raise error


class RecipeError(EdgeconvError):
    """A recipe, its weights or its parity inputs cannot be used."""


class CaptureError(EdgeconvError):
    """The module cannot be turned into a graph."""


class RewriteError(EdgeconvError):
    """A rewrite found its contract broken."""


class QuantizeError(EdgeconvError):
    """Calibration, plan or QDQ nodes cannot be made."""


class TargetError(QuantizeError):
    """No number of layers in float reaches a target, not even all of them."""


class EmitError(EdgeconvError):
    """The graph cannot be written in the format that was asked for, or to the place."""


class DeviceError(EdgeconvError):
    """A device is unknown, not installed or cannot be reached."""


class ParityError(EdgeconvError):
    """A comparison cannot be made at all, e.g. an artifact changed since its report."""


class BundleError(EdgeconvError):
    """A manifest or a bundle is not what it says."""


def causes_of(error: BaseException, *, suppressed: bool = False) -> Iterator[BaseException]:
    """An exception, then what caused it, step by step: the one named by ``from``, else the context.

    Args:
        error: where to begin.
        suppressed: also follows contexts that ``from None`` hides.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        hidden = cause.__suppress_context__ and not suppressed
        cause = cause.__cause__ or (None if hidden else cause.__context__)


# What a sound program does not raise, whatever it reads. What a file lacks or has too much of is often a LookupError, a
# ValueError or an ArithmeticError first.
_OF_UNSOUND_CODE = (AssertionError, AttributeError, NameError, NotImplementedError, TypeError)


def is_own_fault(error: Exception) -> bool:
    """Whether an exception is a bug of edgeconv's, which no border may tell as a fault of the file that was read.

    Such is one that sound code never raises, in a function of edgeconv's; what libraries raise, they may raise of bad
    data. Not for borders to code of the user's: what calls that may fail by its kind. (The networks of `edgeconv.nn`
    count as the user's.)
    """
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = "" if place is None else str(place.tb_frame.f_globals.get("__name__", ""))
    ours = module.partition(".")[0] == "edgeconv" and not module.startswith("edgeconv.nn")
    return ours and isinstance(error, _OF_UNSOUND_CODE)


def _one_line(text: str) -> str:
    """One printable line a person can read: names come from untrusted files, with line ends, escapes, or megabytes."""
    line = _shortened(" ".join(_shortened(word, _LONGEST_WORD) for word in text.split()), _LONGEST_TEXT)
    return printable(line)


def printable(text: str) -> str:
    """One line that cannot steer a terminal: control characters, line ends among them, become their escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


_LONGEST_WORD = 400  # characters: paths are words, and a file's name alone may have 255
_LONGEST_TEXT = 2000


def _shortened(text: str, most: int) -> str:
    """A text without its middle, where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 4 :]}"
