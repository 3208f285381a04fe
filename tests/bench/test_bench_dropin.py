"""Other libraries' tests with fastreg in place of their ops: on a library and a test that stand in."""

import subprocess
import sys
from pathlib import Path

LIBRARY = """
class LocalNormalizedCrossCorrelationLoss:
    def __init__(self, spatial_dims=3, kernel_size=3, kernel_type="rectangular", *rest):
        self.kernel_type = kernel_type
    def __call__(self, pred, target):
        return "own"
"""
TEST = """
import torch
from fireants.losses.cc import LocalNormalizedCrossCorrelationLoss as Loss

def test_it_is_swapped():
    assert torch.allclose(Loss()(*[torch.rand(1, 1, 5, 6, 7)] * 2), torch.tensor(-1.0), atol=0.1)

def test_what_is_left_to_the_library_is_its_own():
    images = [torch.rand(1, 1, 5, 6, 7)] * 2
    assert Loss(3, 5, "gaussian")(*images) == "own"
"""


def test_swapped_and_own(tmp_path):
    folder = tmp_path / "fireants" / "losses"
    folder.mkdir(parents=True)
    (folder / "cc.py").write_text(LIBRARY)
    (tmp_path / "test_theirs.py").write_text(TEST)
    root = Path(__file__).parents[2]
    printed = []
    for own in ([], ["--own"]):
        command = [sys.executable, "-m", "bench", "dropin-tests", "fireants", str(tmp_path / "test_theirs.py"), *own]
        environment = {"PYTHONPATH": f"{tmp_path}:{root}", "PATH": "/usr/bin:/bin"}
        printed.append(subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True).stdout)
    assert "2 passed" in printed[0] and "1 failed, 1 passed" in printed[1], printed
