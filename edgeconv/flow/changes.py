"""What is changed of a float graph before it is quantized, step by step, for the proof."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.constants import take_exact

if TYPE_CHECKING:
    from edgeconv.parity.quantizing import Change, Holds


class Changes:
    """The changes of one float graph.

    Attributes:
        steps: in their order.
    """

    def __init__(self) -> None:
        self.steps: tuple[Change, ...] = ()

    def add(
        self,
        what: str,
        before: ir.Model,
        after: ir.Model,
        holds: Holds | None = None,
        inputs: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        """Remembers a change; neither graph is changed any more.

        What a constant was rounded from stays with the change that rounded it.

        Args:
            what: in words.
            before: the graph as it was.
            after: what was made of it.
            holds: how far both compute the same; on any input by default.
            inputs: on which they do, where they do not on all.
        """
        from edgeconv.parity.quantizing import Change, Holds

        if self.steps:
            before, after = before.clone(), after.clone()
            for graph in (before, after):
                take_exact(graph)
        self.steps = (*self.steps, Change(what, before, after, holds or Holds.EXACTLY, inputs))
