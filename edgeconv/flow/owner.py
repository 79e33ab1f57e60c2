"""Folders owned by a process: whoever finds one can tell whether its owner is still alive.

An owner holds a shared lock on its folder, which the system lets go however the process ends. Process ids alone
are not enough: containers that share a folder number their processes independently, so one would take another's live
folder for a dead process's. Ids serve only where the file system has no locks on folders (shares over NFS and SMB).
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

_HAS_NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


@contextmanager
def owned(prefix: str, parent: Path) -> Iterator[Path]:
    """A new folder ``<prefix><process id>-…``, held until the block ends; the block removes it, where that is right.

    Raises:
        OSError: it cannot be made.
    """
    folder, descriptor = _held(prefix, parent)
    try:
        yield folder
    finally:
        os.close(descriptor)


def remove_abandoned(folder: Path, prefix: str) -> None:
    """Removes a folder that `owned` made, if its owner is gone; what cannot be looked into, or removed, stays."""
    with suppress(OSError), abandoned(folder, prefix) as is_abandoned:
        if is_abandoned:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def abandoned(folder: Path, prefix: str) -> Iterator[bool]:
    """Whether the owner of a folder is gone; if so, nobody can take it up within the block.

    Raises:
        OSError: it is no folder (a link is none), or cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            is_abandoned = lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB) or _is_of_the_dead(folder, prefix)
        except BlockingIOError:
            is_abandoned = False
        yield is_abandoned
    finally:
        os.close(descriptor)


def lock(descriptor: int, operation: int) -> bool:
    """Locks an open folder as `fcntl.flock` does; False where the file system has no locks on folders.

    Raises:
        OSError: another holds it, and the operation does not wait.
    """
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno in _HAS_NO_LOCKS:
            return False
        raise
    return True


def _held(prefix: str, parent: Path) -> tuple[Path, int]:
    """A new folder and the descriptor that locks it; tries again if somebody removed it before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent))
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                lock(descriptor, fcntl.LOCK_SH)
                # Between mkdtemp and the lock another process may have taken the folder for abandoned and removed it.
                if os.path.samestat(os.fstat(descriptor), folder.stat()):
                    return folder, descriptor
            except BaseException:  # a signal, too: nobody else knows the descriptor, and it goes on
                os.close(descriptor)
                raise
            os.close(descriptor)


def _is_of_the_dead(folder: Path, prefix: str) -> bool:
    owner = folder.name.removeprefix(prefix).split("-", 1)[0]
    return owner.isdigit() and not _alive(int(owner))


def _alive(pid: int) -> bool:
    """Whether a process is running; a zombie counts as dead.

    A zombie stays for good where process 1 reaps none, as in many containers.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:  # gone in this moment, or no Linux
        return not Path("/proc/self/stat").exists()
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] not in ("Z", "X")
