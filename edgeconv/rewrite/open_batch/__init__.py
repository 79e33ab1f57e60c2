"""Makes the batch size of a graph symbolic, by a rule per operator, and checks the result."""

from __future__ import annotations

from edgeconv.rewrite.open_batch._free import free_batch

__all__ = ["free_batch"]
