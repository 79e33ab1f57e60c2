"""Reduces calls of any form (keywords, None, numbers, lists, dicts; programs, scripts) to calls with tensors only.

The inputs of a file are named tensors. `called` gives a module whose forward takes the tensors of an example call by
position; every other argument keeps its value from the example.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._subclasses import FakeTensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from edgeconv.capture.torch._converted import as_floats
from edgeconv.capture.torch._interface import check_binding
from edgeconv.capture.torch._programs import (
    argument_at,
    arguments_of,
    check_program,
    converted,
    in_program_order,
    input_names,
    opened,
)
from edgeconv.core.values import kind_of
from edgeconv.errors import CaptureError

_DTYPES = frozenset(
    {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}
    | {torch.float16, torch.bfloat16, torch.float32, torch.float64}
)
"""Types that an input may have; each floating type becomes float32 in the files."""
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Call:
    """The arguments of a forward: tensors, and what is fixed around them.

    Attributes:
        tensors: in the order of ``torch.utils._pytree``, positional arguments before keywords.
        names: of the tensors: the parameters of forward, with the keys that lead to each (``features_0``).
        _leaves: all arguments, tensors and others, flattened by ``torch.utils._pytree``.
        _spec: puts `_leaves` back together as ``(args, kwargs)``.
    """

    tensors: tuple[torch.Tensor, ...]
    names: tuple[str, ...]
    _leaves: tuple[Any, ...]
    _spec: pytree.TreeSpec

    @classmethod
    def of(cls, module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        """An example call of a module."""
        pairs, spec = pytree.tree_flatten_with_path((tuple(args), dict(kwargs)))
        leaves = tuple(leaf for _, leaf in pairs)
        parameters = [
            parameter.name
            for parameter in inspect.signature(module.forward).parameters.values()
            if parameter.kind in _POSITIONAL
        ]
        names = [_name(path, parameters) for path, leaf in pairs if isinstance(leaf, torch.Tensor)]
        # ``forward(*inputs)`` has no name for each; ``f(a, b)`` of {"a": {"b": x}, "a_b": y} would have one twice.
        if len(parameters) < len(args) or len(set(names)) < len(names):
            names = [f"input_{index}" for index in range(len(names))]
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, torch.Tensor))
        return cls(tensors, tuple(names), leaves, spec)

    @property
    def is_plain(self) -> bool:
        """Whether it is tensors by position and nothing else."""
        positional, keywords = pytree.tree_unflatten(list(self._leaves), self._spec)
        return not keywords and all(isinstance(argument, torch.Tensor) for argument in positional)

    def bound(self, tensors: tuple[torch.Tensor, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other tensors in the places of the example's."""
        remaining = iter(tensors)
        leaves = [next(remaining) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return args, kwargs


class Called(torch.nn.Module):
    """A module with the form of its call fixed: its forward takes the tensors of that call by position."""

    def __init__(self, module: torch.nn.Module, call: Call) -> None:
        super().__init__()
        self.module = module
        self.call = call

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Calls the module."""
        args, kwargs = self.call.bound(tensors)
        return self.module(*args, **kwargs)

    @property
    def wraps_graph(self) -> bool:
        """Whether the module is a ``GraphModule``: torch runs its graph, so that `unwrapped` would have no effect."""
        return isinstance(self.module, torch.fx.GraphModule)

    @contextmanager
    def unwrapped(self) -> Iterator[torch.nn.Module]:
        """The module itself; inside of the block its own forward takes the tensors by position."""
        # A forward among the instance's attributes was patched in, and has to be there again afterwards.
        own_forward, was_patched = self.module.forward, "forward" in vars(self.module)

        def forward(*tensors: torch.Tensor) -> Any:
            args, kwargs = self.call.bound(tensors)
            return own_forward(*args, **kwargs)

        vars(self.module)["forward"] = forward
        try:
            yield self.module
        finally:
            del vars(self.module)["forward"]
            if was_patched:
                vars(self.module)["forward"] = own_forward


def called(
    module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...], tuple[str, ...]]:
    """A module that takes tensors by position, example tensors, and their names.

    Args:
        module: an ``nn.Module``; an ``ExportedProgram``, whose own example inputs serve where `args` and `kwargs` are
            empty; a ``ScriptModule``, which is converted by torch and compared with itself.
        args: of an example call.
        kwargs: of an example call.

    Raises:
        CaptureError: a script that torch cannot convert, an argument that does not fit, or no tensor among them.
    """
    if isinstance(module, torch.export.ExportedProgram):
        if not args and not kwargs and module.example_inputs:
            args, kwargs = module.example_inputs
        args, kwargs = in_program_order(module, args, kwargs)
        check_program(module, args, kwargs)
        module, names = opened(module), input_names(module)
    elif isinstance(module, torch.jit.ScriptModule):
        names = tuple(argument.name for argument in arguments_of(module))
        program, args = converted(module, args, kwargs)
        module, kwargs = opened(program), {}
    else:
        module, names = as_floats(module), ()
    # Each is looked at here, so that an error names its place.
    for path, leaf in pytree.tree_flatten_with_path((tuple(args), dict(kwargs)), is_leaf=_is_packed)[0]:
        _check_leaf(leaf, argument_at(path))
    if not any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves((args, kwargs))):
        sizes = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, int)]
        example = f"torch.zeros({', '.join(map(str, sizes))})" if len(sizes) > 1 else "torch.zeros(1, 3, 224, 224)"
        hint = f"pass an example input: ({example},)"
        raise CaptureError("there is no tensor among the arguments", where="args", hint=hint)
    check_binding(module, args, kwargs, where="args and kwargs" if kwargs else "args")
    call = Call.of(module, args, kwargs)
    named = names if len(names) == len(call.tensors) else call.names
    return (module if call.is_plain else Called(module, call)), call.tensors, named


def tensors_of(args: object) -> tuple[torch.Tensor, ...]:
    """The arguments of an example call, each a tensor that files can take.

    Raises:
        CaptureError: they are no tuple, or one of them is something else.
    """
    if not isinstance(args, tuple | list):
        raise CaptureError(f"it is {kind_of(args)}, not a tuple", where="args", hint="write (x,) for a single input")
    for index, value in enumerate(args):
        where = f"args[{index}]"
        _check_leaf(value, where)
        if not isinstance(value, torch.Tensor):
            raise CaptureError(f"it is {kind_of(value)}, not a tensor", where=where, hint="pass tensors only")
    return tuple(args)


def _is_packed(leaf: Any) -> bool:
    return isinstance(leaf, PackedSequence)  # a named tuple, which pytree would take apart


_UNFIT: tuple[tuple[Callable[[torch.Tensor], bool], str, str], ...] = (
    (
        lambda x: isinstance(x, FakeTensor) or x.is_meta,
        "a tensor without data (meta, fake)",
        "pass torch.zeros(shape)",
    ),
    (lambda x: x.is_nested, "a nested tensor, and files take one size", "pad its parts to one size"),
    (lambda x: x.layout is not torch.strided, "a sparse tensor, and files take dense ones", "pass x.to_dense()"),
    (lambda x: x.is_quantized, "a quantized tensor", "pass x.dequantize(): int8 is a variant of the files"),
    (lambda x: x.is_complex(), "complex, and files have no complex type", "pass torch.view_as_real of it"),
    (lambda x: type(x).__module__.startswith("torch.masked"), "a masked tensor", "pass its data and its mask as two"),
    (lambda x: x.dtype not in _DTYPES, "a tensor of {dtype}, which files have not", "pass x.float() or x.int()"),
    (lambda x: x.numel() == 0, "a tensor without elements, of shape {shape}", "give sizes of 1 or more"),
)
"""Kinds of tensors that no file takes: how one is recognized, what the error calls it, what to pass instead.

In this order: a meta tensor has no layout to ask for, and a nested one has no shape.
"""


def _check_leaf(leaf: Any, where: str) -> None:
    """Checks one leaf of the arguments of an example call.

    Raises:
        CaptureError: it is neither a tensor that a file can take nor a value that can be fixed.
    """
    if isinstance(leaf, np.ndarray | np.generic):
        what, hint = f"it is {kind_of(leaf)}, not a tensor", "pass torch.from_numpy(…) of it, or a plain number"
        raise CaptureError(what, where=where, hint=hint)
    if _is_packed(leaf):
        what, hint = (
            "it is a packed sequence, whose sizes depend on lengths",
            "pass the padded tensor, and mask its ends",
        )
        raise CaptureError(what, where=where, hint=hint)
    if not isinstance(leaf, torch.Tensor | torch.nn.Module) and _has_tensors(leaf):
        what = f"it is {kind_of(leaf)}, an object that torch cannot take apart"
        hint = "pass tensors, or a tuple or dict of them, or register its class with torch.export.register_dataclass"
        raise CaptureError(what, where=where, hint=hint)
    if isinstance(leaf, torch.Tensor):
        for is_kind, kind, hint in _UNFIT:
            if is_kind(leaf):
                described = kind.format(dtype=leaf.dtype, shape="" if leaf.is_nested else tuple(leaf.shape))
                raise CaptureError(f"it is {described}", where=where, hint=hint)


def _has_tensors(leaf: Any) -> bool:
    """Whether an object keeps tensors in its attributes, as a dataclass does."""
    names = {*getattr(leaf, "__dict__", ()), *getattr(leaf, "__slots__", ())}
    return any(isinstance(getattr(leaf, name, None), torch.Tensor) for name in names)


def with_fixed_arguments(
    module: torch.nn.Module, tensors: tuple[torch.Tensor, ...], fixed: Mapping[str, float], where: str
) -> torch.nn.Module:
    """Fixes some arguments of a module's forward; the tensors become its other arguments, in order.

    Returns:
        The module, as `as_floats` makes it; a `Called` where something is fixed.

    Raises:
        CaptureError: forward has no argument of a name.
    """
    module = as_floats(module)
    if not fixed:
        return module
    parameters = inspect.signature(module.forward).parameters
    unknown = [name for name in fixed if name not in parameters]
    if unknown:
        names = ", ".join(parameters)
        raise CaptureError(f"forward has no argument {unknown[0]!r}", where=where, hint=f"name one of {names}")
    open_names = [name for name, parameter in parameters.items() if name not in fixed and parameter.kind in _POSITIONAL]
    if len(open_names) < len(tensors):
        what = f"forward takes {len(open_names)} arguments beside these, and {len(tensors)} inputs are stated"
        raise CaptureError(what, where=where, hint="state one input per argument")
    bound = dict(zip(open_names, tensors, strict=False))
    ordered = {name: {**bound, **fixed}[name] for name in parameters if name in bound or name in fixed}
    return Called(module, Call.of(module, (), ordered))


def _name(path: tuple[Any, ...], parameters: list[str]) -> str:
    """The name of a tensor: the parameter that it belongs to and the keys that lead to it.

    A path starts with 0 for ``args`` or 1 for ``kwargs``, then comes the position or keyword, then the keys inside.
    """
    keys: list[Any] = [getattr(key, "key", getattr(key, "name", getattr(key, "idx", None))) for key in path]
    first = parameters[keys[1]] if keys[0] == 0 and keys[1] < len(parameters) else str(keys[1])
    return "_".join(_plain(str(key)) for key in [first, *keys[2:]])


def _plain(text: str) -> str:
    """A text with an underscore for each character that is neither letter, digit nor one of ``_.-``."""
    return "".join(char if char.isalnum() or char in "_.-" else "_" for char in text)
