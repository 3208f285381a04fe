"""Imports point down only; see CONTRIBUTING.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A module may import from the rows below its own, and from modules of its own row that are named before it.
ROWS = [
    ["cli", "__main__"],
    ["compat"],
    ["registration", "evaluation", "train", "batch", "template"],
    ["objective", "synthesis", "phantom", "plots", "deform", "affine", "cascade"],
    ["checkpoint", "transforms", "metrics", "segmentation", "data", "images", "losses", "matching", "model", "cohorts"],
    ["fields", "unfold"],
    ["ops"],
    ["backends"],
    ["kernels", "_C"],
    ["devices", "config", "types", "files", "png"],
]
RANK = {name: row for row, names in enumerate(ROWS) for name in names}


def modules() -> list[Path]:
    return sorted((ROOT / "fastreg").rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(ROOT / "fastreg").parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The parts of fastreg that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "fastreg" else [f"fastreg.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("fastreg.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    mine = layer(path)
    if mine == "__init__":
        return
    assert mine in RANK, f"{mine} has no row in this test: say where it stands"
    upward = {name for name in imported(path) if name in RANK and RANK[name] < RANK[mine]}
    assert not upward, f"{path.name} imports {upward} from above"


def test_only_the_triton_backend_imports_kernels():
    users = {path.name for path in modules() if "kernels" in imported(path)}
    assert users <= {"triton.py"}


def test_nothing_imports_tests_or_bench():
    for path in [*modules(), *(ROOT / "kernels").glob("*.py")]:
        assert "import bench" not in path.read_text() and "import tests" not in path.read_text()


def test_import_is_light():
    """`import fastreg` and the command line's help need neither torch nor what the commands need."""
    code = (
        "import sys, fastreg, fastreg.cli; fastreg.cli.build(); "
        "print([m for m in ('torch', 'nibabel', 'triton', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
