"""Compiles the CUDA sources as C++ through the headers of this folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
SHIM = Path(__file__).parent
COMPILER = shutil.which(os.environ.get("CXX", "g++"))


def build(target: Path, sources: list[Path], flags: list[str]) -> Path:
    """Compiles every source with `flags`, two at a time, and links them into `target`; AssertionError if one fails."""
    assert COMPILER is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    common = [COMPILER, "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-DFASTREG_CUDA_SHIM"]
    common += ["-I", str(ROOT / "csrc"), "-I", str(SHIM), *flags]

    def compile_one(source: Path) -> Path:
        made = target.parent / f"{source.stem}_{target.stem}.o"
        _run([*common, "-x", "c++", "-c", str(source), "-o", str(made)])
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    _run([COMPILER, *flags, *map(str, objects), "-o", str(target)])
    return target


def kernels() -> list[Path]:
    return sorted((ROOT / "csrc/cuda").glob("*.cu"), key=lambda path: -path.stat().st_size)


def build_module(folder: Path) -> ModuleType:
    """The GPU entry points as a Python module that takes addresses of CPU memory."""
    import pybind11

    name = "cuda_shim"
    flags = ["-O1", "-fno-math-errno", "-shared", "-fvisibility=hidden"]
    flags += ["-I", pybind11.get_include(), "-I", sysconfig.get_path("include")]
    flags += ['-DFASTREG_CUDA_ARCHITECTURES="90,90-virtual"']
    sources = [ROOT / "csrc/bindings/cuda.cpp", SHIM / "module.cpp", *kernels()]
    path = build(folder / f"{name}.so", sources, flags)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"
