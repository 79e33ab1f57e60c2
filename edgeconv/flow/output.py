"""Writes the files of an export into its folder: all of them, or none.

Files are written into a staging folder inside the output folder (the same file system, so that a rename suffices)
and renamed into place when the last one is complete. Whatever goes wrong before that, a full disk or a SIGKILL,
leaves the files of the previous export as they were. A kill between two renames leaves a journal, which the next
command that touches the folder completes (`edgeconv.flow.journal`). What a release check reads goes first and comes
last, for those who look without a command: the old ``parity.json`` is removed before the first rename and the new one
is the last to appear, so that no moment shows a verdict beside files that it does not speak of.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from edgeconv.core.named_files import subfolders
from edgeconv.errors import OUT, EmitError
from edgeconv.flow import journal
from edgeconv.flow.journal import STAGING_PREFIX
from edgeconv.flow.owner import owned, remove_abandoned

if TYPE_CHECKING:
    from edgeconv.core import Array

_TEMPORARY_PREFIX = "edgeconv-"


class Staging:
    """Collects the files of one export; `staged` makes one and commits it."""

    def __init__(self, folder: Path, target: Path) -> None:
        self._folder = folder
        self._target = target
        self._files: dict[str, str] = {}
        self._outdated: list[str] = []
        self._hooks: list[Callable[[], None]] = []
        self._judged: list[Path] = []

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
        self._files[name] = hashlib.sha256(data).hexdigest()
        return path

    def checksum(self, name: str) -> str:
        """The SHA-256 of a file that was written."""
        return self._files[name]

    def write_parts(self, name: str, parts: Iterable[Array]) -> str:
        """Writes a file that is not held in one piece, as `write` does one that is; returns its checksum.

        Raises:
            EmitError: the disk is full, or the like.
        """
        digest = hashlib.sha256()
        with _mapped(self._target), (self._folder / name).open("wb") as file:
            for part in parts:
                file.write(part.data)
                digest.update(part.data)
            file.flush()
            os.fsync(file.fileno())
        self._files[name] = digest.hexdigest()
        return self._files[name]

    def discard(self, name: str) -> None:
        """Has a file of the output folder removed at the commit, before anything is renamed."""
        self._outdated.append(name)

    def writes(self, name: str) -> bool:
        """Whether the export writes a file of that name."""
        return name in self._files

    def before_commit(self, hook: Callable[[], None], *, reads: Path | None = None) -> None:
        """Registers a hook that runs at the commit, under the folder's lock and before anything changes.

        Another export may have written into the folder meanwhile, so only then is it known what lies there. The hook
        may discard files, or raise an `EdgeconvError`, which leaves the folder as it was.

        Args:
            hook: called once.
            reads: a folder that it reads; it is locked, too, until the commit is done.
        """
        self._hooks.append(hook)
        self._judged += [] if reads is None else [reads]

    def commit(self) -> None:
        """Removes what was discarded, and renames everything into the output folder, in the order of writing.

        Raises:
            EmitError: the output folder cannot be written any more.
            EdgeconvError: what a hook raises.
        """
        judged = [folder for folder in self._judged if folder.is_dir()]  # the hook says what it misses
        with _mapped(self._target), journal.locked(self._target, *judged):
            _finish(self._target)  # of an export that was killed while this one worked
            for hook in self._hooks:
                hook()
            for name in (*self._outdated, *self._files):
                if (self._target / name).is_dir():  # found before the first change, not after it
                    raise IsADirectoryError(errno.EISDIR, f"{name} is a folder")
            try:
                journal.complete(self._target, journal.begin(self._target, self._folder, self._files, self._outdated))
            except journal.JournalError:
                journal.dropped(self._target)  # raised before the first change: the old files are untouched
                raise
            except BaseException:  # a signal, or a passing error: the commit that has begun is completed
                journal.finish(self._target)
                raise


def settle(folder: Path) -> None:
    """Completes interrupted commits in a folder and the folders in it, before anybody reads them.

    Raises:
        EmitError: it cannot be completed.
    """
    for path in (folder, *subfolders(folder, holding=journal.JOURNAL)):
        _settle(path)


def clear(folder: Path) -> None:
    """Removes what a dead process left in a folder, and the folder itself if it is then empty."""
    with suppress(OSError, journal.JournalError), journal.locked(folder):
        journal.finish(folder)
        _sweep(folder)
    for path in (folder, folder.parent):
        with suppress(OSError):
            path.rmdir()


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder for files that only this process needs; its name tells whose it is, for `clear_temporary`."""
    with owned(_TEMPORARY_PREFIX, Path(tempfile.gettempdir())) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def clear_temporary(pid: int) -> None:
    """Removes the temporary folders of a process that died before it could."""
    with suppress(OSError):  # no such folder at all
        for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY_PREFIX}{pid}-*"):
            if folder.lstat().st_uid == os.geteuid():  # /tmp is everybody's, and the name of a folder proves nothing
                remove_abandoned(folder, _TEMPORARY_PREFIX)


def _settle(folder: Path) -> None:
    try:
        journal.settled(folder)
    except (OSError, journal.JournalError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        what = f"an export was interrupted here and cannot be completed: {reason}"
        raise EmitError(what, where=str(folder), hint="export again into this folder") from error


@contextmanager
def staged(target: Path) -> Iterator[Staging]:
    """A staging folder for `target` (made if missing), committed when the block ends without an exception.

    Raises:
        EmitError: the output folder cannot be made or written, or the disk is full.
    """
    with _mapped(target):
        new_folders = [path for path in (target, *target.parents) if not path.exists()]
        target.mkdir(parents=True, exist_ok=True)
    try:
        with _staging_folder(target) as folder:
            staging = Staging(folder, target)
            yield staging
            staging.commit()
    finally:
        for path in new_folders:  # those that a failed export made and left empty
            with suppress(OSError):
                path.rmdir()


@contextmanager
def _staging_folder(target: Path) -> Iterator[Path]:
    """A new folder inside `target`; first, commits of dead exports are completed and their staging folders removed."""
    with ExitStack() as held:
        with _mapped(target):
            with journal.locked(target):  # one step: what a commit needs is swept by nobody who has not completed it
                _finish(target)
                _sweep(target)
            folder = held.enter_context(owned(STAGING_PREFIX, target))
        try:
            yield folder
        finally:
            if not os.path.lexists(target / journal.JOURNAL):  # else the files in there may still be needed
                shutil.rmtree(folder, ignore_errors=True)


def _finish(target: Path) -> None:
    """Completes an interrupted commit, or drops its journal where that is impossible; the caller holds the lock."""
    try:
        journal.finish(target)
    except journal.JournalError:
        journal.dropped(target)  # what it spoke of is made anew


@contextmanager
def _mapped(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"cannot write here: {error.strerror or error}"
        raise EmitError(what, where=str(target), hint=f"{OUT}, or make room and check its permissions") from error
    except journal.JournalError as error:
        what = f"the new files were taken away before they were in place: {error}"
        hint = "export again, and let no other program remove files in here meanwhile"
        raise EmitError(what, where=str(target), hint=hint) from error


def _sweep(target: Path) -> None:
    """Removes the staging folders of exports that died; the lock is held, and no commit is left to complete."""
    for folder in target.glob(f"{STAGING_PREFIX}*-*"):
        remove_abandoned(folder, STAGING_PREFIX)
