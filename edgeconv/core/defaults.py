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

INT8_SQNR_DB = 20.0
"""Acceptance threshold of int8 against float64: noise of a hundredth of the signal's energy. Less is a broken file."""
