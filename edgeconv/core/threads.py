"""The threads on which torch computes, and those on which numpy's parts of one result are computed."""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_MOST_THREADS = 4


def in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item], *, at_least: int = 2) -> list[_Result]:
    """What a function makes of items, in their order, on as many threads as there are processors.

    Numpy lets other threads compute while it does. Each item is computed as it would be alone, so that results are the
    same on every machine; numpy's error state is the caller's.

    Args:
        function: of an item.
        items: fewer than `at_least` are not worth the threads.
        at_least: see there.
    """
    threads = min(_processors(), _MOST_THREADS, len(items))

    def every(first: int) -> list[_Result]:
        # Each takes every n-th item: neighbors, which tend to take equally long, go to different threads.
        return [function(item) for item in items[first::threads]]

    if threads < 2 or len(items) < at_least:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads - 1) as pool:
        others = [pool.submit(contextvars.copy_context().run, every, first) for first in range(1, threads)]
        parts = [every(0), *(other.result() for other in others)]
    return [parts[at % threads][at // threads] for at in range(len(items))]


def one_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The items; while the caller handles one, the next is made in another thread.

    Raises:
        Exception: what making one raises, when the caller asks for it.
    """
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(next, items, _NO_ITEM)
        while (item := ahead.result()) is not _NO_ITEM:
            ahead = pool.submit(next, items, _NO_ITEM)
            yield cast(_Item, item)


_NO_ITEM = object()  # what `next` gives behind the last item


def _processors() -> int:
    """The number of processors that this process may use, which a container may limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute on one thread, as the devices do, so that its sums always come out the same.

    Two threads gain little on batches of one, and wait for each other on a busy machine: the 362 small samples of the
    digits took 46 s there, and 0.4 s with one thread.
    """
    import torch  # on first use: what evaluates a graph is imported by many that rarely do

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
