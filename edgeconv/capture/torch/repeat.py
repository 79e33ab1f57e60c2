"""Whether a module returns the same results when it is called again with the same inputs, as a file does.

`_state` finds state in the traced graph. This check compares results instead, and so also finds what no trace shows:
the clock, iterators, random numbers of Python and numpy, and libraries that keep state outside of Python.
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
from edgeconv.capture.torch._holdings import Change, Holdings, restored_after
from edgeconv.capture.torch._operation import copied
from edgeconv.capture.torch._precision import in_module_precision
from edgeconv.capture.torch._trace import quiet
from edgeconv.core.threads import one_thread
from edgeconv.errors import CaptureError

_MORE = 16
"""Further calls of a module that draws random numbers but gave equal results so far: the draws may have taken the same
branch by chance."""
_LONGEST_S = 10.0
"""Seconds after which no further call is made; results that were equal until then count as the same."""


def changing(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> CaptureError | None:
    """Calls a copy of a module with the same inputs again and again, and with others in between.

    Args:
        module: left as it is found, with the random states.
        args: tensors by position.

    Returns:
        The error to raise where two results differ in a bit (on one thread: sums in parallel may differ by rounding);
        names what may be the cause. None where all are equal, and where the module cannot be copied or called: tracing
        it then says why.
    """
    try:
        # deepcopy refuses tensors with a gradient history among plain attributes, so they are copied here.
        detached = [value for part in module.modules() for value in vars(part).values() if torch.is_tensor(value)]
        worker = copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in detached})
        with restored_after(worker) as holdings, eval_mode(worker), quiet(), one_thread():
            calls = _Calls(worker, in_module_precision(worker, args), holdings)
            if calls.agree():
                return None
    # The user's code, and copying its objects, may fail in any way; the trace runs the code again, and reports it.
    except Exception:  # noqa: BLE001
        return None
    cause, hint = calls.cause()
    where = type(module).__name__
    return CaptureError(f"forward gives other outputs when it is called again{cause}", where=where, hint=hint)


class _Calls:
    """Repeated calls of a module, with the random numbers drawn and the Python state changed in them."""

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
        # Other inputs in between, as a module may remember its last ones.
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
        """Calls the module, with other seeds in each call, and notes what it draws and changes."""
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
    """Another input of the same shape and dtype: the elements in reverse order, or halved where that is the same."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    reversed_leaf = leaf.flip(*range(leaf.ndim))
    return leaf / 2 if leaf.is_floating_point() and torch.equal(reversed_leaf, leaf) else reversed_leaf


def _equal(results: list[Any], expected: list[Any]) -> bool:
    """Whether results are the same bit for bit; NaN is NaN."""
    return len(results) == len(expected) and all(map(_alike, results, expected))


def _alike(result: Any, expected: Any) -> bool:
    if not isinstance(result, torch.Tensor) or not isinstance(expected, torch.Tensor):
        return type(result) is type(expected)
    if result.shape != expected.shape or result.dtype != expected.dtype:
        return False
    return bool(((result == expected) | ((result != result) & (expected != expected))).all())
