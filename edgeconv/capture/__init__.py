"""nn.Module or ``.onnx`` file -> onnx_ir.Model: the graph that every later stage works on.

Public names
    `capture`: a module's graph; `OPSETS`, the opsets that it captures in, and `FILE_OPSETS`, those of files.
    `open_onnx`: an `OnnxFile`, whose ``graph`` is the graph for given shapes; `settled_shapes`
        says which these may be.
    `TracedCalls`: which value of a captured graph each of torch's calls became; `take_calls` and `give_calls` keep them
        with a graph.
    `NOTE`: where the model says how it was captured; `PRECISION`: of what other types it was made float32.

``torch.export`` traces the module; the graph that it records is translated operator by operator through the table
`edgeconv.capture.torch._aten.TABLE` (the fast path). A module with an operator, or a form of one, that the table does
not know goes to torch's own ONNX exporter as a whole (the official path), which is the oracle of the fast one: on the
networks of the tests both give the same float64 outputs to 1e-10 and the same names of module outputs. What is only a
constant is computed once by torch in float64. In-place operators and views are followed, or left to the official path.

What torch's operations become, with opset 18 (an operation that is not listed keeps its name, or a sum of elementary
operators that say what it computes; in brackets what the official path makes instead):

======================================  ==========================================================================
torch                                   ONNX
======================================  ==========================================================================
conv, conv transpose, linear            Conv, ConvTranspose, Gemm (rank 2) or MatMul (+ Add)
conv with another padding mode          Pad, Conv; circular: Slice, Concat, Conv
batch norm                              BatchNormalization (5 inputs; rank 2 for features); by the batch: ReduceMean, …
group norm                              Reshape, InstanceNormalization, Reshape, Mul, Add
layer norm, instance norm               LayerNormalization, InstanceNormalization
relu, leaky relu, prelu                 Relu, LeakyRelu, PRelu
relu6, hardtanh, clamp                  Clip (bounds are constant inputs)
hardswish, hardsigmoid, mish            HardSwish, HardSigmoid, Mish
silu                                    Sigmoid, Mul
gelu                                    Div, Erf, Add, Mul, Mul (one Gelu from opset 20)
gelu (tanh)                             Pow, Mul, Add, Mul, Tanh, Add, Mul, Mul (one Gelu from opset 20)
elu, softplus                           Elu, Softplus (Mul, Elu, Mul; Mul, Softplus, Div, Greater, Where)
max pool, average pool                  MaxPool, AveragePool (ceil_mode, count_include_pad as attributes), after a
                                        Slice where torch leaves out a window and with it elements at the end
adaptive average pool to 1, mean        ReduceMean (axes are a constant input), to other sizes AveragePool
adaptive average pool, uneven windows   MatMul, MatMul, Div (Transpose, GatherND, Transpose, ReduceMean)
adaptive max pool to 1, amax            ReduceMax
adaptive max pool, uneven windows       Gather, Reshape, ReduceMax per axis (no form)
max pool with indices of whole tiles    MaxPool, ArgMax, Gather, Add; max_unpool ScatterElements
max pool with other indices             MaxPool of two outputs, Mod
cumprod, cummax, cummin                 Concat and Mul, Max or Min, as often as the length doubles
median, kthvalue                        TopK, Slice
inverse, determinant, solve             Div by the rows' largest, Gather, Mul, Add, Sub: minors up to four rows (Det)
einsum of two tensors                   Transpose, Reshape, MatMul (Einsum)
F.unfold; F.fold                        depthwise Conv by single ones; DepthToSpace or ConvTranspose by single ones
product with a vector                   Reshape, MatMul, Reshape (MatMul)
affine_grid                             Split, Reshape, Mul, Add (Unsqueeze, Mul, ReduceSum)
interpolate with antialias              MatMul by one constant matrix per axis (no form)
interpolate, Upsample                   Resize by scales or, where torch is given a size, by sizes; Gather per axis
                                        where runtimes pick other elements than torch's nearest modes
pixel shuffle                           DepthToSpace (CRD)
pixel unshuffle, channel shuffle        Reshape, Transpose, Reshape
chunk, split                            one Split with explicit sizes
slice, narrow, unbind                   one Slice per dimension (and Squeeze)
view, flatten, reshape                  Reshape to a constant shape
scaled dot product attention            Transpose of the key, Mul, MatMul, Softmax, MatMul (Reshapes, another Mul)
index by a list                         Gather (Transpose, GatherND, Transpose)
assignment to a slice                   Slice, Concat (Slice, Transpose, ScatterND, Transpose)
dropout, clone, contiguous, no-op cast  nothing
======================================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgeconv.core import values
from edgeconv.core.defaults import OPSETS as WRITTEN_OPSETS
from edgeconv.core.package import on_first_use
from edgeconv.errors import CaptureError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

    from edgeconv.capture.onnx_file._read import OnnxFile
    from edgeconv.capture.onnx_file._shapes import settled_shapes
    from edgeconv.capture.torch._calls import TracedCalls, give_calls, take_calls

__all__ = [
    "FILE_OPSETS",
    "NOTE",
    "OPSETS",
    "PRECISION",
    "OnnxFile",
    "TracedCalls",
    "capture",
    "give_calls",
    "open_onnx",
    "settled_shapes",
    "take_calls",
    "whatever_it_brings",
]

OPSETS = range(18, 23)
"""Versions of the default ONNX domain that a module is captured in."""

FILE_OPSETS = range(18, WRITTEN_OPSETS.stop)
"""Versions of the default ONNX domain that a file's graph has; one of another version is converted to the nearest."""

