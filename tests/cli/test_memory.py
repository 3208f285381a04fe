"""A command keeps the memory that it freed."""

import os
import platform
import subprocess
import sys

import pytest

from fastreg.utils.memory import keep_freed_memory

FAULTS = """
import resource, sys, torch
if "keep" in sys.argv:
    from fastreg.utils.memory import keep_freed_memory
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(10_000_000)  # more than the size from which on glibc always maps
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(6):  # until the heap has the room
    faults()
print(faults())
"""


def faults(*words, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, *words], env=environment | variables, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_a_volume_that_is_made_again_needs_no_new_pages():
    assert faults("keep") < 100 < 10_000 < faults()
    assert faults("keep", MALLOC_TOP_PAD_="0") > 10_000  # the user's own settings stay


def test_is_harmless_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_freed_memory()
