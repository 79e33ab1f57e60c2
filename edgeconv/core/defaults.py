"""What holds where nobody states otherwise, and limits that several stages heed.

Light: the command line reads them before any stage is imported.
"""

from __future__ import annotations

DEVICE_TIMEOUT_S = 120.0
"""Seconds of a device for one artifact, start and load included; after that it counts as hung."""

LONGEST_TIMEOUT_S = 86_400.0
"""A day: the longest time limit that a recipe may state and a report may hold."""

PROBE_TIMEOUT_S = 60.0
"""Seconds of a device to start and describe itself."""

OPSETS = range(13, 25)
"""Versions of the default ONNX domain that a file can be written in, up to the newest that the tests cover.

From 13 on, QuantizeLinear takes an axis, and so a scale per channel.
"""

BATCH = "batch"
"""The symbol of an open batch that nobody names."""

MOST_JOINED = 4
"""Tensors that XNNPACK of TensorFlow Lite 2.14 joins, or splits one into; more leave its delegate."""

LARGEST_FILE_BYTES = 2**31 - 2**20
"""Offsets of protobuf and of flatbuffers end at 2 GiB; a megabyte is left for everything but the weights."""

MAX_DIMENSION = 2**31 - 1
"""Both file formats hold dimensions as int32 somewhere."""

TOLERANCE = 1e-5
"""Bound of float32 against float64, absolute and relative: some 170 units of float32's last place.

Sums of many terms lose as much; a wrong weight, padding or rounding mode makes far more.
"""

INDEX_AGREEMENT = 0.9
"""Acceptance threshold of an output of indices: the share of its elements that are the reference's.

What noise of a hundredth of the scores' energy leaves of an ArgMax: of six scores that are normal and independent
93 % keep their class at 20 dB, 97.7 % at 30 and 99.3 % at 40; of twenty 90, 96.5 and 98.9 %.
"""

INT8_SQNR_DB = 20.0
"""Acceptance threshold of int8 against float64: noise of a hundredth of the signal's energy. Less is a broken file."""

ENOUGH_JUDGED, MOST_BESIDE = 30, 64
"""Fewer judged inputs say little of others: so many of the calibration are then looked at for themselves, at most."""

SQNR_CONFIDENCE = 0.95
"""Of the bound of an SQNR that inputs which nobody measured have, too: what a search for int8-mixed holds."""

SAYS_NOTHING_DB = 3.0
"""Below this ratio of its variation to its error a channel of an output says nothing: see `edgeconv.core.variation`."""

SAYS_LITTLE_DB = 10.0
"""Below this ratio a channel that passes is told: its error is a third of its own deviation."""
