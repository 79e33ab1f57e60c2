"""nn.Module -> onnx_ir.Model: the graph that every later stage works on.

Public name: `capture`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

__all__ = ["capture"]


def capture(
    module: torch.nn.Module,
    args: tuple[torch.Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    opset: int = 18,
) -> ir.Model:
    """Turns a module into a graph, as it computes in eval state, for the shapes and dtypes of ``args``.

    The module is left as it was found: mode of every submodule, parameters, buffers, gradients, hooks. The graph owns
    copies of the weights.

    Args:
        module: any module that ``torch.export`` can trace.
        args: positional arguments of its forward, tensors of static shape in torch's layout (NCHW).
        input_names: one name per argument.
        output_names: one name per output tensor, nested outputs flattened in the order of ``torch.utils._pytree``
            (``None`` left out); empty for ``output``, ``output_1``, …
        opset: version of the default ONNX domain, at least 18.

    Returns:
        A graph of standard ONNX operators whose values all have a static shape and a dtype, named by the rules of
        `edgeconv.capture._names`. Constants are initializers; nothing is fused. Each node has the path of its torch
        module in the metadata property ``edgeconv.module``.

    Raises:
        CaptureError: the arguments do not fit the module, names do not fit the tensors, the module cannot be traced
            (control flow on values, shapes that depend on values), keeps state between calls, draws random numbers,
            or uses an operator that has no ONNX form.
    """
    from edgeconv.capture import _interface, _official
    from edgeconv.capture._clean import clean
    from edgeconv.capture._eval_mode import eval_mode
    from edgeconv.capture._names import name_values

    where = type(module).__name__
    parameters = _interface.weight_names(module)
    _interface.check_arguments(module, args, input_names)
    with eval_mode(module):
        program = _official.export_program(module, args)
        _interface.check_regions(program)
        outputs = _interface.fit_output_names(output_names, _interface.check_outputs(program, where), where)
        _interface.check_names(input_names, outputs, parameters)
        model, mutated = _official.to_ir(program, opset=opset)
    clean(model)
    _interface.check_stateless(model.graph, mutated, where)
    name_values(
        model,
        input_names=input_names,
        output_names=outputs,
        modules=[path for path, _ in module.named_modules()],
        parameters=parameters,
    )
    model.graph.name = where
    return model
