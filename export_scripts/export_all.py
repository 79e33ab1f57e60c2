"""Exports recipes and proves them: what `make export` runs.

    python export_scripts/export_all.py --out artifacts models/dsconv_3x64_224.toml models/digits_dsc.toml

Exits with 1 when a report says fail, and with 2 when a recipe or its surroundings are at fault.
"""

from __future__ import annotations

import sys

from edgeconv.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "export")
    main()
