"""The fast path: the traced graph itself, operator by operator, through the table of `_aten`.

No decompositions and no registry of the exporter are needed, and every shape and dtype is known from torch. What the
table does not know raises `Unsupported`: nothing is guessed.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch.export.graph_signature import InputKind, InputSpec, OutputKind, TensorArgument
from torch.fx import Node as FxNode

from edgeconv.capture.torch._aten import TABLE
from edgeconv.capture.torch._aten.quantization import TABLE as ROUNDINGS
from edgeconv.capture.torch._builder import DTYPES, Builder, Result, Unsupported, dtype_of, numpy_of, shape_of, sizes_of
from edgeconv.capture.torch._calls import remember_values
from edgeconv.capture.torch._constant_torch import evaluate, is_constant_operator
from edgeconv.capture.torch._memory import Memory, is_same_view
from edgeconv.capture.torch._operation import arguments_of, is_item, program_inputs, writes
from edgeconv.capture.torch._provenance import origin_in
from edgeconv.graph.names import temporary_name

_IR_VERSION = 10  # which torch's exporter writes, so that both paths give the same
_ASSERTIONS = frozenset(
    {"aten._assert_tensor_metadata.default", "aten._assert_async.msg", "aten._assert_scalar.default"}
)
# Arguments about where and how torch stores and runs a tensor; they change no value.
_MEANINGLESS = frozenset(
    {"pin_memory", "device", "layout", "memory_format", "non_blocking", "cudnn_enabled", "cudnn_enable", "implicit"}
)

# What Python, numpy and onnx_ir raise where an entry gets a form of the arguments that it was not written for. The
# official path translates it then.
_FORMS = (TypeError, ValueError, IndexError)


def to_ir(program: torch.export.ExportedProgram, *, opset: int) -> ir.Model:
    """The graph of a traced program; every node knows its `Origin`.

    Raises:
        Unsupported: for an operator, or a form of it, that the table does not know; says which and in which module.
    """
    walk = _Walk(program, opset)
    for node in program.graph.nodes:
        if node.op == "call_function":
            walk.visit(node)
        elif node.op not in ("placeholder", "output"):
            raise Unsupported(f"a node of kind {node.op}")
    walk.finish()
    model = ir.Model(walk.builder.graph, ir_version=_IR_VERSION)
    remember_values(model, program, walk.values, walk.outputs)
    return model


class _Walk:
    """One pass over a traced graph.

    Attributes:
        builder: makes the nodes.
        memory: what each torch node stands for by now.
        values: what each torch node stood for when it was computed, by its name.
        outputs: the names of the nodes whose results the outputs are; empty for one that was written to since.
        rounds_activations: whether fake quantization is applied to activations. Then the module was trained for int8,
            and the QuantizeLinear of its weights stay in the graph: folded weights would not show their integers.
    """

    def __init__(self, program: torch.export.ExportedProgram, opset: int) -> None:
        self.program = program
        self.builder = Builder(opset, [*program.state_dict, *program.constants])
        self.memory = Memory(self.builder, self._translate, is_written=any(map(writes, program.graph.nodes)))
        self.values: dict[str, ir.Value] = {}
        self.outputs: list[str] = []
        self.rounds_activations = _rounds_activations(program)
        for node, spec in program_inputs(program):
            self._bind(node, self._placeholder(node, spec))

    def visit(self, node: FxNode) -> None:
        """Translates a node, and carries what it writes in place to all views of the same memory."""
        if str(node.target) in _ASSERTIONS or (is_item(node) and not node.users):
            return
        if writes(node):
            self._write(node)
        else:
            self._bind(node, self._translate(node))

    def _bind(self, node: FxNode, value: Result, source: FxNode | None = None) -> None:
        self.memory.bind(node, value, source=source)
        if isinstance(value, ir.Value):
            self.values[node.name] = value

    def _write(self, node: FxNode) -> None:
        """Translates a node that writes to its first argument and returns it."""
        target, source = node.args[0], node.args[1] if len(node.args) > 1 else None
        if not isinstance(target, FxNode) or not _writes_its_first(node):
            raise Unsupported(f"{_where(node)}: writes to something other than the elements of its first argument")
        if str(node.target) == "aten.copy_.default" and isinstance(source, FxNode) and is_same_view(target, source):
            result = self.memory.read(target)  # ``x[:2] *= 2`` assigns the slice to itself in the end
        else:
            result = self._translate(node)
            if not isinstance(result, ir.Value) or sizes_of(result) != shape_of(target.meta["val"]):
                raise Unsupported(f"{_where(node)}: changes the shape of what it writes to")
            try:
                self.memory.write(target, result)
            except Unsupported as error:
                raise Unsupported(f"{_where(node)}: {error}") from error
        self._bind(node, result, source=target)

    def finish(self) -> None:
        """Sets the outputs."""
        output = next(node for node in self.program.graph.nodes if node.op == "output")
        for argument, spec in zip(output.args[0], self.program.graph_signature.output_specs, strict=True):
            if spec.kind is OutputKind.USER_OUTPUT and isinstance(spec.arg, TensorArgument):
                value = self.memory.read(argument)
                if not isinstance(value, ir.Value):
                    raise Unsupported("an output that is no tensor")
                self.builder.graph.outputs.append(self.builder.keep(value))
                self.outputs.append(argument.name if self.values.get(argument.name) is value else "")

    def _placeholder(self, node: FxNode, spec: InputSpec) -> ir.Value:
        """The value of an input, parameter, buffer or constant of the program; weights wait until a node takes them."""
        fake = node.meta["val"]
        if not isinstance(fake, torch.Tensor):
            raise Unsupported(f"an input {node.name} that is no tensor")
        if spec.kind is InputKind.USER_INPUT:
            value = ir.Value(shape=ir.Shape(shape_of(fake)), type=ir.TensorType(dtype_of(fake)))
            value.name = temporary_name(self.builder.graph)
            self.builder.graph.inputs.append(value)
            return value
        if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR) or spec.target is None:
            raise Unsupported(f"an input {node.name} of kind {spec.kind.name.lower()}")
        name, program = spec.target, self.program
        # Constants: tensors that the forward makes of numbers, and buffers that are not persistent.
        tensor = program.state_dict[name] if name in program.state_dict else program.constants[name]
        if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.dtype not in DTYPES:
            raise Unsupported(f"the weight {name}")
        value = self.builder.waiting(name, shape_of(fake), dtype_of(fake), lambda: numpy_of(tensor))
        self.builder.exact[value] = tensor
        return value

    def _translate(self, node: FxNode) -> Result:
        """The values of a node, from what its arguments stand for now."""
        if is_item(node):
            items, index = self.memory.read(node.args[0]), node.args[1]
            if isinstance(items, ir.Value) or not isinstance(index, int) or (item := items[index]) is None:
                raise Unsupported(f"{_where(node)}: an item that was not made")
            return item
        try:
            return self._apply(node)
        except Unsupported as error:
            raise Unsupported(f"{_where(node)}: {error}") from error

    def _apply(self, node: FxNode) -> Result:
        fakes = _results(node)
        arguments = {key: self._value(item) for key, item in _bound(node).items()}
        self.builder.begin(origin_in(node), fakes, _used(node, len(fakes)))
        is_kept_rounding = self.rounds_activations and str(node.target) in ROUNDINGS
        if not is_kept_rounding and is_constant_operator(node, arguments, self.builder):
            return evaluate(node, self._value, self.builder, fakes)
        entry = TABLE.get(_functional(node)) or TABLE.get(str(node.target))  # some operators only work in place
        if entry is None:
            raise Unsupported("not in the table")
        stated = {key: item for key, item in arguments.items() if key not in _MEANINGLESS}
        try:
            result = entry(self.builder, **stated)
        except _FORMS as error:
            raise Unsupported(f"a form of the arguments that its entry does not know: {error}") from error
        _check(result, fakes)
        return result

    def _value(self, argument: Any) -> Any:
        if isinstance(argument, FxNode):
            return self.memory.read(argument)
        if isinstance(argument, list | tuple):
            return [self._value(item) for item in argument]
        if isinstance(argument, torch.SymInt | torch.SymFloat | torch.SymBool):
            raise Unsupported("a number that depends on the input")
        return argument


def _rounds_activations(program: torch.export.ExportedProgram) -> bool:
    """Whether some fake quantization rounds a tensor that depends on an input."""
    roundings = [node for node in program.graph.nodes if str(node.target) in ROUNDINGS]
    if not roundings:
        return False
    inputs = set(program.graph_signature.user_inputs)
    depending: set[FxNode] = set()
    for node in program.graph.nodes:
        if node.name in inputs or not depending.isdisjoint(node.all_input_nodes):
            depending.add(node)
    return any(node.args[0] in depending for node in roundings)


def _bound(node: FxNode) -> dict[str, Any]:
    """The arguments by the names of the schema, with its defaults; ``self`` and ``input`` are ``x``."""
    if getattr(node.target, "_schema", None) is None:  # a function of Python's, as SymInt arithmetic is
        raise Unsupported("not in the table")
    return {"x" if name in ("self", "input") else name: value for name, value in arguments_of(node).items()}


def _results(node: FxNode) -> list[torch.Tensor]:
    """The results as torch recorded them: fake tensors, with shape and dtype, without data.

    Raises:
        Unsupported: one is no tensor, or is used and has no elements.
    """
    value = node.meta.get("val")
    recorded = list(value) if isinstance(value, list | tuple) else [value]
    fakes = [fake for fake in recorded if isinstance(fake, torch.Tensor)]
    if len(fakes) != len(recorded):
        raise Unsupported("a result that is no tensor")
    used = _used(node, len(fakes))
    if any(0 in shape_of(fake) for index, fake in enumerate(fakes) if index in used):
        raise Unsupported("an empty tensor")
    return fakes


def _used(node: FxNode, count: int) -> frozenset[int]:
    """The positions of the results that other nodes use; of a single result, its own."""
    if count == 1:
        return frozenset({0})
    positions = [user.args[1] for user in node.users if is_item(user) and user.users]
    return frozenset(position for position in positions if isinstance(position, int))


def _check(result: Result, fakes: list[torch.Tensor]) -> None:
    """Checks that an entry's values have the shapes and dtypes that torch recorded.

    Raises:
        Unsupported: otherwise; a fault of the entry then costs speed, but gives no wrong file.
    """
    values = [result] if isinstance(result, ir.Value) else list(result)
    if len(values) != len(fakes):
        raise Unsupported(f"{len(values)} results where torch has {len(fakes)}")
    for value, fake in zip(values, fakes, strict=True):
        if value is not None and (sizes_of(value) != shape_of(fake) or value.dtype != dtype_of(fake)):
            raise Unsupported(
                f"the entry makes {value.dtype} {sizes_of(value)} where torch has {fake.dtype} {tuple(fake.shape)}"
            )


def _writes_its_first(node: FxNode) -> bool:
    """Whether an operator changes the elements of its first argument, and nothing else (no shape, no strides)."""
    parameters = node.target._schema.arguments  # type: ignore[union-attr]
    written = [parameter.alias_info is not None and parameter.alias_info.is_write for parameter in parameters]
    # squeeze_, t_, … change the tensor's own shape; detach_ has the same tag, and changes nothing that is computed.
    changes_shape = (
        torch.Tag.inplace_view in getattr(node.target, "tags", ()) and str(node.target) != "aten.detach_.default"
    )
    return written[0] and not any(written[1:]) and not changes_shape


def _functional(node: FxNode) -> str:
    """The operator that computes the same without writing: ``aten.relu`` of ``relu_``, ``__or__`` of ``__ior__``."""
    name = str(node.target)
    if not writes(node):
        return name
    return name.replace("__i", "__", 1) if name.startswith("aten.__i") else name.replace("_.", ".", 1)


def _where(node: FxNode) -> str:
    module = origin_in(node).module
    return f"{node.target} (module {module})" if module else f"{node.target}"
