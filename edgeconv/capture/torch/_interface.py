"""What goes into a capture and what comes out: arguments, outputs, state, and the names of them."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch._ops import HigherOrderOperator
from torch.export.graph_signature import ConstantArgument, OutputKind, TensorArgument

from edgeconv.capture.torch._provenance import origin_in
from edgeconv.core.values import close_to, counted, kind_of
from edgeconv.errors import CaptureError, Wording
from edgeconv.graph.names import take_name

_ONE_EACH = Wording(
    "",
    "declare one input per argument of forward that has no default",
    "pass one value in args, or in kwargs by its name, for each argument of forward that has no default",
)


def check_arguments(module: torch.nn.Module, args: tuple[torch.Tensor, ...], input_names: Sequence[str]) -> None:
    """Checks that the forward can be called with these arguments, and that each has a name.

    Raises:
        CaptureError: otherwise.
    """
    where = type(module).__name__
    if len(input_names) != len(args):
        what = f"{counted(len(input_names), 'input name')} for {counted(len(args), 'argument')}"
        raise CaptureError(what, where=where, hint="give one name per argument")
    check_binding(module, args, {}, where)


def check_binding(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], where: str) -> None:
    """Checks that the signature of the forward accepts such a call.

    Raises:
        CaptureError: otherwise.
    """
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):  # a forward of another language than Python, which torch calls all the same
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        parameters = [name for name in signature.parameters if name != "self"]
        what = f"forward({', '.join(parameters)}) cannot be called so: {error}"
        raise CaptureError(what, where=where, hint=_misspelled(kwargs, signature) or _hint_of(signature)) from error


def _misspelled(kwargs: Mapping[str, Any], signature: inspect.Signature) -> str:
    """The question whether the first unknown keyword means a parameter of a similar name; empty where none is."""
    unknown = [name for name in kwargs if name not in signature.parameters]
    close = close_to(unknown[0], signature.parameters) if unknown else []
    return f"did you mean {close[0]!r}?" if close else ""


def _hint_of(signature: inspect.Signature) -> str | Wording:
    """How the arguments of a forward are passed."""
    keywords = [
        name for name, parameter in signature.parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    if keywords:
        return f"pass what forward takes by keyword only in kwargs={{{keywords[0]!r}: …}}"
    return _ONE_EACH


def weight_names(module: torch.nn.Module) -> frozenset[str]:
    """The names of all parameters and buffers; a tied weight is there under each of its names."""
    named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return frozenset(name for name, _ in named)


def check_names(input_names: Sequence[str], output_names: Sequence[str]) -> None:
    """Checks that no name of an input or output is empty or used twice.

    Raises:
        CaptureError: otherwise.
    """
    seen: set[str] = set()
    for name in (*input_names, *output_names):
        problem = "is empty" if not name.strip() else "is given twice" if name in seen else ""
        if problem:
            raise CaptureError(f"the input or output name {name!r} {problem}", hint="give every tensor its own name")
        seen.add(name)


def check_outputs(program: torch.export.ExportedProgram, where: str) -> int:
    """The number of output tensors of a traced module; ``None`` among the outputs does not count.

    Raises:
        CaptureError: an output is no tensor, or there is none.
    """
    tensors = 0
    complex_values = {node.name for node in program.graph.nodes if _is_complex(node.meta.get("val"))}
    for spec in program.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            continue
        if isinstance(spec.arg, TensorArgument):
            tensors += 1
            if spec.arg.name in complex_values:
                what, hint = "forward returns a complex tensor, and files have none", "return torch.view_as_real of it"
                raise CaptureError(what, where=where, hint=hint)
        elif not (isinstance(spec.arg, ConstantArgument) and spec.arg.value is None):
            value = getattr(spec.arg, "value", None)
            kind = kind_of(value) if value is not None else "a number that depends on the input"
            raise CaptureError(f"forward returns {kind} beside tensors", where=where, hint="return tensors only")
    if not tensors:
        raise CaptureError("forward returns no tensor", where=where, hint="return at least one tensor")
    return tensors


def check_regions(program: torch.export.ExportedProgram, where: str) -> None:
    """Checks that no subgraph is left in the traced graph: no branch, no loop.

    Raises:
        CaptureError: naming the first region and its module.
    """
    for node in program.graph.nodes:
        region = getattr(node.target, "__name__", "")
        if isinstance(node.target, HigherOrderOperator):
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            if region in _RUN_TIME:
                what = f"forward uses torch's {region}, which decides at run time what is computed, and files do not"
                hint = "compute both sides and choose with torch.where; write out loops over sizes that are fixed"
            else:
                what, hint = f"forward uses the higher-order operator {region}", "call plain torch operations instead"
            raise CaptureError(what, where=(stack[-1][0] if stack else "") or where, hint=hint)


def check_sizes(program: torch.export.ExportedProgram) -> None:
    """Checks that every tensor that is used has a fixed size.

    Raises:
        CaptureError: a size depends on values of the inputs, as that of ``x[x > 0]``; names the operator and module.
    """
    inputs = set(program.graph_signature.user_inputs)
    depends = {node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs}
    settled: set[object] = set()  # symbols of sizes that constants alone decide: those operators are folded later
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        sizes = _open_sizes(node)
        if depends.isdisjoint(_deciding(node)):
            settled |= sizes
        if not depends.isdisjoint(node.all_input_nodes):
            depends.add(node)
        if node.users and not sizes <= settled:
            origin = origin_in(node)
            what = f"the size of what {origin.operation} gives depends on values, and files have fixed sizes"
            hint = "choose with torch.where, multiply with the mask, or take a fixed number with topk"
            raise CaptureError(what, where=origin.module or "the module's own forward", hint=hint)


def _deciding(node: torch.fx.Node) -> list[torch.fx.Node]:
    """The inputs whose values may decide the size of the result: of an indexing, only the masks."""
    if str(node.target) in ("aten.index.Tensor", "aten.masked_select.default"):
        return [leaf for leaf in pytree.tree_leaves(node.args[1]) if isinstance(leaf, torch.fx.Node)]
    return node.all_input_nodes


def _open_sizes(node: torch.fx.Node) -> set[object]:
    """torch's symbols for the unknown sizes of a node's results."""
    shapes = [getattr(leaf, "shape", ()) for leaf in pytree.tree_leaves(node.meta.get("val"))]
    return {
        symbol
        for shape in shapes
        for size in shape
        if isinstance(size, torch.SymInt)
        for symbol in size.node.expr.free_symbols
    }


_RUN_TIME = ("cond", "while_loop", "map", "scan", "associative_scan", "map_impl")


def _is_complex(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_complex()


def fit_output_names(
    output_names: Sequence[str],
    program: torch.export.ExportedProgram,
    input_names: Sequence[str],
    taken: Collection[str],
    where: str,
) -> list[str]:
    """The names of the outputs: the caller's, else the keys of a dict or named tuple, else ``output``, ``output_1``, ….

    Args:
        output_names: the caller's; empty for none.
        program: the traced module.
        input_names: names that an output must not have.
        taken: the names of weights and modules, which an output that is named by a key must not have either.
        where: the module, for the message.

    Raises:
        CaptureError: there are more or fewer names than outputs.
    """
    count = check_outputs(program, where)
    if not output_names:
        names = set(input_names)
        defaults = ("output", *(f"output_{index}" for index in range(1, count)))
        return _keys(program, {*input_names, *taken}) or [take_name(name, names) for name in defaults]
    if len(output_names) != count:
        what = f"{counted(len(output_names), 'output name')} for {counted(count, 'output tensor')}"
        hint = "give one name per tensor that forward returns, nested ones in order"
        raise CaptureError(what, where=where, hint=hint)
    return list(output_names)


def _keys(program: torch.export.ExportedProgram, taken: Collection[str]) -> list[str]:
    """Names from the keys of dicts and named tuples that lead to each output; none where the outermost has no keys."""
    spec = program.call_spec.out_spec
    if spec is None:
        return []
    results = [item.arg for item in program.graph_signature.output_specs if item.kind is OutputKind.USER_OUTPUT]
    leaves, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(results, spec))
    names = []
    for path, result in leaves:
        keys = [getattr(key, "key", getattr(key, "name", getattr(key, "idx", None))) for key in path]
        if not keys or not isinstance(keys[0], str):  # a bare tensor, a list or a tuple
            return []
        if isinstance(result, TensorArgument):
            name = "_".join(map(str, keys))
            names.append(f"output_{name}" if name in taken else name)
    return names if len(set(names)) == len(names) else []  # {"a_b": …, "a": {"b": …}} would give one name twice
