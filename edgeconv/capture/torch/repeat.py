"""Whether a module gives the same results when it is called again: a file does, whatever its module depends on.

The traced graph shows what a forward writes to; this looks at what it computes, and so sees the clock, iterators,
random numbers of Python and numpy, and libraries with a memory of their own.
"""

from __future__ import annotations

import copy
import random
import time
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from edgeconv.capture.torch._eval_mode import eval_mode
from edgeconv.capture.torch._holdings import Change, Holdings, held
from edgeconv.capture.torch._operation import copied
from edgeconv.capture.torch._precision import in_module_precision
from edgeconv.capture.torch._trace import quiet
from edgeconv.core.threads import one_thread
from edgeconv.errors import CaptureError

_MORE = 16
"""Further calls of a module that draws random numbers and gave the same results so far: the draws may have led into
the same branch by chance."""
_LONGEST_S = 10.0
"""After so long no further call is made: the forward is seen to return the same by then, or it is slow."""


def changing(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> CaptureError | None:
    """Calls a copy of a module with the same inputs again and again, and with others in between.

    Args:
        module: left as it is found, with the random states.
        args: tensors by position.

    Returns:
        The error to raise where two results are not bit for bit the same on one thread; names what may be the cause.
        None where all are, and where the module cannot be copied or called like this: tracing it tells why.
    """
    try:
        detached = [value for part in module.modules() for value in vars(part).values() if torch.is_tensor(value)]
        worker = copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in detached})
        with held(worker) as holdings, eval_mode(worker), quiet(), one_thread():
            calls = _Calls(worker, in_module_precision(worker, args), holdings)
            if calls.agree():
                return None
    # The user's code and a copy of its objects may fail in any way here; the trace runs it again, and tells how.
    except Exception:  # noqa: BLE001
        return None
    cause, hint = calls.cause()
    where = type(module).__name__
    return CaptureError(f"forward gives other outputs when it is called again{cause}", where=where, hint=hint)


class _Calls:
    """Calls of a module, and what was seen at them."""

    def __init__(self, module: torch.nn.Module, args: tuple[Any, ...], holdings: Holdings) -> None:
        self._module = module
        self._args = args
        self._holdings = holdings
        self._drawn: set[str] = set()
        self._changes: list[Change] = []
        self._count = 0

    def agree(self) -> bool:
        """Whether the results of all calls with the same inputs are the same."""
        begin, expected = time.monotonic(), self._results(self._args)
        for args in (self._args, tuple(map(_other_input, self._args)), self._args):
            if time.monotonic() - begin > _LONGEST_S:
                return True
            if args is not self._args:
                self._results(args)
            elif not _equal(self._results(args), expected):
                return False
        more = range(_MORE) if self._drawn else ()
        return all(_equal(self._results(self._args), expected) for _ in more)

    def cause(self) -> tuple[str, str]:
        """What the outputs may depend on, and what to do about it."""
        if self._drawn:
            return f": it draws {' and '.join(sorted(self._drawn))}", "take what is drawn as an input, or leave it out"
        if self._changes:
            first = self._changes[0]
            return (
                f": it changes the {first.kind} {first.path}",
                "take the state as an input and return it as an output",
            )
        hint = "find what it depends on beside its inputs (the time, an iterator, memory that is read before it is set)"
        return "", f"{hint}, and make that an input"

    def _results(self, args: tuple[Any, ...]) -> list[Any]:
        self._count += 1
        random.seed(self._count)
        np.random.seed(self._count)
        before = random.getstate(), _state_of_numpy()
        results = pytree.tree_leaves(self._module(*pytree.tree_map(copied, args)))
        names = "random numbers of Python", "random numbers of numpy"
        after = random.getstate(), _state_of_numpy()
        self._drawn |= {name for name, old, new in zip(names, before, after, strict=True) if old != new}
        self._changes = self._changes or self._holdings.changes()
        return [copied(leaf) for leaf in results]


def _state_of_numpy() -> tuple[Any, ...]:
    name, keys, *rest = np.random.get_state()
    return (name, np.asarray(keys).tobytes(), *rest)


def _other_input(leaf: Any) -> Any:
    """Another input of the same kind: the elements in another order, or half of what they are."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    turned = leaf.flip(*range(leaf.ndim))
    return leaf / 2 if leaf.is_floating_point() and torch.equal(turned, leaf) else turned


def _equal(results: list[Any], expected: list[Any]) -> bool:
    """Whether results are the same bit for bit; NaN is NaN."""
    return len(results) == len(expected) and all(map(_alike, results, expected))


def _alike(result: Any, expected: Any) -> bool:
    if not isinstance(result, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return type(result) is type(expected)
    if result.shape != expected.shape or result.dtype != expected.dtype:
        return False
    return bool(((result == expected) | ((result != result) & (expected != expected))).all())
