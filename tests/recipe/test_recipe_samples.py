"""Parity inputs: noise, images through the declared preprocessing, rows of arrays."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeconv.errors import RecipeError
from edgeconv.recipe import load_recipe, parity_samples

HEAD = """
name = "x"
[model]
factory = "torch.nn:ReLU"
[[inputs]]
name = "input"
shape = {shape}
dtype = "{dtype}"
"""


@pytest.fixture
def recipe_of(tmp_path: Path):
    def recipe_of(tail: str, *, shape: str = "[1, 3, 4, 6]", dtype: str = "float32"):
        path = tmp_path / "recipe.toml"
        path.write_text(HEAD.format(shape=shape, dtype=dtype) + tail)
        return load_recipe(path)

    return recipe_of


def refused(recipe, *parts: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parity_samples(recipe)
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.hint
    assert str(caught.value).isprintable()
    assert "pickle" not in str(caught.value)


def gradient(height: int, width: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([rows * 7, columns * 5, rows + columns], axis=-1).astype(np.uint8))


def declared(height: int, width: int) -> bytes:
    """A PNG of some hundred bytes that declares so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_noise_is_seeded_scaled_and_named(recipe_of) -> None:
    tail = "[[parity.random]]\nseed = 4\ncount = 2\n[[parity.random]]\nseed = 4\nscale = 10.0\n"
    samples = parity_samples(recipe_of(tail))
    assert [sample.name for sample in samples] == ["random-4-scale-1[0]", "random-4-scale-1[1]", "random-4-scale-10"]
    assert [sample.scale for sample in samples] == [1.0, 1.0, 10.0]
    first, second, tenfold = (sample.inputs["input"] for sample in samples)
    assert first.dtype == np.float32
    assert first.shape == (1, 3, 4, 6)
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(tenfold, first * 10, rtol=1e-6)
    again = parity_samples(recipe_of(tail))
    assert all(np.array_equal(a.inputs["input"], b.inputs["input"]) for a, b in zip(samples, again, strict=True))


def test_a_recipe_without_inputs_is_judged_on_noise(recipe_of) -> None:
    (sample,) = parity_samples(recipe_of(""))
    assert sample.name == "random-0-scale-1"
    assert 0.5 < sample.inputs["input"].std() < 1.5


@pytest.mark.parametrize(("dtype", "limit"), [("uint8", 200), ("int8", 127), ("int64", 200), ("bool", 2)])
def test_noise_of_integers_stays_in_range(recipe_of, dtype: str, limit: int) -> None:
    (sample,) = parity_samples(recipe_of("[[parity.random]]\nscale = 200.0", dtype=dtype, shape="[1, 1000]"))
    values = sample.inputs["input"]
    assert values.dtype == dtype
    assert values.min() >= 0
    assert values.max() < limit
    assert len(np.unique(values)) > limit // 2


def test_an_image_is_preprocessed_as_declared(recipe_of, tmp_path: Path) -> None:
    image = gradient(4, 6)
    image.save(tmp_path / "a.png")
    files = '[[parity.images]]\nfiles = ["a.png", "a.png"]\nlabels = [7, 2]\n[preprocessing]\n'
    samples = parity_samples(recipe_of(files + 'colour = "bgr"\nmean = [0.5, 0.4, 0.3]\nstd = [0.2, 0.3, 0.4]'))
    assert [(sample.name, sample.label, sample.scale) for sample in samples] == [("a.png", 7, 1.0), ("a.png#2", 2, 1.0)]
    pixels = np.asarray(image, dtype=np.float64)[..., ::-1] / 255
    expected = ((pixels - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]).transpose(2, 0, 1)[None].astype(np.float32)
    assert samples[0].inputs["input"].dtype == np.float32
    np.testing.assert_array_equal(samples[0].inputs["input"], expected)


