"""What a forward keeps outside of its module is state as well, and what it computes must not change from call to call.

Members: a global number, list, dict of tensors; a variable of a closure; an attribute of a class, with number, list or
tensor; a default argument; an attribute of a function; a hook that counts or remembers; an object in a closure; a set;
two hooks of one factory; a helper of another file. Iterators, the clock, random numbers of Python (a branch on them)
and numpy. Harmless: counters and records that nothing reads, warnings given once, caches by shape in a dict, a
``functools.cache``, a seeded generator of numpy. The proof's own check of a module that remembers.
"""

from __future__ import annotations

import functools
import itertools
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from crossed import diagonal
from torch import Tensor, nn

import edgeconv
from edgeconv.capture.torch._outside import variables
from edgeconv.core import Sample, Verdict
from edgeconv.devices import run_module
from edgeconv.errors import CaptureError

Forward = Callable[[Tensor], Tensor]

COUNT = 0
KEPT: dict[str, Any] = {}
LIST: list[Any] = []


class Net(nn.Module):
    def __init__(self, function: Forward) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _global_number() -> nn.Module:
    def function(x: Tensor) -> Tensor:
        global COUNT  # noqa: PLW0603
        COUNT += 1
        return x * COUNT

    return Net(function)


def _global_tensor() -> nn.Module:
    def function(x: Tensor) -> Tensor:
        KEPT["sum"] = KEPT.get("sum", torch.zeros(1, 3)) + x
        return KEPT["sum"] * 1

    return Net(function)


def _global_list() -> nn.Module:
    def function(x: Tensor) -> Tensor:
        LIST.append(x)
        return x * len(LIST)

    return Net(function)


def _closure() -> nn.Module:
    count = 0

    def function(x: Tensor) -> Tensor:
        nonlocal count
        count += 1
        return x * count

    return Net(function)


def _class_number() -> nn.Module:
    class Counting(nn.Module):
        count = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.count += 1
            return x * Counting.count

    return Counting()


def _class_tensor() -> nn.Module:
    class Remembering(nn.Module):
        state = torch.zeros(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            Remembering.state = Remembering.state * 0.5 + x
            return Remembering.state * 1

    return Remembering()


def _class_list() -> nn.Module:
    class Listing(nn.Module):
        seen: list[int] = []  # noqa: RUF012

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(1)
            return x * len(self.seen)

    return Listing()


def _default_argument() -> nn.Module:
    def function(x: Tensor, seen: list[int] = []) -> Tensor:  # noqa: B006
        seen.append(1)
        return x * len(seen)

    return Net(function)


def _function_attribute() -> nn.Module:
    def function(x: Tensor) -> Tensor:
        vars(function)["count"] = vars(function).get("count", 0) + 1
        return x * vars(function)["count"]

    return Net(function)


def _object() -> nn.Module:
    class Clock:
        now = 0

        def tick(self) -> int:
            self.now += 1
            return self.now

    clock = Clock()
    return Net(lambda x: x * clock.tick())


def _set() -> nn.Module:
    seen: set[int] = set()
    return Net(lambda x: (seen.add(len(seen)), x * len(seen))[1])


def _hooks() -> nn.Module:
    """Two of one factory: only the second changes anything."""

    def hook(step: int) -> Any:
        seen = {"count": 1}

        def multiplied(module: nn.Module, args: Any, result: Tensor) -> Tensor:
            seen["count"] += step
            return result * seen["count"]

        return multiplied

    net = nn.Sequential(nn.ReLU(), nn.Linear(3, 3))
    net[0].register_forward_hook(hook(0))
    net[1].register_forward_hook(hook(1))
    return net


def _elsewhere() -> nn.Module:
    helper = ModuleType("helper_of_the_user")
    exec("state = {}\ndef step(x):\n    state['x'] = state.get('x', 0) + 1\n    return x * state['x']\n", vars(helper))
    return Net(lambda x: helper.step(x))  # noqa: PLW0108 - not the function itself, but the module that has it


REMEMBERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "global number": (_global_number, "the global variable COUNT"),
    "global tensor": (_global_tensor, "the global variable KEPT.sum"),
    "global list": (_global_list, r"the global variable LIST\[0\]"),
    "closure": (_closure, "the variable _closure.function.count"),
    "class number": (_class_number, "the class attribute Counting.count"),
    "class tensor": (_class_tensor, "the class attribute Remembering.state"),
    "class list": (_class_list, r"the class attribute Listing.seen\[0\]"),
    "default argument": (_default_argument, r"the default argument _default_argument.function.seen\[0\]"),
    "function attribute": (_function_attribute, "the attribute of a function _function_attribute.function.count"),
    "object": (_object, "the variable _object.<lambda>.clock.now"),
    "set": (_set, r"the variable _set.<lambda>.seen\[0\]"),
    "hooks": (_hooks, "the variable _hooks.hook.multiplied.seen.count"),
    "another file": (_elsewhere, "the .*state.x"),
}


