"""Where a node of the graph comes from in the torch module."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from edgeconv.graph.edit import MODULE

_KEY = "edgeconv.origin"


@dataclass(frozen=True)
class Origin:
    """The torch operation that an ONNX node belongs to.

    Attributes:
        calls: the module calls around it, outermost first, without the root: ``("head", "head.act@1")``. The first
            call of a module is its path, later ones carry ``@1``, ``@2``, …
        modules: the paths of the same modules, without call numbers.
        operation: torch's name of the operation (``"hardswish"``, ``"chunk"``).
        key: unique per torch operation of the traced forward; an operation that became several ONNX nodes gives
            them all the same key.
    """

    calls: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    operation: str = ""
    key: str = ""

    @property
    def module(self) -> str:
        """Path of the innermost module; ``""`` for the root."""
        return self.modules[-1] if self.modules else ""

    @property
    def scope(self) -> str:
        """The innermost call; ``""`` for the root."""
        return self.calls[-1] if self.calls else ""


def set_origin(node: ir.Node, origin: Origin) -> None:
    """Sets the origin of a node, in ``Node.meta``, which is not serialized."""
    node.meta[_KEY] = origin


def origin_of(node: ir.Node) -> Origin:
    """The origin of a node; if none was set, the root module with the operator's own name."""
    origin = node.meta.get(_KEY)
    return origin if isinstance(origin, Origin) else Origin(operation=node.op_type.lower(), key=f"{id(node)}")


def place_of(node: ir.Node) -> str:
    """How a message names a node: its torch module, its name, its first named output, or else its operator."""
    named = next((value.name for value in node.outputs if value.name), None)
    return origin_of(node).module or node.metadata_props.get(MODULE) or node.name or named or node.op_type
