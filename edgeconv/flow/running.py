"""Link 4: runs copies of an artifact that return intermediate values (probes), and judges a runtime layer by layer.

A probe must compute the same outputs as the file itself, to the last bit: with more outputs a runtime may fuse less.
Values that change the outputs are left out, by bisection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from edgeconv.core import Array, Artifact, Comparison, Run, Sample, Verdict
from edgeconv.core.named_files import read_named
from edgeconv.core.threads import one_ahead
from edgeconv.core.verdicts import Link, LinkResult
from edgeconv.devices import Device, Sessions, file_inputs
from edgeconv.errors import DeviceError, EdgeconvError
from edgeconv.flow.layer_causes import cause_on_runtime
from edgeconv.parity.running import Judged, LayerCache, ProbedFile, arithmetic_of, open_probed, running_link

_MOST_PROBES = 12  # copies of one file that are run until one computes as the file itself does
_ENOUGH = 1 << 20  # values of one sample: a second one would show nothing new


def judged_running(
    sessions: Sessions,
    device: Device,
    artifact: Artifact,
    samples: Sequence[Sample],
    run: Run,
    rows: Sequence[Comparison],
    derived: Sequence[Sample] = (),
    derived_run: Run | None = None,
    *,
    cache: LayerCache | None = None,
    timeout_s: float,
) -> LinkResult:
    """Judges link `RUNNING` of an artifact on a device.

    A kernel does the same for every sample, and computes many elements of each. So one sample is looked at, the one
    that uses most of its row's bound, and a second one where it has few elements; derived inputs look for what these do
    not reach.

    Args:
        sessions: where the device may be running already.
        device: where.
        artifact: the file.
        samples: of the run.
        run: of the file itself, which passed; the probes must compute the same, to the last bit.
        rows: what the run was judged to be.
        derived: inputs that look for trouble, see `edgeconv.parity.derived`.
        derived_run: of these; where it failed they are left out, and the link's reason says so.
        cache: layers that were judged on other devices already.
        timeout_s: of each probe, seconds.
    """
    try:
        data = read_named(artifact.path, kind=artifact.path.suffix, error=DeviceError)
        file = open_probed(artifact.path, data, arithmetic_of(run.environment), cache)
        probe = _Probe(partial(sessions.run_probe, device, artifact, timeout_s=timeout_s), artifact, file)
        walks = _Walks(artifact, data, file)
        own = [(samples[at], run.outputs[at]) for at in _worst_first(rows, len(samples))]
        others = zip(derived, () if derived_run is None else derived_run.outputs, strict=False)
        why = "" if derived_run is None else derived_run.reason
        # The device computes the next sample while this one is judged.
        for sample, returned, is_own in one_ahead(_returned_values(probe, own, list(others))):
            try:
                walks.add(sample, returned)
            except EdgeconvError as error:
                if is_own:
                    raise
                why = str(error)
    except EdgeconvError as error:
        return LinkResult(Link.RUNNING, Verdict.SKIPPED, reason=str(error))
    link = running_link(walks.judged, walks.cause)
    return replace(link, reason=f"{link.reason}; not all derived inputs were judged: {why}") if why else link


_Expected = Sequence[tuple[Sample, Mapping[str, Array]]]
"""Samples, and the outputs of the file itself, which are expected of its probes."""


def _returned_values(
    probe: _Probe, own: _Expected, derived: _Expected
) -> Iterator[tuple[Sample, _Values | EdgeconvError, bool]]:
    """The values of each sample, or why there are none; and whether the sample is one of the proof's own.

    Raises:
        EdgeconvError: there are none of one of these.
    """
    elements = 0
    for sample, expected in own:
        outputs, values = probe.values(sample, expected)
        elements += sum(array.size for array in values.values())
        yield sample, (outputs, values), True
        if elements > _ENOUGH:
            break
    for sample, expected in derived:
        try:
            yield sample, probe.values(sample, expected), False
        except EdgeconvError as error:
            yield sample, error, False


class _Walks:
    """The judged layers of each sample, by its name, and the cause of the first one that is beyond its bound."""

    def __init__(self, artifact: Artifact, data: bytes, file: ProbedFile) -> None:
        self._artifact, self._data, self._file = artifact, data, file
        self.judged: dict[str, Judged] = {}
        self.cause = ""

    def add(self, sample: Sample, returned: _Values | EdgeconvError) -> None:
        """Judges the values that the runtime returned of a sample.

        Raises:
            EdgeconvError: the one that was returned in their place.
        """
        if isinstance(returned, EdgeconvError):
            raise returned
        outputs, values = returned
        inputs = [array for _, array in file_inputs(self._artifact, sample)]
        walk = self.judged[sample.name] = self._file.judge(inputs, outputs, values)
        beyond = next((layer for layer in walk.layers if not layer.used <= 1), None)
        if beyond is not None and not self.cause:
            self.cause = cause_on_runtime(self._artifact.path, self._data, beyond, inputs, outputs, values)


def _worst_first(rows: Sequence[Comparison], count: int) -> list[int]:
    """Two samples: the one that uses most of its bound, and the first; where these are one, the last."""
    excess = [[sample.excess for sample in row.samples] for row in rows if len(row.samples) == count]
    worst = max(range(count), key=lambda at: max((row[at] for row in excess), default=0.0))
    return list(dict.fromkeys([worst, 0 if worst else count - 1]))


_Values = tuple[tuple[Array, ...], dict[str, Array]]
"""The file's own outputs, and intermediate values by name, in the file's layout."""


class _Probe:
    """Finds the intermediate values that a runtime can return without computing other outputs than for the file."""

    def __init__(self, run: Callable[..., tuple[Array, ...]], artifact: Artifact, file: ProbedFile) -> None:
        self._run, self._artifact, self._file = run, artifact, file
        self._groups = list(file.groups)
        self._probes_left = _MOST_PROBES
        self._loaded: list[str] | None = None  # the values of the copy that the device holds
        self._why = "whatever value it tells, it computes otherwise than without"

    def values(self, sample: Sample, expected: Mapping[str, Array]) -> _Values:
        """The intermediate values of a sample, of as many as change nothing.

        Args:
            sample: the input.
            expected: the outputs of the file itself, by name, in torch's layout.

        Raises:
            DeviceError: no value can be had without changing what is computed.
        """
        unchanged: list[Collection[str]] = []
        run = partial(self._of, sample, expected)
        values = self._widest(self._groups, unchanged, run) if self._groups else run(())
        if values is None:
            raise DeviceError(self._why)
        self._groups = unchanged  # of the next sample, only these are asked for
        return values

    def _widest(
        self,
        groups: Sequence[Collection[str]],
        unchanged: list[Collection[str]],
        run: Callable[[Sequence[Collection[str]]], _Values | None],
    ) -> _Values | None:
        """Adds to the unchanged groups those that change nothing: all, or what is left of either half.

        Returns the values of the last copy that computed as the file does: it has the most.
        """
        if not self._probes_left or not groups:
            return None
        self._probes_left -= 1
        values = run([*unchanged, *groups])
        if values is not None:
            unchanged += groups
            return values
        if len(groups) == 1:
            return None
        first = self._widest(groups[: len(groups) // 2], unchanged, run)
        return self._widest(groups[len(groups) // 2 :], unchanged, run) or first

    def _of(self, sample: Sample, expected: Mapping[str, Array], groups: Sequence[Collection[str]]) -> _Values | None:
        """The values of these groups; None where the outputs beside them are not the file's to the last bit."""
        specs, names = self._artifact.outputs, [name for group in groups for name in group]
        # A file with a state would go on from that of the sample before, and is loaded anew.
        is_held = names == self._loaded and not self._file.remembers
        self._loaded = None
        try:
            probe = None if is_held else self._file.probe(names)
            arrays = self._run(probe, sample, outputs=len(specs) + len(names))
        except DeviceError as error:
            self._why = str(error)
            return None
        self._loaded = names
        own = arrays[: len(specs)]
        for spec, array in zip(specs, own, strict=True):
            if not _is_same(spec.from_file(array), expected[spec.name]):
                return None
        return own, dict(zip(names, arrays[len(specs) :], strict=True))


def _is_same(array: Array, expected: Array) -> bool:
    """Whether both are the same numbers; NaN is NaN. Nearly always they are the same bits, which takes one look."""
    is_real = array.dtype.kind == "f"
    if is_real and array.dtype == expected.dtype and np.array_equal(_bits(array), _bits(expected)):
        return True
    return np.array_equal(array, expected, equal_nan=is_real)


def _bits(array: Array) -> Array:
    return array.view(f"u{array.itemsize}")
