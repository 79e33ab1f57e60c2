"""Maps torch's exceptions to `CaptureError`, with the path of the torch module that was running.

torch has few exception classes and no codes, so most causes are recognized by words of its message; a message that is
not recognized is passed on, shortened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from edgeconv.errors import DECLARED, CaptureError, Wording, causes_of, is_own_fault

_LONGEST_MESSAGE = 240  # characters of a foreign message
_NO_ONNX_FORM = re.compile(r"No ONNX function found for <OpOverload\(op='(?P<op>[^']+)'")
_TRANSLATED = re.compile(r"Error when translating node %?(?P<node>\w+)")
# Where torch's messages turn from the cause to stack traces and advice.
_MORE = re.compile(r"\s*(From user code:|Caused by:|For more information|consider using|While executing|\n\n).*", re.S)

_DATA_DEPENDENT = (
    "Could not guard on data-dependent",
    "data-dependent",
    "Dynamic control flow is not supported",
    "Could not extract specialized integer",
)
_ON_CPU = "make new tensors on the device of the input (device=x.device), and export on the CPU"
SPARSE = ("the forward computes with sparse tensors, and files have none", "make them dense: .to_dense()")
"""What went wrong, and the hint."""

# Words in torch's messages, what went wrong, and the hint.
_KINDS = (
    *(
        (
            sign,
            "the forward leaves torch (numpy, data pointers), so it cannot be traced",
            "compute with torch operations only",
        )
        for sign in (".numpy() is not supported", "Cannot access data pointer", "doesn't have storage")
    ),
    (
        "Pending unbacked symbols",  # torch.combinations: a masked_select inside of an operator of torch's
        "an operator has a result whose size depends on values inside of it, and files have fixed sizes",
        "index with numbers that are constants (torch.combinations of torch.arange, made in __init__)",
    ),
    (
        "fake tensor in the exported program constant",
        "the forward passes through code that cannot be traced: a torch.autograd.Function of its own, a write to"
        " tensor.data, or a library that keeps tensors from call to call",
        "compute with plain torch operations in eval mode",
    ),
    ("SparseTensorImpl", *SPARSE),
    (
        "which is not a known type",
        "forward returns an object of a class that torch cannot take apart",
        "return a dict or a tuple of tensors, or register its class with torch.export.register_dataclass",
    ),
    (
        'missing the required "forward" function',
        "it has no forward, and computes nothing by itself",
        "pass a module whose forward calls its parts",
    ),
    (
        "ParameterList should not be called",
        "it holds parameters and has no forward",
        "pass a module whose forward computes with them",
    ),
    *(
        (sign, "the forward makes tensors on a GPU, and modules are exported on the CPU", _ON_CPU)
        for sign in ("not linked with support for", "not compiled with CUDA", "No CUDA GPUs", "no NVIDIA driver")
    ),
    (
        "copy__default of type call_function is missing nn_module_stack",  # torch writes the buffers back at the end
        "forward puts one of its buffers in the place of another, and a file keeps no state",
        "take the state as an input and return it as an output",
    ),
    ("nested_tensor", "the forward computes with nested tensors, and files have none", "pad them to one size"),
    *(
        (sign, "the forward computes with tensors on two devices", _ON_CPU)
        for sign in ("FakeTensorDeviceMismatchError", "Expected all tensors to be on the same device")
    ),
)


@contextmanager
def export_errors(module: torch.nn.Module) -> Iterator[None]:
    """Maps whatever ``torch.export`` and the module's own forward raise."""
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:  # the border: the forward is the user's code and may raise anything
        # Python raises TypeError in edgeconv's frame where the user's forward is called with wrong arguments.
        if is_own_fault(error) and not isinstance(error, TypeError):
            raise
        what, hint = _explain(error)
        raise CaptureError(what, where=_where(error, module), hint=hint) from error


@contextmanager
def onnx_errors(program: torch.export.ExportedProgram) -> Iterator[None]:
    """Maps what ``torch.onnx`` raises; it names a node of the torch graph, which knows its module."""
    try:
        yield
    except Exception as error:  # the border: the exporter wraps every failure in its own classes
        text = " ".join(map(str, causes_of(error, suppressed=True)))
        operator = _NO_ONNX_FORM.search(text)
        if operator is not None:
            names = list(dict.fromkeys([_as_traced(operator["op"], program), *_without_form(program)]))
            many = "operators" if len(names) > 1 else "operator"
            is_complex = all(_is_complex(name, program) for name in names)
            of = " of complex tensors" if is_complex else ""
            what = f"torch {many} {', '.join(names)}{of} {'have' if len(names) > 1 else 'has'} no ONNX form"
            pronoun = "these" if len(names) > 1 else "this one"
            parts = " of real and imaginary parts (torch.view_as_real)" if is_complex else ""
            hint = f"write the module with other operations{parts}, or keep {pronoun} outside of it"
        elif any(kind in text for kind in ("torch.qint", "torch.quint")):
            what = "the forward makes quantized tensors of torch (qint8, quint8), and files have none"
            hint = "leave their rounding out, or write it with torch.fake_quantize_per_tensor_affine"
        else:
            what = f"the ONNX exporter of torch failed: {_first_line([*causes_of(error, suppressed=True)][-1])}"
            hint = "write that part of the module with other operations"
        raise CaptureError(what, where=_module_of(error, text, program), hint=hint) from error


