"""Fixtures that several rooms share: real exports, made once."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

import edgeconv

ROOT = Path(edgeconv.__file__).parents[1]

# In the background of a shell, or under nohup, programs start with signals ignored, and so would those under test.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


@pytest.fixture(scope="session")
def dsconv_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole `edgeconv export` of the leading case, proven on every device; only read it."""
    from edgeconv.cli import run

    out = tmp_path_factory.mktemp("artifacts")
    assert run(["export", str(ROOT / "models" / "dsconv_3x64_224.toml"), "--out", str(out), "--quiet"]) == 0
    return out / "dsconv_3x64_224"
