"""The benchmarks are beside the package, and not installed with it."""

from __future__ import annotations

import sys
from pathlib import Path

# At the end, so that the installed package is the one that is tested.
sys.path.append(str(Path(__file__).parents[2]))
