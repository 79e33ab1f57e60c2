"""``parity.html``: one self-contained page."""

from __future__ import annotations

import functools
import re

import jinja2

from edgeconv.core.seal import sealed
from edgeconv.report._report import Report, checked
from edgeconv.report._view import page_view

_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f]")  # no HTML document may hold them


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("edgeconv.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def to_html(report: Report) -> str:
    """Writes the page that a person reads: no script, no request to anywhere, light and dark, phone to desktop.

    Returns:
        A complete HTML document.
    """
    text = _environment().get_template("page.html").render(page=page_view(checked(report)))
    return sealed(_CONTROL.sub("", text).rstrip("\n") + "\n", "<!-- {} -->")
