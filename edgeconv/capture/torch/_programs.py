"""Programs that torch has exported and scripts that it has compiled, as modules with tensors by position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from edgeconv.capture.torch._operation import apart, program_inputs
from edgeconv.capture.torch._trained import freeze_recorded
from edgeconv.errors import CaptureError, is_own_fault


def argument_at(path: tuple[Any, ...]) -> str:
    """An argument as its caller wrote it: ``args[0]``, ``kwargs['mask']``, ``args[0]['x']``."""
    return ("kwargs" if path[0].idx else "args") + pytree.keystr(path[1:])


def opened(program: torch.export.ExportedProgram) -> torch.nn.Module:
    """A program as a module that takes tensors by position; its fake quantizations only compute."""
    module = program.module(check_guards=False)
    freeze_recorded(module)
    module._forward_pre_hooks.clear()  # torch's check of the call; `check_program` says the same in our words
    module._forward_pre_hooks_with_kwargs.clear()
    return module


def in_program_order(
    program: torch.export.ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call rewritten to the form that the program was exported with, in which alone its module takes it.

    Keywords that were positional at export become positional; the others take the order that they had at export.
    """
    spec, signature = program.call_spec.in_spec, program.module_call_graph[0].signature
    if spec is None or signature is None or signature.forward_arg_names is None:
        return args, dict(kwargs)
    positional, keywords = spec.children()
    unplaced = dict(kwargs)
    by_name = signature.forward_arg_names[len(args) : positional.num_children]
    while by_name and by_name[0] in unplaced:
        args = (*args, unplaced.pop(by_name.pop(0)))
    ordered = {name: unplaced.pop(name) for name in keywords.context if name in unplaced}
    return args, ordered | unplaced


