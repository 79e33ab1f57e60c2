"""The number of threads on which torch computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


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