NOTE = "edgeconv.capture"
"""The model's metadata property that says which path it was captured on: ``fast``, or ``official:`` and why.

A graph that was read from a file has it where its opset was converted: ``converted from opset 11 to 18``."""

PRECISION = "edgeconv.precision"
"""The model's metadata property that names the floating types beside float32 that its module computes in, if any."""


def capture(
    module: torch.nn.Module,
    args: tuple[torch.Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int = 18,
    path: Literal["auto", "fast", "official"] = "auto",
) -> ir.Model:
    """Turns a module into a graph, as it computes in eval state, for the shapes and dtypes of ``args``.

    What it computes in another floating type is captured in float32. The module is left as it was found: mode of every
    submodule, parameters, buffers, gradients, hooks, attributes. The graph owns copies of the weights.

    Args:
        module: any module that ``torch.export`` can trace.
        args: positional arguments of its forward, tensors of static shape in torch's layout (NCHW).
        input_names: one name per argument.
        output_names: one name per output tensor, nested outputs flattened in the order of ``torch.utils._pytree``
            (``None`` left out); empty for the keys of a dict or fields of a named tuple (``aux_0`` of
            ``{"aux": [x]}``), and for ``output``, ``output_1``, … of anything else
        opset: version of the default ONNX domain, one of `OPSETS`.
        path: ``"fast"`` goes through edgeconv's own table of operators, ``"official"`` through ``torch.onnx``;
            ``"auto"`` takes the fast path, and the official one for a module that the table does not know whole.

    Returns:
        A graph of standard ONNX operators whose values all have a static shape and a dtype, named by the rules of
        `edgeconv.capture.normalize._names`. Constants are initializers; nothing is fused. Each node has the path of its
        torch module in the metadata property ``edgeconv.module``.

    Raises:
        CaptureError: the arguments do not fit the module, the names do not fit the tensors, the module cannot be
            traced (control flow or shapes that depend on values), its outputs depend on state that it keeps between
            calls (buffers, attributes), it draws random numbers, or it uses an operator that has no ONNX form.
    """
    from edgeconv.capture.normalize._names import name_values
    from edgeconv.capture.normalize._padding import settle_circular_pads
    from edgeconv.capture.normalize._pooling import settle_ceil_mode
    from edgeconv.capture.normalize._resizing import settle_resizes
    from edgeconv.capture.normalize.fold_constants import is_quantized
    from edgeconv.capture.torch import _interface
    from edgeconv.capture.torch._calls import settle_calls
    from edgeconv.capture.torch._converted import as_floats, rounds_between
    from edgeconv.capture.torch._eval_mode import eval_mode
    from edgeconv.capture.torch._masked import settle_masks
    from edgeconv.capture.torch._precision import in_module_precision, settle_precision
    from edgeconv.capture.torch._refused import check_deterministic, check_windows
    from edgeconv.capture.torch._torchao import rounded_weights
    from edgeconv.capture.torch._trace import export_program
    from edgeconv.capture.torch._trained import frozen_quantization
    from edgeconv.capture.torch._unfit import check_fit
    from edgeconv.capture.torch.argument import checked_module
    from edgeconv.capture.torch.call import Called, tensors_of
    from edgeconv.graph.edit import ROUNDED_BETWEEN, ROUNDED_WEIGHTS, remove_unread_constants

    # 1. The arguments of this function, in the caller's words.
    checked_module(module)
    args = tensors_of(args)
    input_names, output_names = (
        values.tensor_names(names, argument, CaptureError)
        for names, argument in ((input_names, "input_names"), (output_names, "output_names"))
    )
    # `Called` would put "module." in front of every name of a weight and of a submodule.
    if isinstance(module, Called) and not module.wraps_graph:
        with module.unwrapped() as inner:
            return capture(inner, args, input_names=input_names, output_names=output_names, opset=opset, path=path)
    where = type(module).__name__
    # torch.onnx.export takes another opset in place of one that it does not know, and raises nothing.
    opset = values.integer(opset, "opset", CaptureError, least=OPSETS[0], most=OPSETS[-1])
    if path not in ("auto", "fast", "official"):
        raise CaptureError(f"there is no path {path!r}", where=where, hint="choose auto, fast or official")
    # 2. The module, before anything is traced: torch's own errors about these faults do not name the part.
    module = as_floats(module)
    check_fit(module)
    parameters = _interface.weight_names(module)
    modules = [path for path, _ in module.named_modules()]
    _interface.check_arguments(module, args, input_names)
    # 3. The trace, which is changed in place until only what a file can hold is left in it.
    with eval_mode(module), frozen_quantization(module):
        program = export_program(module, in_module_precision(module, args), {})
        other_types = settle_precision(program, where)
        _interface.check_regions(program, where)
        settle_masks(program)
        _interface.check_sizes(program)
        check_deterministic(program)
        outputs = _interface.fit_output_names(output_names, program, input_names, {*parameters, *modules}, where)
        _interface.check_names(input_names, outputs)
        model, note = _to_ir(program, opset, path)
    # 4. Forms that the ONNX specification has and some runtime does not compute become forms that all compute.
    check_windows(model.graph)
    settle_circular_pads(model.graph)
    settle_ceil_mode(model.graph)
    settle_resizes(model.graph)
    remove_unread_constants(model.graph)
    # 5. Names: the caller's for inputs and outputs, the torch modules' for everything between.
    name_values(
        model,
        input_names=input_names,
        output_names=outputs,
        modules=modules,
        parameters=parameters,
    )
    settle_calls(model)
    model.graph.name = where
    model.metadata_props[NOTE] = note
    if rounds_between(module):
        model.metadata_props[ROUNDED_BETWEEN] = note
    if not is_quantized(model.graph) and (count := rounded_weights(module, program)):
        model.metadata_props[ROUNDED_WEIGHTS] = str(count)
    if other_types:
        model.metadata_props[PRECISION] = ", ".join(other_types)
    return model


def open_onnx(path: str | Path) -> OnnxFile:
    """Reads an ``.onnx`` file, with its external data, and checks it.

    Functions are inlined, and an opset older or newer than `FILE_OPSETS` is converted to the nearest of them by onnx's
    own converter. What its inputs leave open is settled by `settled_shapes`; then ``file.graph(shapes)`` gives the
    graph, which keeps the file's names of values, weights and outputs (an output that is the input ``x`` is
    ``x.output``).

    Args:
        path: opset 7 or newer; float32 beside integers and booleans. ``QuantizeLinear`` and ``DequantizeLinear`` stay
            as they are.

    Raises:
        CaptureError: the file cannot be read, is damaged or no ONNX file, lacks its external data, has operators of
            other domains (``com.microsoft``), tensors of another floating type than float32 (a cast would alter what
            the file computes), or cannot be converted.
    """
    from edgeconv.capture.onnx_file._read import OnnxFile

    kind = f"{type(path).__module__.partition('.')[0]}.{type(path).__name__}"
    file = values.path(path, "path", CaptureError, hint=_SAVED.get(kind, "give the path of an .onnx file"))
    with whatever_it_brings(file):
        return OnnxFile.load(file, FILE_OPSETS)


_SAVED = {
    "onnx.ModelProto": "save it with onnx.save, and give the path",
    "onnx_ir.Model": "save it with onnx_ir.save, and give the path",
    "torch.ONNXProgram": "save it with its method save, and give the path",
}


def whatever_it_brings(path: Path) -> AbstractContextManager[None]:
    """Around what is done with a file: any exception that is not ours becomes a `CaptureError` about the file."""
    from edgeconv.capture.onnx_file import _soundness

    return _soundness.whatever_it_brings(path)


# Their modules import onnx: the command line must not wait for it.
_PLACES = {
    "onnx_file._read": ("OnnxFile",),
    "onnx_file._shapes": ("settled_shapes",),
    "torch._calls": ("TracedCalls", "give_calls", "take_calls"),
}
__getattr__ = on_first_use(__name__, _PLACES)


def _to_ir(program: torch.export.ExportedProgram, opset: int, path: str) -> tuple[ir.Model, str]:
    """The cleaned graph of a traced program, and the text of `NOTE`: which path made it, and why not the fast one."""
    from edgeconv.capture.normalize._clean import clean, clean_known
    from edgeconv.capture.torch._builder import Unsupported

    note = "official: asked for"
    if path != "official":
        from edgeconv.capture.torch import _fast

        try:
            model = _fast.to_ir(program, opset=opset)
        except Unsupported as reason:
            if path == "fast":
                raise CaptureError(f"{reason}", hint='leave out path="fast"') from reason
            note = f"official: {reason}"
        else:
            clean_known(model)  # shapes and dtypes are torch's already
            return model, "fast"
    from edgeconv.capture.torch import _official
    from edgeconv.capture.torch._refused import check_official

    check_official(program, note.removeprefix("official: "))
    model = _official.to_ir(program, opset=opset)
    clean(model)
    return model, note