def _is_complex(name: str, program: torch.export.ExportedProgram) -> bool:
    """Whether a traced operator of that name gives complex numbers wherever it is called."""
    nodes = [node for node in program.graph.nodes if str(node.target).startswith(f"{name}.")]
    results = [leaf for node in nodes for leaf in pytree.tree_leaves(node.meta.get("val"))]
    return bool(results) and all(isinstance(leaf, torch.Tensor) and leaf.is_complex() for leaf in results)


def _as_traced(name: str, program: torch.export.ExportedProgram) -> str:
    """The traced operator for one of torch's inner ones (``prims.erf_inv``), which no user has called."""
    inner = name.removeprefix("prims.").replace("_", "")  # erf_inv of erfinv
    traced = [str(node.target).rpartition(".")[0] for node in program.graph.nodes if node.op == "call_function"]
    is_inner = name.startswith("prims.")
    return next((called for called in traced if is_inner and called.replace("_", "").endswith(inner)), name)


def _without_form(program: torch.export.ExportedProgram) -> list[str]:
    """All operators of the program for which torch.onnx has neither an ONNX function nor a decomposition.

    torch.onnx itself stops at the first one. Its tables are in private modules: where a version of torch has them
    elsewhere, this list is empty, and the message names that first one only.
    """
    try:
        from torch.onnx._internal.exporter import _decomp, _registration

        registry = _registration.ONNXRegistry.from_torchlib()
        table = _decomp.create_onnx_friendly_decomposition_table(set(registry.functions))  # type: ignore[arg-type]
        nodes = program.run_decompositions(table).graph.nodes
        called = [node.target for node in nodes if node.op == "call_function"]
        lacking = [str(target).removesuffix(".default") for target in called if not registry.get_decomps(target)]
        lacking = [_as_traced(name, program) for name in lacking]
    except Exception:  # noqa: BLE001 - private modules, and decompositions may raise what they like
        return []
    return [name for name in lacking if name.startswith("aten.")]  # prims are translated elsewhere in torch.onnx


def _explain(error: Exception) -> tuple[str, str | Wording]:
    """What went wrong, and the hint."""
    text = str(error)
    if isinstance(error, GuardOnDataDependentSymNode) or any(sign in text for sign in _DATA_DEPENDENT):
        what = "control flow depends on the values of a tensor, so there is no one graph for all inputs"
        return what, "use torch.where, or let the branch depend on shapes and options only"
    if isinstance(error, DataDependentOutputException):
        called = str(error.func).removesuffix(".default")
        what = f"{called} looks at the values of a tensor, which a graph for all inputs does not have"
        return what, "write what calls it with other torch operations"
    for sign, what, hint in _KINDS:
        if sign in text:
            return what, hint
    if _holds_packed(error):
        what = "the forward packs sequences of several lengths, whose sizes depend on those"
        return what, "run the recurrent layer on the padded tensor and mask what lies behind the ends"
    return f"forward failed with {type(error).__name__}: {_first_line(error)}", DECLARED


def _holds_packed(error: BaseException) -> bool:
    """Whether a function that failed was handling a packed sequence, or packing one."""
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        has_packed = any(isinstance(value, PackedSequence) for value in frame.f_locals.values())
        if has_packed or frame.f_code.co_name == "pack_padded_sequence":
            return True
        trace = trace.tb_next
    return False


def _where(error: BaseException, module: torch.nn.Module) -> str:
    """The path of the innermost submodule whose forward was running; the module's class for the root."""
    paths = {id(part): path for path, part in module.named_modules()}
    where = ""
    trace = error.__traceback__
    while trace is not None:
        owner = _module_running(trace.tb_frame)
        if owner is not None and id(owner) in paths:
            where = paths[id(owner)]
        trace = trace.tb_next
    return _described(where, type(module).__name__)


def _module_running(frame: FrameType) -> torch.nn.Module | None:
    if frame.f_code.co_name not in ("forward", "_call_impl", "_wrapped_call_impl"):
        return None
    owner = frame.f_locals.get("self")
    return owner if isinstance(owner, torch.nn.Module) else None


def _module_of(error: BaseException, text: str, program: torch.export.ExportedProgram) -> str:
    """The module path of the torch node that the exporter was translating.

    The frames of the exporter hold that node. Its name in the message is the second choice: it is of the decomposed
    graph, whose names may differ from those of the program.
    """
    for node in _translated_nodes(error):
        stack = node.meta.get("nn_module_stack") or {}
        if stack:
            return _described(*list(stack.values())[-1])
    named = _TRANSLATED.search(text)
    node_name = named["node"] if named is not None else ""
    for node in program.graph.nodes:
        if node.name == node_name or node.name == node_name.lstrip("_"):
            stack = node.meta.get("nn_module_stack") or {}
            return _described(*(list(stack.values())[-1] if stack else ("", "")))
    return ""


def _translated_nodes(error: BaseException) -> Iterator[torch.fx.Node]:
    """The torch nodes in the frames that failed, outermost frame first."""
    for cause in causes_of(error, suppressed=True):
        trace = cause.__traceback__
        while trace is not None:
            node = trace.tb_frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node):
                yield node
            trace = trace.tb_next


def _described(path: str, class_name: str) -> str:
    """The path of a module; the bare class name for the root, whose path is empty."""
    return path or class_name.rpartition(".")[2]


def _first_line(error: BaseException) -> str:
    """The first sentence of a message that may go on for pages."""
    text = " ".join(_MORE.sub("", str(error).strip()).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"
