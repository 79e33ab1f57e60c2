"""What the tests of this folder share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import edgeconv.cli

sys.path.insert(0, str(Path(__file__).parent))
from foresight import unforeseen


@pytest.fixture
def refusals(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is behind each refusal of the command line, in order."""
    behind: list[str] = []
    refuse = edgeconv.cli._refuse

    def looked_at(message: str) -> int:
        error = sys.exception()
        behind.append(unforeseen(error) if error is not None else "")
        return refuse(message)

    monkeypatch.setattr(edgeconv.cli, "_refuse", looked_at)
    return behind
