"""What nvcc makes of the GPU kernels: registers, spills, shared memory, instructions a voxel. No GPU is needed.

    python -m bench sass                      # prints the table; fails where a kernel spills
    python -m bench sass --write docs/kernels.md

Instructions come from cuobjdump (CUDA toolkit, or the one inside the Triton wheel); without it they are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from bench import ROOT

SPILLS_ALLOWED = 48
"""Bytes a thread may spill: invariants of a loop, mostly."""

SPILLS_ALLOWED_EXTRAS = 256
"""The same where masks, maps and uncommon definitions are served, for float64, and for LNCC's first pass on sm_80: 512
threads have 128 registers each there too, and nvcc makes less of them."""

FLAGS = ["-std=c++17", "-O3", "--prec-div=false", "-Xptxas", "-v", f"-I{ROOT / 'csrc'}"]

# Threads of a block over voxels of its tile: what a thread's instructions a plane mean for a voxel.
MARCH = {"lncc_forward_fast_kernel": 512 / (120 * 24), "lncc_backward_fast_kernel": 512 / (120 * 24)}
# Voxels of a thread; its instructions are counted with all their branches, those of borders too.
PLANES = {"warp_forward_near_kernel": 4, "warp_backward_near_kernel": 2, "warp_backward_near_kernel void": 4}


@dataclass(frozen=True)
class Row:
    """One kernel on one architecture."""

    kernel: str
    architecture: str
    registers: int
    spilled: int
    """Bytes a thread stores and loads again for want of registers."""
    shared: int
    """Bytes known to the compiler; the marches ask for theirs at the launch."""
    instructions: int | None = None
    per_voxel: float | None = None

    def spills(self) -> bool:
        """Whether it spills more than is allowed."""
        extras = re.match(r"lncc_forward_fast_kernel<.*false>|.*_any_kernel<", self.kernel) or (
            self.architecture == "80" and self.kernel.startswith("lncc_forward_fast_kernel")
        )
        return self.spilled > (SPILLS_ALLOWED_EXTRAS if extras else SPILLS_ALLOWED)


def compile_all(folder: Path, architectures: list[str], names: list[str] | None = None) -> list[Row]:
    """Compiles csrc/cuda/*.cu (or those named) into `folder`; RuntimeError with nvcc's words if one does not."""
    sources = [path for path in sorted((ROOT / "csrc/cuda").glob("*.cu")) if names is None or path.stem in names]
    jobs = [(source, architecture) for architecture in architectures for source in sources]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda job: _compile(folder, *job), jobs)
        return sorted((row for rows in found for row in rows), key=lambda row: (row.architecture, row.kernel))


def _compile(folder: Path, source: Path, architecture: str) -> list[Row]:
    cubin = folder / f"{source.stem}_{architecture}.cubin"
    command = ["nvcc", *FLAGS, f"-arch=sm_{architecture}", "-cubin", str(source), "-o", str(cubin)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    code = _sass(cubin)
    rows = []
    pattern = (
        r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) reg([^\n]*)"
    )
    for mangled, stores, loads, registers, rest in re.findall(pattern, done.stderr, re.S):
        kernel = _name(mangled)
        shared = re.search(r"(\d+) bytes smem", rest)
        lines = code.get(mangled)
        rows.append(
            Row(
                kernel,
                architecture,
                int(registers),
                max(int(stores), int(loads)),
                int(shared.group(1)) if shared else 0,
                len(lines) if lines else None,
                _per_voxel(kernel, architecture, lines) if lines else None,
            )
        )
    return rows


def _name(mangled: str) -> str:
    """warp_forward_near_kernel<float, zeros, false>"""
    full = subprocess.run(["c++filt", mangled], capture_output=True, text=True).stdout.strip()
    full = full.replace("fastreg::", "").replace("cuda::", "").replace("(anonymous namespace)::", "")
    for number, padding in enumerate(("zeros", "border", "reflection")):
        full = full.replace(f"(Padding){number}", padding)
    for number, kind in enumerate(("mind", "ssc")):
        full = full.replace(f"(MindKind){number}", kind)
    return re.sub(r"\(.*$", "", full.removeprefix("void ")).replace("unsigned long long", "fixed")


def _sass(cubin: Path) -> dict[str, list[tuple[int, str]]]:
    """For every kernel its instructions: address and text."""
    tool = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if tool is None and triton is not None and triton.origin is not None:
        inside = Path(triton.origin).parent / "backends/nvidia/bin/cuobjdump"
        tool = str(inside) if inside.exists() else None
    if tool is None:
        return {}
    text = subprocess.run([tool, "-sass", str(cubin)], capture_output=True, text=True, check=True).stdout
    kernels = {}
    for part in text.split("Function : ")[1:]:
        lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]+);", part)
        lines = [(int(address, 16), words.strip()) for address, words in lines]
        kernels[part.split()[0]] = [line for line in lines if line[1] != "NOP"]
    return kernels


def _per_voxel(kernel: str, architecture: str, lines: list[tuple[int, str]]) -> float | None:
    family = kernel.split("<")[0]
    if family in MARCH and int(architecture) < 100:  # later targets lay the loop out in pieces that this cannot follow
        return _longest_route(lines) * MARCH[family]
    if family in PLANES:
        return len(lines) / PLANES.get(f"{family} void" if ", void" in kernel else family, 1)
    return None


def _longest_route(lines: list[tuple[int, str]]) -> int:
    """Instructions of the longest way through the loop over planes, for float32 in rows aligned to four voxels.

    The loop is the widest that holds a barrier. Blocks that load other layouts are left out.
    """
    jumps = {address: _target(words) for address, words in lines}
    loops = [
        (target, address)
        for address, target in jumps.items()
        if target is not None
        and target < address
        and any(target <= at <= address and "BAR.SYNC" in words for at, words in lines)
    ]
    head, tail = max(loops, key=lambda loop: loop[1] - loop[0])
    body = [(at, words) for at, words in lines if head <= at <= tail]
    starts = {head} | {target for target in jumps.values() if target is not None and head <= target <= tail}
    starts |= {after for (at, words), (after, _) in pairwise(body) if _target(words) is not None}
    blocks: list[list[tuple[int, str]]] = []
    for at, words in body:
        if at in starts:
            blocks.append([])
        blocks[-1].append((at, words))
    best = {head: 0}
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        begin = block[0][0]
        if begin not in best or _other_layout(block):
            continue
        length = best[begin] + len(block)
        target = _target(block[-1][1])
        follows = [target] if target is not None and target > begin else []
        if after is not None and not re.match(r"(BRA|EXIT|RET)", block[-1][1]):
            follows.append(after[0][0])
        if block[-1][0] == tail:
            return length
        for place in follows:
            best[place] = max(best.get(place, 0), length)
    return max(best.values())


def _target(words: str) -> int | None:
    found = re.search(r"\bBRA\S*\s+(?:.*,\s*)?`?\(?(0x[0-9a-f]+)", words)
    return int(found.group(1), 16) if found else None


def _other_layout(block: Iterable[tuple[int, str]]) -> bool:
    """Half precision, float64, or eight voxels one by one."""
    words = [text for _, text in block]
    scalar = sum(1 for text in words if re.search(r"\bLDG\.E(\.CONSTANT)? ", text))
    return scalar >= 8 or any(re.search(r"\bLDG\.E\.(U16|64)", text) for text in words)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| kernel | sm | registers | spilled, B | shared, B (static) | SASS | SASS a voxel |", "| --- " * 7 + "|"]
    for row in rows:
        code = "" if row.instructions is None else str(row.instructions)
        voxel = "" if row.per_voxel is None else f"{row.per_voxel:.0f}"
        lines.append(
            f"| `{row.kernel}` | {row.architecture} | {row.registers} | {row.spilled} | {row.shared} "
            f"| {code} | {voxel} |"
        )
    return "\n".join(lines)


def digest(rows: list[Row]) -> str:
    """The float32 kernels that do the work, an architecture a column; of the rest the largest figures."""
    architectures = sorted({row.architecture for row in rows}, key=int)
    wanted = r"_near_kernel<float|_fast_kernel<\d, \d(, true)?>|^smoothness_forward_kernel<float"
    wanted += r"|^mind_(forward|backward|backward_slopes)_kernel<.*3>, float>|^correlate_\w+_kernel<\w+, 1, float"
    main = [row for row in rows if re.search(wanted, row.kernel)]
    lines = [
        "Registers / bytes spilled / SASS instructions a voxel (where counted).",
        "",
        "| kernel | " + " | ".join(f"sm_{a}" for a in architectures) + " |",
        "| --- " * (1 + len(architectures)) + "|",
    ]
    for kernel in sorted({row.kernel for row in main}):
        cells = []
        for architecture in architectures:
            row = next(r for r in main if r.kernel == kernel and r.architecture == architecture)
            voxel = "" if row.per_voxel is None else f" / {row.per_voxel:.0f}"
            cells.append(f"{row.registers} / {row.spilled}{voxel}")
        lines.append(f"| `{kernel}` | " + " | ".join(cells) + " |")
    cells = []
    for architecture in architectures:
        rest = [row for row in rows if row not in main and row.architecture == architecture]
        cells.append(f"{max(row.registers for row in rest)} / {max(row.spilled for row in rest)}")
    count = len({row.kernel for row in rows}) - len({row.kernel for row in main})
    lines.append(f"| the other {count}, at most | " + " | ".join(cells) + " |")
    return "\n".join(lines)


MARKS = "<!-- table: python -m bench sass --write docs/kernels.md -->", "<!-- end of table -->"


def main(words: Sequence[str] | None = None) -> None:
    """Compiles, prints or writes the table, and fails where something spills."""
    parser = argparse.ArgumentParser(
        prog="python -m bench sass", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--architectures", default="80,90,100,120")
    parser.add_argument("--write", type=Path, help="Markdown file whose table is replaced by a digest")
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        rows = compile_all(Path(folder), options.architectures.split(","))
    if options.write is None:
        print(table(rows))
    else:
        before, rest = options.write.read_text().split(MARKS[0])
        options.write.write_text(f"{before}{MARKS[0]}\n\n{digest(rows)}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}")
    spilling = [row for row in rows if row.spills()]
    if spilling:
        sys.exit(f"too much spilled:\n{table(spilling)}")


if __name__ == "__main__":
    main()
