"""What has no form in a file, or what the official exporter would translate into something else: refused by name."""

from __future__ import annotations

import re

import onnx_ir as ir
import torch
from torch.fx import Node as FxNode

from edgeconv.capture.torch._aten.matrices import LARGEST
from edgeconv.capture.torch._operation import arguments_of
from edgeconv.capture.torch._provenance import origin_in
from edgeconv.errors import CaptureError
from edgeconv.graph.origin import origin_of

_DROPPED = {"avg_pool2d": "divisor_override", "avg_pool3d": "divisor_override"}
"""Operations with an argument that torch.onnx ignores: its file would compute something else."""

_BY_MINORS = ("linalg_inv", "linalg_inv_ex", "inverse", "linalg_solve")
"""Operations that `_aten.matrices` writes out by minors, up to `LARGEST` rows; ONNX has no operator for them."""


def check_deterministic(program: torch.export.ExportedProgram) -> None:
    """No operator draws random numbers, by whatever name; dropout of a module in eval state draws none.

    Raises:
        CaptureError: naming the first that does, and its module.
    """
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is not None and (node.users or schema.is_mutable) and _draws(node):
            operation = str(schema.name).rpartition("::")[2].strip("_")
            raise CaptureError(
                f"{operation} draws random numbers in eval mode, and a file cannot",
                where=origin_in(node).module or "the module",
                hint="take the random tensor as an input, or leave it out in eval mode (training=self.training; an"
                " ExportedProgram keeps the mode that it was exported in: export module.eval())",
            )


# The ONNX specification types AveragePool, Conv and ConvTranspose of floats; torch runs all four of int64, too.
_OF_FLOATS = frozenset({"AveragePool", "Conv", "ConvTranspose", "MaxPool"})


def check_windows(graph: ir.Graph) -> None:
    """No convolution and no pool is of integers, which no runtime computes; a MaxPool may be of 8 bits.

    Raises:
        CaptureError: naming the module of the first that is.
    """
    for node in graph:
        dtype = node.inputs[0].dtype if node.op_type in _OF_FLOATS and node.inputs[0] is not None else None
        is_narrow = node.op_type == "MaxPool" and dtype in (ir.DataType.INT8, ir.DataType.UINT8)
        if dtype is not None and not dtype.is_floating_point() and not is_narrow:
            origin = origin_of(node)
            what = f"{origin.operation} is of {dtype.name.lower()}, and no runtime has it of these integers"
            hint = "cast its input to float32 before, and the result back"
            raise CaptureError(what, where=origin.module or "the module", hint=hint)


def _draws(node: FxNode) -> bool:
    """Whether an operator, with these arguments, draws random numbers."""
    arguments = arguments_of(node)
    if "dropout_p" in arguments:  # attention
        return bool(arguments["dropout_p"])
    if "train" in arguments:  # dropout in its forms; recurrent layers have some between them
        return bool(arguments["train"] and arguments.get("p", arguments.get("dropout")))
    if "training" in arguments and {"noise", "generator"} & arguments.keys():  # rrelu
        return bool(arguments["training"])
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def check_official(program: torch.export.ExportedProgram, reason: str) -> None:
    """The exporter honors every argument of a traced module.

    Args:
        program: what was traced.
        reason: why the exporter translates it: the operation, and what of it, that edgeconv's own table does not know.

    Raises:
        CaptureError: it would drop one; names the module.
    """
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            continue
        operation = str(schema.name).rpartition("::")[2]
        refusals = _quantized(node, reason), _projections(node, operation, reason), _without_form(node, operation)
        for refusal in refusals:
            if refusal is not None:
                what, hint = refusal
                raise CaptureError(what, where=origin_in(node).module or "the module", hint=hint)


def _quantized(node: FxNode, reason: str) -> tuple[str, str] | None:
    """Refusal and hint for a program that was quantized by PT2E, whose operators torch.onnx translates only in part."""
    if not str(node.target).startswith(("quantized_decomposed.", "torchao.")):
        return None
    float_module = "export the float module, and have edgeconv quantize it: int8 is one of its variants"
    if "scales that are computed" in reason or "choose_qparams" in reason:
        what = "it is quantized by scales that are computed anew for each input, and files have fixed ones"
        return what, f"prepare it with static scales (is_dynamic=False), or {float_module}"
    return f"a program that is quantized holds what edgeconv cannot translate: {reason}", float_module


def _projections(node: FxNode, operation: str, reason: str) -> tuple[str, str] | None:
    """Refusal and hint for an LSTM with ``proj_size``: torch.onnx would write one without it."""
    if operation != "lstm" or not _is_projected(node):
        return None
    named = re.match(r"\w+\.(\w+)", reason)
    beside = named[1] if named and named[1] != "lstm" else "an operation"
    what = f"lstm with projections is not written beside {beside}, which torch's own exporter translates"
    return what, f"replace {beside}, or leave proj_size out and put a Linear behind the lstm"


def _without_form(node: FxNode, operation: str) -> tuple[str, str] | None:
    """Refusal and hint for an operation, or an argument of one, that has no ONNX form."""
    rows = node.args[0].meta["val"].shape[-1] if operation in _BY_MINORS else 0  # type: ignore[union-attr]
    if rows > LARGEST:
        what = f"{operation} of {rows} rows has no ONNX form, up to {LARGEST} rows have"
        return what, "keep the operation outside of the module"
    if operation == "embedding_bag":
        what = "embedding_bag with offsets that are computed makes bags of any length, and files have fixed sizes"
        return what, "pass indices of shape (bags, length), or keep the offsets in the module as a constant"
    if operation == "scatter_reduce" and (node.args[4] == "mean" or node.kwargs.get("include_self") is False):
        what = "scatter_reduce of means, or without the tensor itself, has no ONNX form for these tensors"
        return what, "reduce floats, or divide a sum by its count"
    argument = _DROPPED.get(operation)
    value = arguments_of(node).get(argument) if argument is not None else None
    if value is None:
        return None
    what = f"{operation} with {argument}={value} has no ONNX form"
    return what, f"leave {argument} out and multiply the result instead"


def _is_projected(node: torch.fx.Node) -> bool:
    """Whether an LSTM has ``proj_size``: one weight more per layer than W, R and the two biases."""
    if str(node.target) != "aten.lstm.input":
        return False
    _, _, params, has_biases, layers, _, _, both, _ = node.args
    return len(params) != layers * (2 if both else 1) * (4 if has_biases else 2)  # type: ignore[arg-type,operator]
