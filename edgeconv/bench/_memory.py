"""The memory of another process."""

from __future__ import annotations

from pathlib import Path


def peak_memory_bytes(pid: int) -> int | None:
    """The most physical memory that a running process has held so far (``VmHWM`` of Linux's /proc).

    Returns:
        Bytes; None where the system does not tell, or the process has gone.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            # "VmHWM:  123456 kB", where kB are 1024 bytes (proc_pid_status(5)).
            return int(line.split()[1]) * 1024
    return None
