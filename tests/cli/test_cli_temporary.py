"""No temporary file stays, however a command ends.

Members thought of: an ordinary end, an error, an end of the process that runs no clean-up (os._exit, SIGKILL, a crash);
folders of other processes and links of such a name, which are nobody's business.
"""

from __future__ import annotations

import os
from pathlib import Path

import programs
import pytest

CODE = """
import os, signal, sys
from edgeconv.cli._supervisor import supervised
from edgeconv.output import temporary

def work():
    with temporary() as folder:
        (folder / "large").write_text("x")
        assert list(folder.parent.glob(f"edgeconv-{os.getpid()}-*")) == [folder]
        os.symlink(os.environ["VICTIM"], folder.parent / f"edgeconv-{os.getpid()}-link")
        END
    return 0

sys.exit(supervised(work))
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [("pass", 0), ("os._exit(0)", 2), ("os.kill(os.getpid(), signal.SIGKILL)", 2), ("os.abort()", 2)],
)
def test_nothing_stays(end: str, code: int, tmp_path: Path) -> None:
    temporary, victim = tmp_path / "temporary", tmp_path / "victim"
    (temporary / f"edgeconv-{os.getpid()}-another").mkdir(parents=True)
    victim.mkdir()
    (victim / "file").write_text("precious")
    environment = {**os.environ, "TMPDIR": str(temporary), "VICTIM": str(victim)}
    done = programs.run(CODE.replace("END", end), code=True, env=environment)
    assert done.returncode == code, done
    assert done.stderr.count("\n") == (code == 2)
    left = [path for path in temporary.iterdir() if not path.is_symlink()]
    assert left == [temporary / f"edgeconv-{os.getpid()}-another"]
    assert (victim / "file").read_text() == "precious"
