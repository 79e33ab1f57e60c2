"""A graph captured with one batch size, made to take any: a rule per operator, and the check of the result."""

from __future__ import annotations

from edgeconv.rewrite.open_batch._free import free_batch

__all__ = ["free_batch"]
