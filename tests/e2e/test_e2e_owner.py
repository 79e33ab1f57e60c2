"""What a dead command left is taken away, and what a live one works in is not, whatever process ids say.

Members thought of: folders in the output folder and among the temporary ones; of a live process with the id of a dead
one (of another container), of a dead one with the id of a live one; a child that was killed; a file system without
locks; a folder that is swept in the moment of its making; links, files and pipes of such a name.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeconv.flow.output import clear_temporary, staged, temporary
from edgeconv.flow.owner import owned

DEAD = 999_999_999


def _sweep_staging(folder: Path) -> None:
    with staged(folder):
        pass


def _sweep_temporary(folder: Path) -> None:
    for pid in (DEAD, os.getpid(), 1):
        clear_temporary(pid)


SWEEPS: dict[str, Callable[[Path], None]] = {".edgeconv-": _sweep_staging, "edgeconv-": _sweep_temporary}


@pytest.fixture(params=list(SWEEPS))
def prefix(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return str(request.param)


@contextmanager
def _elsewhere(folder: Path) -> Iterator[None]:
    """A process of another container works in it: only its lock can be seen from here."""
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    yield
    os.close(descriptor)


@pytest.mark.parametrize("pid", [DEAD, os.getpid(), 1], ids=["dead", "own", "init"])
def test_the_lock_tells_and_not_the_id(pid: int, prefix: str, tmp_path: Path) -> None:
    folder = tmp_path / f"{prefix}{pid}-abc"
    folder.mkdir()
    (folder / "net.onnx").write_text("new")
    with _elsewhere(folder):
        SWEEPS[prefix](tmp_path)
        assert (folder / "net.onnx").read_text() == "new"
    SWEEPS[prefix](tmp_path)
    assert not folder.exists()


def test_ids_tell_where_there_are_no_locks(prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # what Linux says of a folder on an NFS share

    monkeypatch.setattr(fcntl, "flock", flock)
    for pid in (DEAD, os.getpid()):
        (tmp_path / f"{prefix}{pid}-abc").mkdir()
    SWEEPS[prefix](tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{prefix}{os.getpid()}-abc"]


def test_a_killed_owner(prefix: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with owned(prefix, tmp_path):
            os.write(writer, b"!")
            signal.pause()
    os.read(reader, 1)
    (folder,) = tmp_path.iterdir()
    SWEEPS[prefix](tmp_path)
    clear_temporary(child)
    assert folder.is_dir()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    SWEEPS[prefix](tmp_path)
    clear_temporary(child)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_swept_as_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    make, flock, takers = tempfile.mkdtemp, fcntl.flock, [Path.rmdir, Path.rmdir]

    def mkdtemp(**options: str) -> str:
        folder = make(**options)
        if len(takers) == 2:
            takers.pop()(Path(folder))  # before it is opened
        return folder

    def locked(descriptor: int, operation: int) -> None:
        if len(takers) == 1 and list(tmp_path.iterdir()):
            takers.pop()(next(tmp_path.iterdir()))  # before it is held
        flock(descriptor, operation)

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    monkeypatch.setattr(fcntl, "flock", locked)
    with temporary() as folder:
        assert not takers
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_folder_stays(prefix: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    (tmp_path / f"{prefix}{DEAD}-link").symlink_to(victim)
    os.mkfifo(tmp_path / f"{prefix}{DEAD}-pipe")
    (tmp_path / f"{prefix}{DEAD}-file").write_text("own")
    SWEEPS[prefix](tmp_path)
    assert (victim / "file").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 4
