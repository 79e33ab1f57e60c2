"""Fourier transforms of a constant length: right in both formats, of modules and of files.

Members thought of: of real and complex signals, there and back, of half a spectrum, along any axis and several, longer
and shorter than the signal, odd lengths and a single sample, by each norm; products of spectra; short-time ones with
and without a window, with a window made in the forward, of both sides, with a step that leaves samples over; phases of
bins without an imaginary part; an open batch; windows and mel filters of files; a transform too long for a matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from right_from_file import assert_right_from_file, file_of
from right_in_both import Of, assert_right_in_both
from torch import Tensor, fft

import edgeconv
from edgeconv.errors import CaptureError

_X = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(1))
_SIGNAL = torch.randn(2, 300, generator=torch.Generator().manual_seed(2))
_FILTER = torch.view_as_complex(torch.randn(3, 8, 6, 2, generator=torch.Generator().manual_seed(3)))
_WINDOW = torch.hann_window(32)
_parts = torch.view_as_real

TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "magnitude": lambda x: fft.rfft(x).abs(),
    "power": lambda x: fft.rfft2(x).abs().pow(2),
    "longer": lambda x: _parts(fft.rfft(x, n=16)),
    "shorter": lambda x: _parts(fft.rfft(x, n=7, dim=2)),
    "by its root": lambda x: _parts(fft.rfft(x, dim=1, norm="ortho")),
    "forward": lambda x: _parts(fft.fft2(x, norm="forward")),
    "of three axes": lambda x: _parts(fft.fftn(x, dim=(1, 2, 3))),
    "there and back": lambda x: fft.ifft2(fft.fft2(x) * 2).real,
    "half there and back": lambda x: fft.irfft2(fft.rfft2(x) * 0.5),
    "odd there and back": lambda x: fft.irfft(fft.rfft(x[..., :9]), n=9),
    "back to fewer": lambda x: fft.irfft(fft.rfft(x), n=5),
    "filtered": lambda x: fft.irfft2(fft.rfft2(x) * _FILTER, s=(8, 10)),
    "mixed tokens": lambda x: fft.fft(fft.fft(x, dim=-1), dim=-2).real,
    "phases": lambda x: fft.rfft(x).angle(),
    "one sample": lambda x: _parts(fft.rfft(x[..., :1])),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_right_in_both_formats(name: str, tmp_path: Path) -> None:
    assert_right_in_both(Of(TRANSFORMS[name]), (_X,), tmp_path, tolerance=5e-5)


FRAMES: dict[str, Callable[[Tensor], Tensor]] = {
    "magnitudes": lambda x: torch.stft(x, 32, window=_WINDOW, return_complex=True).abs(),
    "samples left over": lambda x: _parts(torch.stft(x, 32, 9, center=False, window=_WINDOW, return_complex=True)),
    "no window": lambda x: _parts(torch.stft(x, 32, 9, return_complex=True, normalized=True)),
    "a narrow window": lambda x: _parts(
        torch.stft(x, 32, 9, win_length=20, window=torch.hann_window(20), return_complex=True)
    ),
    "both sides": lambda x: _parts(torch.stft(x, 32, onesided=False, window=_WINDOW, return_complex=True)),
    "torch's Hamming": lambda x: torch.stft(x, 32, window=torch.hamming_window(32), return_complex=True).abs(),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_are_right_in_both_formats(name: str, tmp_path: Path) -> None:
    assert_right_in_both(Of(FRAMES[name]), (_SIGNAL,), tmp_path, tolerance=5e-5)


def test_an_open_batch_of_spectra_is_proven(tmp_path: Path) -> None:
    module = Of(lambda x: torch.cat([fft.rfft2(x).abs(), fft.rfft(x, dim=2).abs()[:, :, :, :6].repeat(1, 1, 2, 1)], 2))
    result = edgeconv.export(
        module, (_X,), tmp_path, name="m", dynamic_batch=True, devices=("onnxruntime", "litert")
    )  # fmt: skip
    assert str(result.report.verdict) == "pass"


_node = helper.make_node
_SHORT = {"length": np.int64(5)}
FILES: dict[str, tuple[list[onnx.NodeProto], tuple[int, ...], int, dict[str, object]]] = {
    "opset 17": ([_node("DFT", ["x"], ["y"])], (2, 6, 3, 1), 17, {}),
    "an axis from behind": ([_node("DFT", ["x"], ["y"], axis=-2, onesided=1)], (2, 6, 5, 1), 17, {}),
    "complex": ([_node("DFT", ["x", "length"], ["y"], axis=2)], (2, 6, 7, 2), 17, _SHORT),
    "inverse": ([_node("DFT", ["x"], ["y"], inverse=1)], (2, 6, 2), 17, {}),
    "an axis as input": ([_node("DFT", ["x", "", "axis"], ["y"])], (2, 6, 5, 1), 20, {"axis": np.int64(1)}),
    "the last axis by itself": ([_node("DFT", ["x"], ["y"], onesided=1)], (2, 6, 5, 1), 20, {}),
    "frames": (
        [_node("STFT", ["x", "step", "window"], ["y"])],
        (2, 64, 1),
        17,
        {"step": np.int64(7), "window": np.hanning(16).astype(np.float32)},
    ),
    "complex frames": (
        [_node("STFT", ["x", "step", "", "length"], ["y"], onesided=0)],
        (2, 64, 2),
        17,
        {"step": np.int64(7), **_SHORT},
    ),
    "mel filters": (
        [
            _node("MelWeightMatrix", ["bands", "length", "rate", "low", "high"], ["mel"]),
            _node("MatMul", ["x", "mel"], ["y"]),
        ],
        (4, 33),
        17,
        {
            "bands": np.int64(12),
            "length": np.int64(64),
            "rate": np.int64(16000),
            "low": np.float32(20),
            "high": np.float32(7600),
        },
    ),
    **{
        f"{window} {periodic}": (
            [_node(window, ["size"], ["w"], periodic=periodic), _node("Mul", ["x", "w"], ["y"])],
            (3, 15),
            17,
            {"size": np.int64(15)},
        )
        for window in ("HannWindow", "HammingWindow", "BlackmanWindow")
        for periodic in (0, 1)
    },
}


@pytest.mark.parametrize("name", FILES)
def test_files_compute_what_onnxruntime_makes_of_them(name: str, tmp_path: Path) -> None:
    nodes, shape, opset, constants = FILES[name]
    assert_right_from_file(file_of(tmp_path, nodes, shape, opset, **constants), shape, tmp_path, variants=("fp32",))


def test_a_transform_too_long_for_a_matrix_stays_an_operator(tmp_path: Path) -> None:
    path = file_of(tmp_path, [_node("DFT", ["x"], ["y"], axis=1)], (1, 4096, 1), 17)
    result = edgeconv.export_onnx(path, tmp_path / "out", name="m", formats="onnx")
    assert [node.op_type for node in onnx.load(result.artifacts[0].path).graph.node] == ["DFT"]


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (_node("DFT", ["x"], ["y"], axis=2), r"DFT.*|it transforms axis 2 of the shape \[1, 8, 1\]; correct the axis"),
        (_node("STFT", ["x", "step", "", "length"], ["y"]), "frames of 9 samples, 2 apart, do not fit the signal of 8"),
    ],
    ids=["an axis of parts", "frames longer than the signal"],
)
def test_what_cannot_be_transformed_is_told(node: onnx.NodeProto, told: str, tmp_path: Path) -> None:
    constants = {"step": np.int64(2), "length": np.int64(9)} if node.op_type == "STFT" else {}
    path = file_of(tmp_path, [node], (1, 8, 1), 17, **constants)
    with pytest.raises(CaptureError, match=told):
        edgeconv.export_onnx(path, tmp_path / "out", name="m")


def test_a_complex_operator_without_a_form_is_told_as_complex(tmp_path: Path) -> None:
    def forward(x: Tensor) -> Tensor:
        spectrum = fft.rfft(x)
        result = torch.zeros_like(spectrum)
        result[..., :3] = spectrum[..., :3] * 2
        return fft.irfft(result)

    told = r"zeros_like of complex tensors has no ONNX form.* of real and imaginary parts \(torch\.view_as_real\)"
    with pytest.raises(CaptureError, match=told):
        edgeconv.export(Of(forward), (_SIGNAL,), tmp_path, name="m")
