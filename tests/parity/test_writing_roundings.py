"""Link 3 of one constant that several operators read: as it is, as integers of several scales, in sums."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from test_writing import emitted, judged
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.core.verdicts import Verdict
from edgeconv.flow.variants import Quantization, Variant, variants_of
from edgeconv.parity.writing._constants import half_steps
from edgeconv.progress import Silent
from edgeconv.rewrite import optimize


def _inverse_sigmoid(x: Tensor) -> Tensor:
    share = torch.sigmoid(x)
    return torch.log(share.clamp(min=1e-5) / (1 - share).clamp(min=1e-5))


def _plus_one(x: Tensor) -> Tensor:
    return nn.functional.relu6(x + 1)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "both ends of a share": _inverse_sigmoid,  # 0 in steps of 1/32768, a step in those of the other
    "two clamps": lambda x: (4 * x).clamp(max=0.0771) + (x / 3).clamp(max=0.0771),
    "one side": lambda x: x.clamp(min=-0.3),
    "other side": lambda x: x.clamp(max=0.7),
    # 1 is read by two sums in integers, and by a normalization in floats.
    "sums and a normalization": lambda x: nn.functional.layer_norm(_plus_one(_plus_one(x.tanh())), x.shape[1:]),
}


class Clamped(nn.Module):
    """A convolution, and what is clamped of it."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv2d(3, 8, 1), form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.conv(x))


def _made(name: str, variant: str) -> tuple[Variant, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    module, data = Clamped(FORMS[name]).eval(), torch.randn(1, 3, 12, 12)
    inputs = {"x": data.numpy()}
    model = optimize(capture(module, (data,), input_names=["x"], output_names=["y"]))
    (made,) = variants_of(model, (variant,), Quantization(batches=lambda: [inputs]), Silent())
    return made, inputs


@pytest.mark.parametrize("variant", ["int8", "int16x8"])
@pytest.mark.parametrize("name", FORMS)
def test_a_bound_is_held_to_the_integers_that_this_operator_reads_of_it(
    name: str, variant: str, tmp_path: Path
) -> None:
    """Integers of a clamped layer saturate on the way, under the layer's name: they are no values of the graph."""
    made, inputs = _made(name, variant)
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason


class Recurrent(nn.Module):
    """A GRU of both directions: a file has sums of its biases, and the new gate's second bias as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(6, 6, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)[0]
        return result


def _recurrent(seed: int) -> tuple[Variant, dict[str, np.ndarray]]:
    torch.manual_seed(seed)
    data = torch.randn(1, 9, 6)
    model = optimize(capture(Recurrent().eval(), (data,), input_names=["x"], output_names=["y"]))
    (made,) = variants_of(model, ("fp16",), Quantization(), Silent())
    return made, {"x": data.numpy()}


def _with_next_half(data: bytes, ending: str, place: int) -> bytes:
    """The file with one number of a constant a unit in the last place larger."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(data), 0))
    (tensor,) = [item for item in model.subgraphs[0].tensors if item.name.decode().endswith(ending)]
    array = np.array(model.buffers[tensor.buffer].data, np.uint8).view(np.float16).copy()
    array[place] = np.nextafter(array[place], np.float16(np.inf))
    model.buffers[tensor.buffer].data = array.view(np.uint8)
    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_halves_of_biases_of_which_the_file_has_sums_are_rounded_once(seed: int, tmp_path: Path) -> None:
    made, inputs = _recurrent(seed)
    contents = emitted(made, "tflite")
    right = judged(made, inputs, contents, contents.data, tmp_path / "net.tflite")
    assert right.verdict is Verdict.PASS, right.reason


@pytest.mark.parametrize("place", [0, pytest.param(8, marks=pytest.mark.slow), 14])  # of the gates update, reset, new
def test_a_sum_of_biases_that_is_a_unit_off_is_told(place: int, tmp_path: Path) -> None:
    made, inputs = _recurrent(0)
    contents = emitted(made, "tflite")
    wrong = judged(made, inputs, contents, _with_next_half(contents.data, "input.bias", place), tmp_path / "net.tflite")
    assert wrong.verdict is Verdict.FAIL
    assert "input.bias" in wrong.reason


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_half_a_unit_of_the_largest_number_is_one_of_its_magnitude(dtype: type[np.floating]) -> None:
    largest = np.finfo(dtype).max
    numbers = np.array([largest, -largest, np.nextafter(largest, dtype(0)), np.inf, -1.0, 0.0], dtype)
    halves = half_steps(numbers)
    assert np.isfinite(halves).all()
    assert halves[:3] == pytest.approx(halves[2])
    assert halves[4] == np.spacing(dtype(1)) / 2
