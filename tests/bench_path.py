"""Puts bench/ on the path: its modules are no package, and its tests stand here."""

import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench"
if str(BENCH) not in sys.path:
    sys.path.insert(0, str(BENCH))
