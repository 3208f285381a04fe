"""Whether a wheel works alone: in a new environment, the self-check, `pip check`, and the quick tests.

    python packaging/check_wheel.py dist/fastreg-0.1.0-cp311-cp311-manylinux_2_34_x86_64.whl
    python packaging/check_wheel.py  # what this Python has installed, extras `test` and `demo` with it

The tests run from a copy, in a folder without fastreg's sources: those that are about the sources are left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("tests", "bench", "pyproject.toml", "constraints.txt")
ABOUT_SOURCES = ("test_layers.py", "test_install.py", "test_aarch64.py", "docs", "bench", "backends/test_cuda_shim.py")
"""In tests/."""


def check_installed(python: Path | str) -> None:
    """Everything that can be asked of the fastreg that this Python has."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, Path(folder) / name)
        ignored = [f"--ignore=tests/{name}" for name in ABOUT_SOURCES]
        for words in (
            ("-c", "import fastreg; print(fastreg.__file__)"),
            ("-m", "pip", "check"),
            ("-m", "fastreg", "doctor"),
            ("-m", "pytest", "-q", "-m", "not slow", *ignored),
        ):
            print("+", *words, flush=True)
            subprocess.run([python, *words], cwd=folder, env=environment, check=True)


def check_wheel(wheel: Path) -> None:
    """The same in an environment that has this wheel, PyTorch and what the tests need."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder, "Scripts" if os.name == "nt" else "bin", "python")
        pip = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
        subprocess.run([*pip, "torch"], check=True)  # first: pinned, where a CPU build may lie
        subprocess.run([*pip, f"{wheel.resolve()}[test,demo]"], check=True)
        check_installed(python)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        for argument in sys.argv[1:]:
            check_wheel(Path(argument))
    else:
        check_installed(sys.executable)
