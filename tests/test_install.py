"""Installations: without the compiled module, where it cannot be built, and what a package page shows."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def build(folder, **environment):
    """`pip wheel` with a build folder of its own; the environment beside this one's."""
    pytest.importorskip("scikit_build_core")
    if not (ROOT / "CMakeLists.txt").exists():
        pytest.skip("not in a checkout")
    words = ("wheel", "--no-deps", "--no-build-isolation", "-C", f"build-dir={folder / 'build'}", "-w", folder / "dist")
    kept = {name: value for name, value in os.environ.items() if name not in ("FASTREG_NATIVE", "CXX")}
    return subprocess.run(
        [sys.executable, "-m", "pip", *words, ROOT], env={**kept, **environment}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def pure(tmp_path_factory):
    """A folder that holds fastreg as installed from a wheel without the compiled module."""
    folder = tmp_path_factory.mktemp("pure")
    done = build(folder, FASTREG_NATIVE="OFF")
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_there(site, code, **environment):
    """Python with that fastreg in place of this one; -S keeps this one's editable installation out."""
    others = [path for path in sys.path if "site-packages" in path]
    code = f"import sys; sys.path[:0] = {[str(site), *others]!r}\n{code}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, cwd=site
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_without_the_compiled_module_the_reference_computes_and_says_so(pure):
    code = """
import torch, fastreg
assert fastreg.backends.compiled.module is None
vol, flow = torch.rand(1, 1, 6, 7, 8, requires_grad=True), torch.randn(1, 3, 6, 7, 8, requires_grad=True)
for _ in range(2):
    fastreg.lncc(fastreg.warp(vol, flow), vol).backward()
print(vol.grad.isfinite().all().item(), fastreg.backends.choose(None, vol))
"""
    out, err = run_there(pure, code)
    assert out.split() == ["True", "reference"]
    assert len(re.findall("backend native is not used: fastreg was installed without its compiled module", err)) == 1


@pytest.mark.slow
def test_without_the_compiled_module_triton_computes(pure):
    pytest.importorskip("triton")
    code = """
import torch, fastreg
vol, flow = torch.rand(1, 1, 6, 7, 8), torch.randn(1, 3, 6, 7, 8)
found, expected = (fastreg.warp(vol, flow, backend=name) for name in ("triton", "reference"))
print((found - expected).abs().max().item() < 1e-6)
"""
    assert run_there(pure, code, TRITON_INTERPRET="1")[0].split() == ["True"]


@pytest.mark.slow
def test_doctor_says_what_is_missing(pure):
    out, _ = run_there(pure, "from fastreg.cli import main; main(['doctor', '--json'])")
    said = json.loads(out)
    rows = {row["backend"]: row for row in said["backends"]}
    assert said["instructions"] is None and rows["native"]["worst_error"] is None
    assert "FASTREG_NATIVE=ON" in rows["native"]["refuses"] and rows["reference"]["worst_error"] < 1e-5


@pytest.mark.slow
def test_without_a_compiler_it_is_installed_all_the_same(tmp_path):
    done = build(tmp_path, CXX="/no/compiler")
    assert done.returncode == 0, done.stderr
    assert [wheel.name.endswith("-py3-none-any.whl") for wheel in (tmp_path / "dist").iterdir()] == [True]


@pytest.mark.slow
def test_a_compiler_that_is_asked_for_is_needed(tmp_path):
    done = build(tmp_path, CXX="/no/compiler", FASTREG_NATIVE="ON")
    assert done.returncode != 0 and "no C++ compiler was found" in done.stdout + done.stderr


@pytest.mark.slow
def test_the_package_page_has_full_addresses(pure):
    (metadata,) = pure.glob("fastreg-*.dist-info/METADATA")
    text = metadata.read_text()
    links = re.findall(r"\]\(([^)#][^)\s]*)\)", text)
    assert len(links) > 10 and not [link for link in links if not link.startswith("https://")]
    pictures = re.findall(r"!\[[^\]]*\]\((\S+)\)", text)
    assert pictures and all("/raw/main/docs/img/" in picture for picture in pictures)
    for link in [*links, *pictures]:
        inside = re.fullmatch(r"https://github.com/fastreg/fastreg/(?:raw|blob)/main/([^#]+)(?:#.*)?", link)
        assert inside is None or (ROOT / inside[1]).exists(), link