def test_resize_and_crop_keep_the_shape_and_the_middle(recipe_of, tmp_path: Path) -> None:
    gradient(20, 40).save(tmp_path / "wide.png")
    tail = '[[parity.images]]\nfiles = ["wide.png"]\n[preprocessing]\nrescale = 1.0\ninterpolation = "{}"\n'
    shorter = parity_samples(recipe_of(tail.format("nearest") + "resize = 10\ncenter_crop = [4, 6]"))[0].inputs["input"]
    small = np.asarray(gradient(20, 40).resize((20, 10), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(shorter[0].transpose(1, 2, 0), small[3:7, 7:13])
    exact = parity_samples(recipe_of(tail.format("bicubic") + "resize = [4, 6]"))[0].inputs["input"]
    np.testing.assert_array_equal(
        exact[0].transpose(1, 2, 0), np.asarray(gradient(20, 40).resize((6, 4), Image.Resampling.BICUBIC))
    )


def test_gray_transparent_palette_and_turned_images(recipe_of, tmp_path: Path) -> None:
    image = gradient(4, 6)
    image.convert("RGBA").save(tmp_path / "alpha.png")
    image.convert("P").save(tmp_path / "palette.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    files = '[[parity.images]]\nfiles = ["alpha.png", "turned.png"]\n[preprocessing]\nrescale = 1.0\n'
    for sample in parity_samples(recipe_of(files)):
        np.testing.assert_array_equal(sample.inputs["input"][0].transpose(1, 2, 0), np.asarray(image))
    files = '[[parity.images]]\nfiles = ["alpha.png", "palette.png"]\n[preprocessing]\ncolour = "gray"\nrescale = 1.0\n'
    gray = parity_samples(recipe_of(files, shape="[1, 1, 4, 6]"))[0].inputs["input"]
    np.testing.assert_array_equal(gray[0, 0], np.asarray(image.convert("L")))


def test_images_that_cannot_be_used(recipe_of, tmp_path: Path) -> None:
    gradient(4, 6).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "small.png").read_bytes()[:60])
    Image.fromarray(np.full((4, 6), 40000, np.uint16)).save(tmp_path / "deep.png")
    gradient(4, 200).save(tmp_path / "wide.png")
    (tmp_path / "bomb.png").write_bytes(declared(9000, 9000))
    (tmp_path / "flood.png").write_bytes(declared(90000, 90000))
    gradient(4, 6).save(tmp_path / "script.eps")
    (tmp_path / "folder.png").mkdir()
    tail = '[[parity.images]]\nfiles = ["{}"]\n[preprocessing]\n'
    for name, options, expected in [
        ("text.png", "", "text.png is no readable image"),
        ("cut.png", "", "cut.png is no readable image"),
        ("gone.png", "", "there is no file 'gone.png'"),
        ("deep.png", "", "more than 8 bits"),
        ("small.png", "center_crop = 5", "before a crop of 5x5"),
        ("small.png", 'colour = "gray"', "becomes float32 (1, 1, 4, 6)"),
        ("small.png", "rescale = 1e300", "becomes NaN or Inf in float32"),
        ("small.png", "std = 1e-300", "becomes NaN or Inf in float32"),
        ("wide.png", "resize = 16384", "wide.png would be resized to 16384x819200 pixels, more than 67108864"),
        ("bomb.png", "", "bomb.png has 9000x9000 pixels, more than 67108864; use a smaller image"),
        ("flood.png", "", "flood.png has more than 67108864 pixels"),
        ("script.eps", "", "script.eps is no readable image; use one of BMP, GIF"),
        ("folder.png", "", "'folder.png' is a folder"),
        ("small.png", "resize = 8", "becomes float32 (1, 3, 8, 12)"),
        ("package:no_such_package_/a.png", "", "the package 'no_such_package_' is not installed"),
    ]:
        refused(recipe_of(tail.format(name) + options), expected, "parity.images[0].files[0]")


def test_rows_of_an_array_become_samples_with_labels(recipe_of, tmp_path: Path) -> None:
    x = np.arange(5 * 72, dtype=np.float64).reshape(5, 3, 4, 6)
    np.savez(tmp_path / "held.npz", x=x, y=np.array([4, 3, 2, 1, 0]))
    samples = parity_samples(recipe_of('[[parity.arrays]]\nfile = "held.npz"\nkey = "x"\nlabels = "y"\nscale = 50'))
    assert [sample.name for sample in samples] == [f"held[{index}]" for index in range(5)]
    assert [sample.label for sample in samples] == [4, 3, 2, 1, 0]
    assert {sample.scale for sample in samples} == {50.0}
    for index, sample in enumerate(samples):
        assert sample.inputs["input"].dtype == np.float32
        np.testing.assert_array_equal(sample.inputs["input"], x[index : index + 1])


def test_an_array_of_the_whole_batch_is_one_sample(recipe_of, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 4, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    tail = '[[parity.arrays]]\nfile = "x.npy"'
    (whole,) = parity_samples(recipe_of(tail, shape="[4, 3, 4, 6]"))
    assert whole.name == "x"
    np.testing.assert_array_equal(whole.inputs["input"], x)
    halves = parity_samples(recipe_of(tail, shape="[2, 3, 4, 6]"))
    assert [sample.inputs["input"].shape for sample in halves] == [(2, 3, 4, 6)] * 2


def test_several_inputs_take_the_arrays_of_their_names(recipe_of, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", input=np.ones((2, 3, 4, 6)), mask=np.array([[True], [False]]))
    recipe = recipe_of('[[inputs]]\nname = "mask"\nshape = [1, 1]\ndtype = "bool"\n[[parity.arrays]]\nfile = "two.npz"')
    assert [bool(sample.inputs["mask"][0, 0]) for sample in parity_samples(recipe)] == [True, False]
    recipe = recipe_of('[[inputs]]\nname = "mask"\nshape = [2, 1]\ndtype = "bool"\n[[parity.arrays]]\nfile = "two.npz"')
    refused(recipe, "two.npz holds [1, 2] samples")


def test_arrays_that_do_not_fit(recipe_of, tmp_path: Path) -> None:
    good = np.zeros((2, 3, 4, 6), np.float32)
    np.save(tmp_path / "other.npy", np.zeros((2, 3, 4, 5), np.float32))
    np.save(tmp_path / "none.npy", good[:0])
    np.save(tmp_path / "last.npy", good.transpose(0, 2, 3, 1))
    np.save(tmp_path / "one.npy", good[0])
    np.save(tmp_path / "one_last.npy", good[0].transpose(1, 2, 0))
    np.save(tmp_path / "words.npy", np.full((1, 3, 4, 6), "a"))
    np.save(tmp_path / "nan.npy", np.where(np.arange(72).reshape(1, 3, 4, 6) == 3, np.nan, 0))
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 no zip")
    np.savez(tmp_path / "objects.npz", input=np.array([None]))
    (tmp_path / "text.npz").write_text("1, 2, 3")
    (tmp_path / "text.npy").write_text("1, 2, 3")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "short.npy").write_bytes((tmp_path / "other.npy").read_bytes()[:200])
    (tmp_path / "header.npy").write_bytes((tmp_path / "other.npy").read_bytes().replace(b"}", b"("))
    (tmp_path / "folder.npy").mkdir()
    with zipfile.ZipFile(tmp_path / "bytes.npz", "w") as archive:
        archive.writestr("input", b"no array")
        archive.write(tmp_path / "other.npy", "other.npy")
    np.save(tmp_path / "big.npy", np.full((1, 3, 4, 6), 1e300))
    np.savez(
        tmp_path / "held.npz",
        x=good,
        y=np.array([0.5, 1.5]),
        short=np.array([1]),
        minus=np.array([3, -1]),
        huge=np.array([1, 2**63], np.uint64),
        flags=np.array([True, False]),
    )
    for name, keys, expected in [
        ("other.npy", "", "holds (2, 3, 4, 5), which does not fit the input 'input' of (1, 3, 4, 6)"),
        ("none.npy", "", "holds (0, 3, 4, 6)"),
        ("last.npy", "", "its channels are last: give numpy.moveaxis(array, -1, 1)"),
        ("one.npy", "", "it has no axis for the batch: give array[None]"),
        ("one_last.npy", "", "and it has no axis for the batch: give numpy.moveaxis(array, -1, 0)[None]"),
        ("words.npy", "", "takes float32"),
        ("nan.npy", "", "holds NaN or Inf"),
        ("object.npy", "", "object.npy holds Python objects, which are not read; save arrays of numbers"),
        ("objects.npz", "", "objects.npz holds Python objects"),
        ("text.npz", "", "text.npz is no readable NumPy file: it does not begin like a .npz"),
        ("text.npy", "", "text.npy is no readable NumPy file: it does not begin like a .npy"),
        ("empty.npy", "", "no readable NumPy file"),
        ("header.npy", "", "no readable NumPy file"),
        ("short.npy", "", "no readable NumPy file"),
        ("bytes.npz", "", "has no array 'input', but: other"),
        ("big.npy", "", "big.npy holds values of float64 that float32 cannot hold"),
        ("held.npz", 'key = "x"\nlabels = "minus"', "'minus' in held.npz holds -1, which is no class index"),
        ("held.npz", 'key = "x"\nlabels = "huge"', "holds 9223372036854775808, which is no class index"),
        ("held.npz", 'key = "x"\nlabels = "flags"', "'flags' in held.npz is bool"),
        ("folder.npy", "", "'folder.npy' is a folder"),
        ("cut.npz", "", "no readable NumPy file"),
        ("gone.npy", "", "there is no file 'gone.npy'"),
        ("held.npz", "", "has no array 'input', but: x, y, short, minus"),
        ("held.npz", 'key = "x"\nlabels = "z"', "has no array 'z'"),
        ("held.npz", 'key = "x"\nlabels = "y"', "'y' in held.npz is float64"),
        ("held.npz", 'key = "x"\nlabels = "short"', "one integer class index per sample: (2,)"),
    ]:
        refused(recipe_of(f'[[parity.arrays]]\nfile = "{name}"\n{keys}'), expected, "parity.arrays[0]")


@pytest.mark.filterwarnings("error")
def test_no_sample_is_infinite(recipe_of) -> None:
    refused(recipe_of("[[parity.random]]\nscale = 1e300"), "parity.random[0]: scale 1e+300 gives Inf in float32")
    refused(recipe_of("[[parity.random]]\nscale = 1e308", dtype="float64"), "gives Inf in float64; lower scale")
    tail = "[[parity.random]]\n[[parity.random]]\nscale = 1e5"
    refused(recipe_of(tail, dtype="float16"), "parity.random[1]: scale 100000 gives Inf in float16")
    (sample,) = parity_samples(recipe_of("[[parity.random]]\nscale = 1e5"))
    assert np.isfinite(sample.inputs["input"]).all()


def test_integers_never_wrap(recipe_of, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1, 300]]))
    tail = '[[parity.arrays]]\nfile = "x.npy"'
    refused(recipe_of(tail, shape="[1, 2]", dtype="int8"), "x.npy holds values of int64 that int8 cannot hold")
    (sample,) = parity_samples(recipe_of(tail, shape="[1, 2]", dtype="int16"))
    assert sample.inputs["input"].tolist() == [[1, 300]]


