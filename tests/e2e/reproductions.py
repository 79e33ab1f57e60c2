"""Runs what `edgeconv bisect` writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_SHOWN = re.compile(r"largest error (\S+) at \((.*)\): actual (\S+), expected (\S+)\n")


def shown(script: Path) -> float:
    """The largest error that a script prints, run where nothing of ours is found."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    output = subprocess.check_output([sys.executable, "-P", str(script)], cwd="/", env=environment, text=True)
    match = _SHOWN.fullmatch(output)
    assert match is not None, output
    error, _, actual, expected = match.groups()
    assert float(error) == pytest.approx(abs(float(actual) - float(expected)), rel=1e-5)
    return float(error)
