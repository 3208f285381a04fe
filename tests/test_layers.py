"""Imports point down only; see CONTRIBUTING.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A file imports from its own room and from rooms of the rows below: never sideways, never up.
ROWS = [
    ["cli"],
    ["compat"],
    ["training"],
    ["registration", "plots"],
    ["evaluation", "data"],
    ["nn", "io"],
    ["geometry"],
    ["ops"],
    ["backends"],
    ["kernels", "_C"],
    ["types", "utils", "_version"],
]
RANK = {name: row for row, names in enumerate(ROWS) for name in names}
FILES = sorted([*(ROOT / "fastreg").rglob("*.py"), *(ROOT / "kernels").glob("*.py")])


def room(path: Path) -> str:
    """The room of a file, or of a module by its parts: fastreg/io/images.py is in io, kernels/warp.py in kernels."""
    inside = path.relative_to(ROOT).with_suffix("").parts
    return "cli" if inside[1:] == ("__main__",) else inside[1] if inside[0] == "fastreg" else inside[0]


def imported(path: Path) -> list[list[str]]:
    """The parts of every fastreg module and name that a file imports, at its top or inside a function."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:  # .name is of the same room
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return [name.split(".")[1:] for name in found if name.startswith("fastreg.")]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    mine = room(path)
    if mine == "__init__":
        return  # the face of the package: its names are those of __init__.pyi
    assert mine in RANK, f"{mine} has no row in this test: say where it stands"
    for module in imported(path):
        theirs = module[0]
        assert theirs in RANK, f"{path.name} imports {theirs} from the face of the package: say which room"
        assert theirs == mine or RANK[theirs] > RANK[mine], f"{path.name} imports {theirs}, which is not below {mine}"
        private = [part for part in module[1:] if part.startswith("_") and not part.startswith("__")]
        assert theirs == mine or not private, f"{path.name} imports {'.'.join(module)}, which is private to {theirs}"


def test_no_circles():
    """Inside a room too: no file imports itself through others, whatever its imports' place."""
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}
    names = {path: name if name.startswith("fastreg") else f"fastreg.{name}" for path, name in names.items()}
    files = {name.removesuffix(".__init__"): path for path, name in names.items()}
    below: dict[Path, set[Path]] = {}
    for path in FILES:
        parts = [".".join(["fastreg", *module]) for module in imported(path)]
        found = {files.get(name) or files.get(name.rpartition(".")[0]) for name in parts}
        below[path] = {file for file in found if file is not None} - {path}
    done: set[Path] = set()

    def visit(path: Path, trail: tuple[Path, ...]) -> None:
        assert path not in trail, " -> ".join(names[file] for file in (*trail, path))
        if path not in done:
            for other in below[path]:
                visit(other, (*trail, path))
            done.add(path)

    for path in FILES:
        visit(path, ())


def test_only_the_triton_backend_imports_triton():
    def triton(path: Path) -> bool:
        nodes = [
            n
            for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        modules = [n.module or "" if isinstance(n, ast.ImportFrom) else n.names[0].name for n in nodes]
        return any(module.split(".")[0] == "triton" or module.startswith("fastreg.kernels") for module in modules)

    users = {str(path.relative_to(ROOT)) for path in FILES if triton(path)}
    assert {user for user in users if not user.startswith("kernels/")} == {"fastreg/backends/triton.py"}


def test_nothing_imports_tests_or_bench():
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "import bench" not in text and "import tests" not in text


def test_nothing_pushes_the_path():
    """Nothing but this line says so."""
    here = [
        path for folder in ("fastreg", "kernels", "bench", "tests", "docs") for path in (ROOT / folder).rglob("*.py")
    ]
    pushed = "sys.path" + ".insert"
    assert not [path for path in here if pushed in path.read_text(encoding="utf-8")]


def test_import_is_light():
    """`import fastreg`, the command line's help and the rooms of jobs need neither torch nor what the commands need."""
    code = (
        "import sys, fastreg, fastreg.cli, fastreg.training, fastreg.registration; fastreg.cli.build(); "
        "print([m for m in ('torch', 'nibabel', 'triton', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
