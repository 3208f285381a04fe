"""Where a benchmark ran: processor, versions, commit."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bench import ROOT
from bench.schema import Machine
from fastreg import backends
from fastreg.backends import cpu

PACKAGES = ("fastreg", "torch", "numpy", "triton", "voxelmorph", "neurite", "monai", "fireants", "SimpleITK", "scipy")


def machine(device: str = "cpu") -> Machine:
    """This machine, now."""
    return Machine(
        date=datetime.date.today().isoformat(),
        commit=_commit(),
        device=torch.cuda.get_device_name() if device == "cuda" else processor(),
        cores=os.cpu_count() or 1,
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        instructions=cpu.isa(),
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        load=round(os.getloadavg()[0], 2),
        versions={name: version(name) for name in PACKAGES},
    )


def facts() -> dict[str, Any]:
    """The same as a dict."""
    return asdict(machine())


def version(package: str) -> str:
    """What is installed, or "absent"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def processor() -> str:
    """Its name as the system gives it."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor()) or "CPU"


def name() -> str:
    """For file names: amd-epyc-2cores."""
    return re.sub(r"[^a-z0-9]+", "-", f"{processor()} {os.cpu_count()}cores".lower()).strip("-")


def gpu() -> dict[str, str]:
    """What the figures of this GPU depend on, too."""
    return {
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": str(torch.version.cuda),
        "backends": ", ".join(name + (f" ({why})" if why else "") for name, why in backends.status().items()),
    }


def _said(*command: str) -> str:
    """What a program prints; nothing if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _commit() -> str:
    def git(*arguments: str) -> str:
        return _said("git", "-C", str(ROOT), *arguments)

    # What a run itself writes is no change of the code that it measures.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!docs", ":!bench/results")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
