"""Has torch and numpy compute on one thread in a worker of pytest-xdist, before either is loaded.

Their pools of threads wait for each other on cores that workers share: least squares took seven times as long.
"""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
