"""The README does what it says; links lead somewhere; every public name has an entry; the site builds."""

import contextlib
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastreg

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GENERATED = {"command_line.md"}
"""Pages that the site has and the repository has not."""


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_readme_prints_what_it_says():
    """Words for words, numbers within 0.02: processors round differently."""
    (code,), (said,) = blocks(ROOT / "README.md", "python"), blocks(ROOT / "README.md", "text")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    number = r"\d+\.\d+"
    assert re.sub(number, "#", printed.getvalue()) == re.sub(number, "#", said)
    values = [np.array(re.findall(number, text), float) for text in (printed.getvalue(), said)]
    assert np.allclose(*values, atol=0.02), printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target or path in GENERATED:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: no such file"
        if anchor and file.suffix == ".md":
            assert anchor in headings(file), f"{target}: no such heading"


def headings(page):
    """Anchors as GitHub and mkdocs make them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_every_public_name_has_an_entry():
    entries = {name for page in PAGES for name in re.findall(r"^::: fastreg\.(\S+)", page.read_text(), re.MULTILINE)}
    assert {name for name in fastreg.__all__ if not name.startswith("_")} - entries == set()


def test_no_host_of_a_registry_is_named():
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "download." + "pytorch.org", "conda" + ".anaconda")
    files = [*PAGES, *ROOT.glob("*.toml"), *ROOT.glob("*.yml"), ROOT / "Makefile", *(ROOT / ".github").rglob("*.yml")]
    assert not [(path, host) for path in files for host in hosts if host in path.read_text()]


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    commands = (tmp_path / "site" / "command_line" / "index.html").read_text()
    assert 'id="fastreg-register"' in commands and "--inverse-warp" in commands
    operations = (tmp_path / "site" / "operations" / "index.html").read_text()
    assert 'id="fastreg.warp"' in operations and "Resample" in operations