def test_an_archive_of_terabytes_is_not_unpacked(recipe_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgeconv.recipe.arrays as arrays

    np.savez_compressed(tmp_path / "x.npz", input=np.zeros((1000, 3, 4, 6), np.float32))
    recipe = recipe_of('[[parity.arrays]]\nfile = "x.npz"')
    assert len(parity_samples(recipe)) == 1000
    monkeypatch.setattr(arrays, "MAX_FILE_BYTES", 2**18)
    refused(recipe, "x.npz holds more than", "save fewer samples")
    with zipfile.ZipFile(tmp_path / "x.npz") as archive:
        (tmp_path / "x.npy").write_bytes(archive.read("input.npy"))
    refused(recipe_of('[[parity.arrays]]\nfile = "x.npy"'), "x.npy holds more than")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_an_array_that_is_a_hole_is_not_read(suffix: str, recipe_of, tmp_path: Path) -> None:
    """3 GiB that take nothing on the disk, and would take all of the memory."""
    header = io.BytesIO()
    rows = 3 * 2**30 // (3 * 4 * 6 * 4)
    layout = {"descr": "<f4", "fortran_order": False, "shape": (rows, 3, 4, 6)}
    np.lib.format.write_array_header_1_0(header, layout)
    size = len(header.getvalue()) + rows * 3 * 4 * 6 * 4
    with (tmp_path / "x.npy").open("wb") as file:
        file.write(header.getvalue())
        file.truncate(size)
    if suffix == "npz":
        entry = zipfile.ZipInfo("input.npy")
        with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
            archive.writestr(entry, header.getvalue())
            entry.file_size = size  # as the directory of the archive, written last, declares
    refused(recipe_of(f'[[parity.arrays]]\nfile = "x.{suffix}"'), f"x.{suffix} holds more than 2 GiB")


def test_photographs_of_cameras_that_hold_two_frames(recipe_of, tmp_path: Path) -> None:
    gradient(4, 6).save(tmp_path / "two.jpg", format="MPO", save_all=True, append_images=[gradient(2, 2)])
    (sample,) = parity_samples(recipe_of('[[parity.images]]\nfiles = ["two.jpg"]\n[preprocessing]'))
    assert sample.inputs["input"].shape == (1, 3, 4, 6)


def test_a_data_file_of_an_installed_package_is_found(recipe_of) -> None:
    pytest.importorskip("skimage", reason="photographs come with scikit-image (extra zoo)")
    tail = '[[parity.images]]\nfiles = ["package:skimage/data/coffee.png"]\n[preprocessing]\nresize = [4, 6]'
    (sample,) = parity_samples(recipe_of(tail))
    assert sample.name == "coffee.png"
    assert 0.05 < sample.inputs["input"].std() < 0.5
