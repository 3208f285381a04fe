"""A wheel for macOS whose module takes PyTorch's libomp.dylib, not one of its own: two runtimes start threads twice.

python packaging/repair_macos.py WHEEL FOLDER ARCHITECTURES
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path


def repair(wheel: Path, folder: Path, architectures: str) -> None:
    """Points the module at the libomp.dylib in torch/lib beside fastreg/, and checks all else it needs."""
    with tempfile.TemporaryDirectory() as work:
        subprocess.run([sys.executable, "-m", "wheel", "unpack", wheel, "-d", work], check=True)
        (unpacked,) = Path(work).iterdir()
        (module,) = (unpacked / "fastreg").glob("_C*.so")
        needed = subprocess.run(["otool", "-L", module], check=True, capture_output=True, text=True).stdout.split()
        for library in (word for word in needed if word.endswith("/libomp.dylib")):
            subprocess.run(["install_name_tool", "-change", library, "@rpath/libomp.dylib", module], check=True)
        subprocess.run(["install_name_tool", "-add_rpath", "@loader_path/../torch/lib", module], check=True)
        subprocess.run(["codesign", "--force", "--sign", "-", module], check=True)  # the change broke the signature
        subprocess.run([sys.executable, "-m", "wheel", "pack", unpacked, "-d", work], check=True)
        (packed,) = Path(work).glob("*.whl")
        words = ["--require-archs", architectures, "--exclude", "libomp.dylib", "-w", folder, "-v", packed]
        subprocess.run(["delocate-wheel", *words], check=True)


if __name__ == "__main__":
    repair(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
