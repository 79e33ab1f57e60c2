"""The official path: torch.export, then torch.onnx without its optimiser."""

from __future__ import annotations

import ast
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch.fx import Node as FxNode

from edgeconv.capture._borders import export_errors, onnx_errors
from edgeconv.capture._origin import Origin, origin_of, set_origin

_SCOPES = "pkg.torch.onnx.name_scopes"
_CALL_NUMBER = re.compile(r"@\d+$")
_NOISY = ("torch", "torch.export", "torch.onnx", "onnxscript", "onnx_ir")


def export_program(module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """``torch.export`` of a module that is in eval state, for exactly these shapes.

    Raises:
        CaptureError: torch cannot trace the module with these inputs.
    """
    with _quiet(), export_errors(module):
        return torch.export.export(module, args)


def to_ir(program: torch.export.ExportedProgram, *, opset: int) -> tuple[ir.Model, frozenset[str]]:
    """The official exporter's graph of a program, unoptimised; every node knows its `Origin`.

    Returns:
        The graph, and the names of the buffers that the forward changes.

    Raises:
        CaptureError: an operator has no ONNX form.
    """
    with _quiet(), onnx_errors(program):
        onnx_program = torch.onnx.export(
            program, (), dynamo=True, optimize=False, opset_version=opset, verbose=False, verify=False
        )
    if onnx_program is None:  # only the legacy exporter returns nothing; the type says it may
        raise RuntimeError("torch.onnx.export returned no program")
    model = onnx_program.model
    decomposed = onnx_program.exported_program or program
    _set_origins(model, decomposed, program)
    return model, frozenset(decomposed.graph_signature.buffers_to_mutate.values())


def _set_origins(
    model: ir.Model, decomposed: torch.export.ExportedProgram, program: torch.export.ExportedProgram
) -> None:
    """Reads the exporter's metadata into `Origin` objects.

    The exporter names, for every ONNX node, the node of the decomposed torch graph; that one names the node of the
    graph as it was traced (``from_node``), which carries the operation that the user wrote.
    """
    inner = {node.name: node for node in decomposed.graph.nodes}
    traced = {node.name: node for node in program.graph.nodes}
    previous = Origin()
    for node in model.graph:
        scopes = node.metadata_props.get(_SCOPES)
        name = ast.literal_eval(scopes)[-1] if scopes else ""
        if name in inner:
            previous = _origin(inner[name], _traced(inner[name], traced))
        elif node.inputs and node.inputs[0] is not None and (producer := node.inputs[0].producer()) is not None:
            previous = origin_of(producer)
        set_origin(node, previous)


def _traced(node: FxNode, traced: dict[str, FxNode]) -> FxNode:
    """The traced node behind a decomposed one, itself when torch does not tell."""
    sources = list(node.meta.get("from_node") or ())
    while sources:
        deeper = list(sources[0].from_node or ())
        if not deeper:
            return traced.get(sources[0].name, node)
        sources = deeper
    return traced.get(node.name, node)


def _origin(node: FxNode, source: FxNode) -> Origin:
    calls, modules = [], []
    stack = source.meta.get("nn_module_stack") or node.meta.get("nn_module_stack") or {}
    for key, (path, _) in stack.items():
        if path:
            number = _CALL_NUMBER.search(key)
            calls.append(path + (number.group() if number else ""))
            modules.append(path)
    while source.op == "call_function" and getattr(source.target, "__name__", "") == "getitem":
        parent = source.args[0]
        if not isinstance(parent, FxNode):
            break
        source = parent
    return Origin(tuple(calls), tuple(modules), _operation(source), source.name)


def _operation(node: FxNode) -> str:
    """torch's name of the operation: ``aten.relu_.default`` is ``relu``."""
    schema = getattr(node.target, "_schema", None)
    name = str(schema.name).rpartition("::")[2] if schema is not None else str(getattr(node.target, "__name__", ""))
    return name.strip("_") or node.name


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of the exporter's warnings and logs reaches the user's terminal."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
