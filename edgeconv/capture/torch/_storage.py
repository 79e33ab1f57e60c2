"""Which tensors of a traced graph share memory: a number for the storage of each. Views have that of their owner."""

from __future__ import annotations

import torch
from torch.fx import Node as FxNode
from torch.multiprocessing.reductions import StorageWeakRef

from edgeconv.capture.torch._borders import SPARSE
from edgeconv.capture.torch._provenance import origin_in
from edgeconv.errors import CaptureError


def tensors_of(node: FxNode) -> list[torch.Tensor]:
    """The tensors among the results of a node.

    Raises:
        CaptureError: one is sparse; it has no storage to compare, and files have no such tensors.
    """
    value = node.meta.get("val")
    tensors = value if isinstance(value, list | tuple) else [value]
    dense = [item for item in tensors if isinstance(item, torch.Tensor)]
    if any(item.layout is not torch.strided for item in dense):
        what, hint = SPARSE
        raise CaptureError(what, where=origin_in(node).module or "the module", hint=hint)
    return dense


def storage_of(node: FxNode) -> int:
    """The storage of a node's result; the pieces of a split share one."""
    value = node.meta["val"]
    return storage_of_tensor(value[0] if isinstance(value, list | tuple) else value)


def storage_of_tensor(tensor: torch.Tensor) -> int:
    """A number that identifies the storage of a tensor; fake tensors have storages too."""
    return int(StorageWeakRef(tensor.untyped_storage()).cdata)  # type: ignore[no-untyped-call]
