"""Checks arguments of public functions: a wrong value is an error that says in one line what it is and what to give.

Each function takes the value, the argument as its caller knows it, and the class of the error, and returns the value in
the plain form that the rest of the package works with: numbers of numpy or torch as Python's, one name as a tuple.
"""

from __future__ import annotations

import difflib
import math
import operator
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from edgeconv.errors import EdgeconvError, Wording

T = TypeVar("T")
Where = str | Wording
Refusal = type[EdgeconvError]

_SPOKEN = {"bytes": "bytes", "ndarray": "an ndarray"}
_LONGEST = 40  # characters of a value in a message; longer ones are told by their kind
_NAMES = "give a name, or a list of names"


def kind_of(value: object) -> str:
    """What a value is, with its article: ``"an int"``, ``"the class Net"``, ``"None"``."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    if name in _SPOKEN:
        return _SPOKEN[name]
    return f"{'an' if name[:1] in tuple('aeioAEIO') else 'a'} {name}"


def counted(count: int, noun: str) -> str:
    """``counted(2, "row") == "2 rows"``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(names: Sequence[str], most: int) -> str:
    """The first few names, and how many more there are: ``listed("abc", 2) == "a, b and 1 more"``."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def close_to(name: str, candidates: Iterable[str], *, most: int = 1, likeness: float = 0.5) -> list[str]:
    """The candidates that a misspelled name is closest to; case, and ``_`` for ``-``, make no difference."""
    plain = {_plain(item): item for item in candidates}
    return [plain[item] for item in difflib.get_close_matches(_plain(name[:128]), plain, n=most, cutoff=likeness)]


def _shown(value: object) -> str:
    """A value as a message shows it: its repr where that is short, else its type."""
    text = _written(value) if isinstance(value, str | bool | int | float | np.generic) else ""
    return text if 0 < len(text) <= _LONGEST else kind_of(value)


def _written(value: object) -> str:
    """The repr; where there is none (Python writes no integer of more than 4,300 digits), what the value is."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  (a caller's class may raise anything)
        return kind_of(value)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def names(value: object, where: Where, error: Refusal, *, hint: str = _NAMES, ordered: bool = False) -> tuple[str, ...]:
    """One name or several, in their order; those of a set are sorted.

    Args:
        value: a str, or anything that gives strs; None for no names.
        where: the argument.
        error: what is raised.
        hint: what to give in its place.
        ordered: whether the order of the names says something, so that a set is refused.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        return (str(value),)
    if not isinstance(value, Iterable) or isinstance(value, bytes | bytearray | Mapping):
        raise error(f"it is {kind_of(value)}", where=where, hint=hint)
    if ordered and isinstance(value, set | frozenset):
        raise error("it is a set, which has no order", where=where, hint=hint)
    try:
        items = list(value)
    except TypeError as failed:  # a tensor or array without dimensions
        raise error(f"it is {kind_of(value)}", where=where, hint=hint) from failed
    wrong = [item for item in items if not isinstance(item, str)]
    if wrong:
        raise error(f"it holds {kind_of(wrong[0])}", where=where, hint=hint)
    items = [str(item) for item in items]
    return tuple(sorted(items) if isinstance(value, set | frozenset) else items)


def chosen(value: object, where: Where, choices: Collection[str], error: Refusal) -> tuple[str, ...]:
    """At least one of the choices, without duplicates."""
    listed = ", ".join(choices)
    items = names(value, where, error, hint=f"choose of {listed}")
    for item in items:
        one_of(item, where, choices, error)
    if not items:
        nothing = "it is None" if value is None else "nothing is asked for"
        raise error(nothing, where=where, hint=f"choose of {listed}")
    return once(items, where, error)


def once(items: tuple[str, ...], where: Where, error: Refusal) -> tuple[str, ...]:
    """The names, without duplicates."""
    twice = [item for index, item in enumerate(items) if item in items[:index]]
    if twice:
        raise error(f"{twice[0]!r} stands twice", where=where, hint="name each once")
    return items


def one_of(value: object, where: Where, choices: Collection[str], error: Refusal) -> str:
    """One of the choices."""
    if isinstance(value, str) and value in choices:
        return str(value)
    close = close_to(value, choices) if isinstance(value, str) else []
    suggestion = f"; did you mean {close[0]!r}?" if close else ""
    raise error(f"{_written(value):.80} is not known", where=where, hint=f"choose of {', '.join(choices)}{suggestion}")


def tensor_names(value: object, where: Where, error: Refusal) -> tuple[str, ...]:
    """Names of inputs or outputs in their order, of characters that files and terminals can show."""
    items = names(value, where, error, ordered=True)
    for item in items:
        if not item.strip() or not item.isprintable():
            what = "a name is empty" if not item.strip() else f"{item!r:.80} has characters that cannot be printed"
            raise error(what, where=where, hint="name each with letters, digits and marks")
    return once(items, where, error)


def flag(value: object, where: Where, error: Refusal) -> bool:
    """True or False; text and numbers are refused, though Python would take them for one of the two."""
    if not isinstance(value, bool | np.bool_):
        raise error(f"it is {_shown(value)}", where=where, hint="give True or False")
    return bool(value)


def integer(value: object, where: Where, error: Refusal, *, least: int, most: int) -> int:
    """An integer in a range, of Python, numpy or torch."""
    hint = f"give an integer from {least} to {most}"
    try:
        # Takes integers of numpy and torch, and no floats.
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError as failed:
        raise error(f"it is {_shown(value)}", where=where, hint=hint) from failed
    if isinstance(value, bool | np.bool_) or not least <= number <= most:
        raise error(f"it is {_shown(value)}", where=where, hint=hint)
    return number


def number(value: Any, where: Where, error: Refusal, *, least: float = 0.0, most: float = math.inf) -> float:
    """A finite number in a range, both ends included, of Python, numpy or torch."""
    hint = f"give a number from {least:g} to {most:g}"
    if not math.isfinite(most):
        hint = "give a finite number" + (f" from {least:g} up" if math.isfinite(least) else "")
    plain = math.nan
    if not isinstance(value, str | bytes | bytearray | bool | np.bool_):
        try:
            plain = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError) as failed:
            raise error(f"it is {_shown(value)}", where=where, hint=hint) from failed
    if not math.isfinite(plain) or not least <= plain <= most:
        raise error(f"it is {_shown(value)}", where=where, hint=hint)
    return plain


def maybe_number(
    value: object, where: Where, error: Refusal, *, least: float = 0.0, most: float = math.inf
) -> float | None:
    """A `number`, or None."""
    return None if value is None else number(value, where, error, least=least, most=most)


def maybe_integer(value: object, where: Where, error: Refusal, *, least: int, most: int) -> int | None:
    """An `integer`, or None."""
    return None if value is None else integer(value, where, error, least=least, most=most)


def maybe_count(value: object, where: Where, error: Refusal) -> int | None:
    """An integer from 0 up that 32 bits hold, or None."""
    return maybe_integer(value, where, error, least=0, most=2**31 - 1)


def path(value: object, where: Where, error: Refusal, *, hint: str) -> Path:
    """A path, from text or a path; whether it exists is not checked."""
    if not isinstance(value, str | os.PathLike):
        raise error(f"it is {kind_of(value)}", where=where, hint=hint)
    text = os.fspath(value)
    if not isinstance(text, str):
        raise error("it is a path of bytes", where=where, hint=hint)
    if not text:
        raise error("it is empty", where=where, hint=hint)
    if "\0" in text:
        raise error("it holds a zero byte", where=text, hint=hint)
    return Path(text)


def text(value: object, where: Where, error: Refusal, *, hint: str) -> str:
    """A text."""
    return str(instance(value, str, where, error, hint=hint))


def array(value: object, where: Where, error: Refusal) -> np.ndarray[Any, np.dtype[Any]]:
    """A numpy array, or one of its numbers, of real numbers or booleans."""
    hint = "give a numpy array of real numbers"
    if not isinstance(value, np.ndarray | np.generic):
        raise error(f"it is {kind_of(value)}", where=where, hint=hint)
    plain = np.asarray(value)
    if plain.dtype.kind not in "biuf" and plain.dtype.kind != "V":
        raise error(f"it is an array of {plain.dtype}", where=where, hint=hint)
    return plain


def settle(frozen: object, **fields: object) -> None:
    """Sets fields of a frozen dataclass to their plain form; for its ``__post_init__``."""
    for name, value in fields.items():
        object.__setattr__(frozen, name, value)


def instance(value: object, kind: type[T], where: Where, error: Refusal, *, hint: str) -> T:
    """An object of a class."""
    if not isinstance(value, kind):
        raise error(f"it is {kind_of(value)}", where=where, hint=hint)
    return value


def mapping(value: object, where: Where, error: Refusal, *, hint: str) -> dict[str, Any]:
    """A mapping from names."""
    if not isinstance(value, Mapping):
        raise error(f"it is {kind_of(value)}", where=where, hint=hint)
    wrong = [key for key in value if not isinstance(key, str)]
    if wrong:
        raise error(f"its key {_written(wrong[0]):.40} is {kind_of(wrong[0])}", where=where, hint=hint)
    return dict(value)
