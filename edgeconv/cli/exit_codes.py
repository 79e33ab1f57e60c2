"""What the command exits with: what a release check acts on.

Ended from outside, it is 128 and the signal's number, as shells have it.
"""

from __future__ import annotations

import signal

OK = 0
FAILED = 1
"""A result: parity failed, a target was missed, a device refused a file, a file is not all integer."""
USER_ERROR = 2
"""Something that the user can change, told in one line: what, where, hint."""
BUG = 3
"""A bug of ours, with its traceback."""

SIGNALLED = 128
INTERRUPTED, CLOSED_PIPE = SIGNALLED + signal.SIGINT, SIGNALLED + signal.SIGPIPE
