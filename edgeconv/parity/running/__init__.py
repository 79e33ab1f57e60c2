"""Link 4 of the proof: a runtime computes what the file says, layer by layer on the runtime's own operands.

Public names
    `open_probed`: a file that can be given further outputs, `ProbedFile`; `open_graph`: a graph that no
        file was written of, to judge what a framework computes of it.
    `running_link`: the link of an artifact on a device, of what the walks over its samples tell: `Judged`, `Layer`.
    `told_as_runtimes_own`: rows whose link 4 breaks while link 3 holds say that it is the runtime's own fault.
    `told_as_precision`: rows beyond a threshold while every link holds say that it is float32's own error.
    `LayerCache`: the layers that were judged already, for several devices and files.
    `arithmetic_of`: what a device computes in, by what it says of itself.
"""

from __future__ import annotations

from edgeconv.parity.running._file import ProbedFile, arithmetic_of, open_graph, open_probed
from edgeconv.parity.running._layer_cache import LayerCache
from edgeconv.parity.running._layers import Judged
from edgeconv.parity.running._link import running_link, told_as_precision, told_as_runtimes_own
from edgeconv.parity.running._step import Layer

__all__ = [
    "Judged",
    "LayerCache",
    "Layer",
    "ProbedFile",
    "arithmetic_of",
    "open_graph",
    "open_probed",
    "running_link",
    "told_as_precision",
    "told_as_runtimes_own",
]
