"""What an artifact costs: bytes, operators, latency, memory. Measured, and never estimated.

Files: `BenchFile`, `find_files`, `read_file`.
Measuring on devices: `bench`, `Effort`, `BenchRow`.
Numbers: `Latency`, `summary_of`, `median_ratio`, `peak_memory_bytes`.
"""

from __future__ import annotations

from edgeconv.bench._files import BenchFile, find_files, read_file
from edgeconv.bench._measure import BenchRow, Effort, Latency, bench, median_ratio, peak_memory_bytes, summary_of

__all__ = [
    "BenchFile",
    "BenchRow",
    "Effort",
    "Latency",
    "bench",
    "find_files",
    "median_ratio",
    "peak_memory_bytes",
    "read_file",
    "summary_of",
]
