"""A layer of another converter's file: what it reads, and what the module computes of that.

Such a file calls its values as it likes, so that they are found by their numbers, as link 3 finds them.
"""

from __future__ import annotations

from pathlib import Path

from edgeconv.capture import whatever_it_brings
from edgeconv.core import Array, Artifact, Sample
from edgeconv.devices import file_inputs
from edgeconv.errors import ParityError
from edgeconv.flow.cut import Layers
from edgeconv.flow.forms import FACTORS, forms_of, on_values, scaled
from edgeconv.flow.source import Source, of_shapes
from edgeconv.rewrite import optimize

_ANOTHER = "name another layer with --layer"


def is_of_other_converter(path: Path) -> bool:
    """Whether a file does not say that edgeconv wrote it.

    Raises:
        EdgeconvError: it cannot be read.
    """
    from edgeconv.parity.writing import read_back

    with whatever_it_brings(path):
        return "variant" not in read_back(path).writer


class BesideModule:
    """The layers of a file beside those of the module that it should be, on a sample and on larger numbers.

    Args:
        artifact: of the file.
        source: the module.
        sample: for the file.

    Raises:
        EdgeconvError: the file or the module cannot be evaluated layer by layer.
    """

    def __init__(self, artifact: Artifact, source: Source, sample: Sample) -> None:
        from edgeconv.parity.writing import Ends, FileLayers, read_back

        model = of_shapes(source, sample).graph()
        forms = forms_of(model, optimize(model.clone()))
        ends = Ends(artifact.inputs, artifact.outputs)
        file = read_back(artifact.path)
        self._artifact = artifact
        self._samples = [scaled(sample, factor) for factor in FACTORS]
        self._layers = [FileLayers(file, forms, on, ends) for on in on_values(forms, sample)]

    def tensor_of(self, name: str) -> str | None:
        """The file's tensor that is, or has to be, what the module calls so; None where there is none."""
        return next(filter(None, (layers.tensor_of(name) for layers in self._layers)), None)

    def is_wrong(self, tensor: str) -> bool:
        """Whether a tensor is none of the module's values on one of the samples."""
        return any(layers.is_wrong(tensor) for layers in self._layers)

    def layer(self, file: Layers, tensor: str) -> tuple[dict[str, Array], Array]:
        """What a layer reads, and what the module computes of that, as the file stores both.

        The larger numbers are taken where the layer is wrong on them alone.

        Raises:
            ParityError: no value of the module tells what it has to be.
        """
        at = next((at for at, layers in enumerate(self._layers) if layers.is_wrong(tensor)), 0)
        layers = self._layers[at]
        expected = layers.expected(tensor)
        if expected is None or not file.is_real(tensor):
            what = f"no value of the module tells what {tensor} has to be"
            raise ParityError(what, where=self._artifact.path.name, hint=_ANOTHER)
        arrays = [array for _, array in file_inputs(self._artifact, self._samples[at])]
        inputs = dict(zip(file.inputs, arrays, strict=True))
        held = {name: array for name, array in layers.holding.items() if name != tensor and file.is_real(name)}
        names = file.operands(tensor, held)
        operands = {name: file.stored(name, held[name]) if name in held else inputs[name] for name in names}
        stored = file.stored(tensor, expected)
        return operands, stored if stored.dtype.kind in "iu" else expected
