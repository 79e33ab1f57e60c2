"""Faults of a rewrite: the graph is wrong, and its files with it; link 1 of the proof answers for these."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
import torch
from exports import Export, Model, written
from kinds import plant
from onnx_faults import ONNX_FAULTS
from planted import drawn
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgeconv.errors import EdgeconvError
from edgeconv.flow.variant import Variant
from edgeconv.graph.constants import exact, remember_exact

ModuleFault = Callable[[nn.Module, str], None]


@dataclass(frozen=True)
class WrongGraph:
    """A file of a wrong graph; the model holds the right module."""

    kind: str
    where: str
    export: Export


def _norm(module: nn.Module, name: str) -> _BatchNorm:
    norm = module.get_submodule(name)
    assert isinstance(norm, _BatchNorm)
    return norm


def _eps(module: nn.Module, name: str) -> None:
    _norm(module, name).eps *= 100


def _replaced(make: Callable[[nn.Module], nn.Module]) -> ModuleFault:
    def plant_in(module: nn.Module, name: str) -> None:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, make(module.get_submodule(name)))

    return plant_in


def _shift_left_out(module: nn.Module, name: str) -> None:
    mean = _norm(module, name).running_mean
    assert mean is not None
    mean.zero_()


MODULE_FAULTS: dict[str, ModuleFault] = {
    "batch-norm-eps": _eps,
    "batch-norm-twice": _replaced(lambda norm: nn.Sequential(norm, copy.deepcopy(norm))),
    "batch-norm-missing": _replaced(lambda norm: nn.Identity()),
    "batch-norm-without-mean": _shift_left_out,
}
_OF_GRAPHS = ("bias-missing", "filter-scaled", "output-channels-exchanged", "kernel-rotated", "weights-in-fp16")
GRAPH_KINDS: tuple[str, ...] = (*MODULE_FAULTS, *_OF_GRAPHS, *ONNX_FAULTS)


def wrong_graphs(model: Model, format_: str, kinds: list[str], rng: random.Random) -> Iterator[WrongGraph]:
    """Files of graphs with one fault each, of these kinds as far as they have a place and can be written."""
    clean = ir.to_proto(model.graph).SerializeToString()
    for kind in kinds:
        try:
            if kind in MODULE_FAULTS:
                where, graph = _of_module(model, kind, rng)
            else:
                planted = plant(clean, "onnx", kind, rng)
                if planted is None:
                    continue
                where, graph = planted.where, ir.from_proto(onnx.load_from_string(planted.data))
                _unround(graph, model.graph)
            wrong = replace(model, graph=graph)
            yield WrongGraph(kind, where, written(wrong, Variant("fp32", graph), format_))
        except (EdgeconvError, LookupError):
            continue  # the emitter refuses it, or there is no place


def _unround(graph: ir.Model, clean: ir.Model) -> None:
    """Gives a graph that was parsed from bytes the float64 numbers back that they were rounded from, faults on top."""
    for name, value in graph.graph.initializers.items():
        right = clean.graph.initializers.get(name)
        unrounded = exact(right)
        if right is None or unrounded is None or right.dtype != value.dtype or value.const_value is None:
            continue
        stored, wrong = right.const_value.numpy(), value.const_value.numpy()
        if stored.shape == wrong.shape:
            remember_exact(value, unrounded + (wrong.astype(np.float64) - stored))
    makers = {value.name: node for node in clean.graph for value in node.outputs}
    for node in graph.graph:
        twin = makers.get(node.outputs[0].name)
        for key, attribute in node.attributes.items():
            stated = None if twin is None else twin.attributes.get(key)
            if stated is None or not attribute.type == stated.type == ir.AttributeType.FLOAT:
                continue
            if np.float32(stated.as_float()) == np.float32(attribute.as_float()):
                node.attributes[key] = stated


def _of_module(model: Model, kind: str, rng: random.Random) -> tuple[str, ir.Model]:
    module = copy.deepcopy(model.source.module)
    names = [name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)]
    if not names:
        raise LookupError
    name = drawn(rng, names)
    with torch.no_grad():
        MODULE_FAULTS[kind](module, name)
    return name, Model.of_module(module.eval(), model.network, model.weights, model.seed).graph
