"""Whether the inputs and outputs that an `.onnx` file states are its graph's (ONNX specification, IR, Graphs)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx


def onnx_faults(graph: onnx.GraphProto) -> Iterator[str]:
    """One line on each input that is there twice or computed, and on each output that nothing computes."""
    inputs = [value.name for value in graph.input]
    for name in (name for name, count in Counter(inputs).items() if count > 1):
        yield f"it has the input {name!r:.80} twice"
    computed = {name: node.op_type for node in graph.node for name in node.output}
    for name in computed.keys() & {*inputs}:
        yield f"{computed[name]} computes {name!r:.80}, which is an input"
    stored = {item.name for item in graph.initializer} | {item.values.name for item in graph.sparse_initializer}
    for value in graph.output:
        if value.name not in {*computed, *inputs, *stored}:
            yield f"nothing computes the output {value.name!r:.80}"