def check_program(program: torch.export.ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Checks that the tensors have the shapes and dtypes that a program was exported for.

    Raises:
        CaptureError: naming the first that is not.
    """
    exported = [node.meta.get("val") for node, spec in program_inputs(program) if spec.kind is InputKind.USER_INPUT]
    pairs = pytree.tree_flatten_with_path((tuple(args), dict(kwargs)))[0]
    if len(exported) != len(pairs):
        return  # `_interface.check_binding` reports it
    for expected, (path, leaf) in zip(exported, pairs, strict=True):
        if not (isinstance(expected, torch.Tensor) and isinstance(leaf, torch.Tensor)):
            continue
        sizes = [size if isinstance(size, int) else None for size in expected.shape]  # None: any, of dynamic_shapes
        fits = len(sizes) == leaf.ndim and all(
            size in (None, length) for size, length in zip(sizes, leaf.shape, strict=True)
        )
        if not fits or leaf.dtype != expected.dtype:
            shape = ", ".join("any" if size is None else str(size) for size in sizes)
            raise CaptureError(
                f"it is {leaf.dtype} of shape {tuple(leaf.shape)}, and the program was exported for {expected.dtype} "
                f"of ({shape})",
                where=argument_at(path),
                hint="pass such a tensor, or args=() for the program's own example, or export the program anew",
            )


def input_names(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """The names of a program's own inputs that are tensors."""
    specs = program.graph_signature.input_specs
    return tuple(
        str(spec.arg.name)
        for spec in specs
        if spec.kind is InputKind.USER_INPUT and isinstance(spec.arg, torch.export.graph_signature.TensorArgument)
    )


def converted(
    script: torch.jit.ScriptModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[torch.export.ExportedProgram, tuple[Any, ...]]:
    """Converts a script with torch's own converter, and compares the two on the example call.

    Returns:
        The program, and all arguments by position, defaults included.

    Raises:
        CaptureError: the arguments do not fit, torch cannot convert the script, or converts it wrongly.
    """
    from edgeconv.capture.torch._trace import quiet

    where = script.original_name
    names = [argument.name for argument in arguments_of(script)]
    unknown = [name for name in kwargs if name not in names[len(args) :]]
    if unknown or len(args) > len(names):
        what = f"forward({', '.join(names)}) cannot be called so: "
        what += f"no argument {unknown[0]!r} is left" if unknown else f"{len(args)} are too many"
        raise CaptureError(what, where="args and kwargs" if kwargs else "args", hint="pass one value per argument")
    _check_attributes(script)
    try:
        from torch._export.converter import TS2EPConverter

        # The converter binds by position only, and does not fill in defaults.
        stated = [
            *args,
            *(kwargs.get(argument.name, argument.default_value) for argument in arguments_of(script)[len(args) :]),
        ]
        with quiet(), torch.no_grad(), _in_eval_mode(script):
            program = TS2EPConverter(script, tuple(map(apart, stated)), {}).convert()
            results, expected = opened(program)(*stated), script(*stated)
    except Exception as error:  # the border: the converter raises whatever it meets, of any class
        if is_own_fault(error):
            raise
        line = " ".join(str(error).split())[:200]
        what = f"torch cannot convert this ScriptModule: {line or type(error).__name__}"
        raise CaptureError(what, where=where, hint="pass the nn.Module that it was made of") from error
    for result, expected_result in zip(pytree.tree_leaves(results), pytree.tree_leaves(expected), strict=True):
        if isinstance(expected_result, torch.Tensor) and not torch.allclose(
            result, expected_result, rtol=1e-3, atol=1e-4, equal_nan=True
        ):
            what = "torch converts this ScriptModule to something else than it computes"
            raise CaptureError(what, where=where, hint="pass the nn.Module that it was made of")
    return program, tuple(stated)


def _check_attributes(script: torch.jit.ScriptModule) -> None:
    """Checks that a script carries no number from one call to the next in an attribute.

    torch's converter would make a constant of it. Tensors need no check here: they become buffers of the program, which
    `_state.check_stateless` watches.

    Raises:
        CaptureError: naming the first attribute.
    """
    steps, is_set, carried = list(_steps(script.inlined_graph)), set[str](), set[str]()
    for step, is_certain in steps:
        if step.kind() == "prim::GetAttr" and _attribute(step) not in is_set:
            carried.add(_attribute(step))
        elif step.kind() == "prim::SetAttr" and is_certain:
            is_set.add(_attribute(step))
    for step, _ in steps:
        if step.kind() == "prim::SetAttr" and _attribute(step) in carried and not _is_tensor(step):
            what = f"forward changes the attribute {_attribute(step)} and reads it again, but a file keeps no state"
            hint = "take the state as an input and return it as an output"
            raise CaptureError(what, where=script.original_name, hint=hint)


def _steps(block: Any, is_certain: bool = True) -> Iterator[tuple[Any, bool]]:
    """The operators of a TorchScript block and of the blocks inside it, in order; whether every call runs each."""
    for step in block.nodes():
        yield step, is_certain
        for inner in step.blocks():
            yield from _steps(inner, is_certain=False)


def _attribute(step: Any) -> str:
    """The path of the attribute that an operator gets or sets: ``backbone.scale``."""
    names: list[str] = []
    while step.kind() in ("prim::GetAttr", "prim::SetAttr"):
        names.append(step.s("name"))
        step = next(step.inputs()).node()
    return ".".join(reversed(names))


def _is_tensor(step: Any) -> bool:
    return bool(list(step.inputs())[1].type().isSubtypeOf(torch._C.TensorType.get()))


@contextmanager
def _in_eval_mode(script: torch.jit.ScriptModule) -> Iterator[None]:
    """Puts a script into eval mode, as every module is exported; a frozen script has no mode."""
    modes = [(part, part.training) for part in script.modules() if hasattr(part, "training")]
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, training in modes:
            part.training = training


def arguments_of(script: torch.jit.ScriptModule) -> list[Any]:
    """The arguments of a script's forward, as its schema has them, without ``self``."""
    forward: Any = script.forward
    return list(forward.schema.arguments)[1:]
