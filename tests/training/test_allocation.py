import subprocess
import sys

import pytest

from fastreg.utils.allocation import keep_freed_memory

FAULTS = """
import resource, sys, torch
from fastreg.utils.allocation import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else True
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(40_000_000)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_kept():
    """In a process of its own, which the setting is of."""
    faults = {}
    for what in ("keep", "leave"):
        done = subprocess.run([sys.executable, "-c", FAULTS, what], capture_output=True, text=True, check=True)
        kept, count = done.stdout.split()
        assert kept == "True"
        faults[what] = int(count)
    assert faults["keep"] < 10 < faults["leave"]


def test_elsewhere_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert not keep_freed_memory()
