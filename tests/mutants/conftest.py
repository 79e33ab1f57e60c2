"""The networks of the zoo and of the bench are modules of their own folders, behind ours."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).resolve().parents[1] / room) for room in ("zoo", "bench")]
