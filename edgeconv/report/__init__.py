"""Comparisons -> ``parity.json``, ``parity.html``, ``parity.junit.xml``. Reads, never re-runs.

The value::

    Report        what one export proved, with its verdict
    TargetSearch  what was tried for a target, one TargetPoint each
    excess_of     the used share of a row's bound
    TIMEOUT, GOLDEN_SHA256, LEFT_OUT, OWN_INTEGERS
                  keys of its environment that are read again; seconds_of reads the first, names_listed
                  the last two

The files::

    to_json       for machines; its format is versioned and described in parity.schema.json beside this file
    from_json     the way back
    to_html       for people: one self-contained page
    to_junit      for CI systems
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeconv.core.package import on_first_use

if TYPE_CHECKING:
    from edgeconv.report._fields import GOLDEN_SHA256, LEFT_OUT, OWN_INTEGERS, TIMEOUT, names_listed, seconds_of
    from edgeconv.report._html import to_html
    from edgeconv.report._json import from_json, to_json
    from edgeconv.report._junit import to_junit
    from edgeconv.report._report import Report, excess_of
    from edgeconv.report._target_search import TargetPoint, TargetSearch

__all__ = [
    "GOLDEN_SHA256",
    "LEFT_OUT",
    "OWN_INTEGERS",
    "TIMEOUT",
    "TargetSearch",
    "TargetPoint",
    "Report",
    "excess_of",
    "from_json",
    "names_listed",
    "seconds_of",
    "to_html",
    "to_json",
    "to_junit",
]

# Each comes on first use: the files need pydantic, jinja2 and Pillow, and an export without proof writes none.
_PLACES = {
    "_fields": ("GOLDEN_SHA256", "LEFT_OUT", "OWN_INTEGERS", "TIMEOUT", "names_listed", "seconds_of"),
    "_html": ("to_html",),
    "_json": ("from_json", "to_json"),
    "_junit": ("to_junit",),
    "_report": ("Report", "excess_of"),
    "_target_search": ("TargetPoint", "TargetSearch"),
}
__getattr__ = on_first_use(__name__, _PLACES)