@pytest.mark.parametrize("name", REMEMBERS)
def test_state_outside_of_the_module_is_named_and_put_back(name: str, tmp_path: Path) -> None:
    build, culprit = REMEMBERS[name]
    with pytest.raises(CaptureError, match=f"forward changes {culprit} and its outputs depend on it"):
        edgeconv.export(build(), (torch.randn(1, 3),), tmp_path, name="net")
    assert (COUNT, KEPT, LIST) == (0, {}, [])


def _iterator() -> Forward:
    numbers = itertools.count(1)
    return lambda x: x * next(numbers)


CHANGES: dict[str, tuple[Callable[[], Forward], str]] = {
    "iterator": (_iterator, "find what it depends on"),
    "clock": (lambda: lambda x: x * (time.perf_counter_ns() % 10_007), "find what it depends on"),
    "random": (lambda: lambda x: x * random.random(), "it draws random numbers of Python"),
    "branch": (lambda: lambda x: x if random.random() < 0.5 else -x, "it draws random numbers of Python"),
    "numpy": (lambda: lambda x: x * float(np.random.rand()), "it draws random numbers of numpy"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_outputs_that_change_from_call_to_call_are_refused(name: str, tmp_path: Path) -> None:
    function, told = CHANGES[name]
    states = random.getstate(), np.random.get_state()[1].tolist()
    with pytest.raises(CaptureError, match=f"Net: forward gives other outputs when it is called again.*{told}"):
        edgeconv.export(Net(function()), (torch.randn(1, 3),), tmp_path, name="net")
    assert states == (random.getstate(), np.random.get_state()[1].tolist())


def _warned_once() -> Forward:
    told: list[str] = []

    def function(x: Tensor) -> Tensor:
        if not told:
            told.append("once")
            print("deprecated", file=sys.stderr)
        return x * 2

    return function


def _recorded() -> Forward:
    seen: list[Tensor] = []
    return lambda x: (seen.append(x), x * 2)[1]


def _cached_by_shape() -> Forward:
    tables: dict[Any, Tensor] = {}

    def function(x: Tensor) -> Tensor:
        if x.shape not in tables:
            tables[x.shape] = torch.arange(float(x.shape[-1]))
        return x + tables[x.shape]

    return function


def _cached_by_python() -> Forward:
    @functools.cache
    def table(size: int) -> Tensor:
        return torch.arange(float(size))

    return lambda x: x + table(x.shape[-1])


HARMLESS: dict[str, Callable[[], Forward]] = {
    "warned once": _warned_once,
    "recorded": _recorded,
    "cached by shape": _cached_by_shape,
    "cached by Python": _cached_by_python,
    "seeded": lambda: lambda x: x * float(np.random.default_rng(0).normal()),
    "drawn and not used": lambda: lambda x: (random.random(), x * 2)[1],
}


@pytest.mark.parametrize(("name", "dynamic"), diagonal([*HARMLESS], [False, True]))
def test_what_no_output_depends_on_is_exported_and_the_module_still_runs(
    name: str, dynamic: bool, tmp_path: Path
) -> None:
    net, x = Net(HARMLESS[name]()), torch.randn(2, 3)
    expected = net(x)
    result = edgeconv.export(
        net, (x,), tmp_path, name="net", dynamic_batch=dynamic, devices=("onnxruntime", "litert"), input_names="x"
    )
    assert result.report is not None
    assert result.report.verdict is Verdict.PASS
    for batch in (2, 3, 11):
        again = net(torch.ones(batch, 3))
        assert type(again) is Tensor  # no tensor without data, which tracing leaves in caches
    assert torch.equal(net(x), expected)


def test_a_module_that_remembers_is_no_reference() -> None:
    samples = [Sample(f"sample {index}", {"x": np.full((1, 3), index + 1, np.float32)}) for index in range(2)]
    run = run_module(Net(_iterator()), samples, input_names=["x"], output_names=["y"])
    assert run.verdict is Verdict.FAIL
    assert "output 'y' of sample 'sample 0' is another one when the module is called again" in run.reason


def test_an_assert_that_pytest_rewrote_does_not_lead_to_all_that_pytest_holds() -> None:
    def checked(x: Tensor) -> Tensor:
        assert x.ndim == 2
        return x

    assert any(not name.isidentifier() for name in checked.__code__.co_names)
    held = [item for group in variables(Net(checked)) for item in group.items().values()]
    assert not [item for item in held if getattr(item, "__name__", "").startswith("_pytest")]
