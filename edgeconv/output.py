"""Where finished files appear: all of them whole, or none.

Files are written into a staging folder inside the output folder (the same file system, so that a rename suffices)
and renamed into place when the last one is complete. Whatever goes wrong before that, a full disk or a SIGKILL,
leaves the files of the previous export as they were. What a release check reads goes first and comes last: the old
``parity.json`` is removed before the first rename and the new one is the last to appear, so that no moment shows a
verdict beside files that it does not speak of.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeconv.errors import OUT, EmitError

_PREFIX = ".edgeconv-"


class Staging:
    """Collects the files of one export; `staged` makes one and commits it."""

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder = folder
        self._target = target
        self._names: list[str] = []
        self._outdated: list[str] = []

    def write(self, name: str, data: bytes) -> Path:
        """Writes one file into the staging folder, through to the disk, and returns where it lies now.

        Raises:
            EmitError: the disk is full, or the like.
        """
        path = self._folder / name
        with _mapped(self._target), path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._names.append(name)
        return path

    def discard(self, name: str) -> None:
        """Has a file of the output folder removed at the commit, before anything is renamed."""
        self._outdated.append(name)

    def commit(self) -> None:
        """Removes what was discarded, and renames everything into the output folder, in the order of writing.

        Raises:
            EmitError: the output folder cannot be written any more.
        """
        with _mapped(self._target):
            descriptor = os.open(self._target, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # two exports into one folder must not interleave
                for name in (*self._outdated, *self._names):
                    if (self._target / name).is_dir():  # found before the first change, not after it
                        raise IsADirectoryError(errno.EISDIR, f"{name} is a folder")
                for name in self._outdated:
                    (self._target / name).unlink(missing_ok=True)
                for name in self._names:
                    (self._folder / name).replace(self._target / name)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def staged(target: Path) -> Iterator[Staging]:
    """A staging folder for `target` (made if missing), committed when the block ends without an exception.

    Raises:
        EmitError: the output folder cannot be made or written, or the disk is full.
    """
    made = [path for path in (target, *target.parents) if not path.exists()]
    with _mapped(target):
        target.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=target))
    try:
        staging = Staging(folder, target)
        yield staging
        staging.commit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:  # those that a failed export made and left empty
            with suppress(OSError):
                path.rmdir()


@contextmanager
def _mapped(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmitError(
            f"cannot write here: {error.strerror or error}",
            where=str(target),
            mend=f"{OUT}, or make room and check its permissions",
        ) from error


def _sweep(target: Path) -> None:
    """Removes the staging folders of exports that died (their process is gone)."""
    for left in target.glob(f"{_PREFIX}*-*"):
        owner = left.name.removeprefix(_PREFIX).split("-", 1)[0]
        if owner.isdigit() and not _alive(int(owner)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
