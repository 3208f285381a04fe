"""Brings the optional 3-D viewer of `fastreg report --viewer`: NiiVue from npm, with the licences of all that is in it.

    python packaging/vendor_viewer.py

Needs npm and a network, once, before a wheel is built or in a checkout. The result, fastreg/plots/report/vendor/, is
not under version control.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

NIIVUE = "0.69.0"
TEXTS = "spdx-license-list@6.12.0"
"""Texts of licences, for packages that name theirs and bring no text."""
VENDOR = Path(__file__).resolve().parents[1] / "fastreg" / "plots" / "report" / "vendor"


def main() -> None:
    """Installs into a folder of its own, and keeps one script and one text."""
    npm = shutil.which("npm")
    if npm is None:
        raise SystemExit("the viewer comes from npm, which is not installed")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "package.json").write_text("{}")
        words = ("install", "--ignore-scripts", "--omit=dev", "--omit=optional", f"@niivue/niivue@{NIIVUE}", TEXTS)
        subprocess.run([npm, *words], cwd=folder, check=True)
        modules = Path(folder, "node_modules")
        VENDOR.mkdir(exist_ok=True)
        shutil.copy(modules / "@niivue" / "niivue" / "dist" / "niivue.umd.js", VENDOR / "niivue.js")
        (VENDOR / "LICENCES.txt").write_text(licences(modules), encoding="utf-8")
    print(f"{VENDOR}: {', '.join(sorted(path.name for path in VENDOR.iterdir()))}")


def licences(modules: Path) -> str:
    """Name, version, licence and its text of every package."""
    texts = modules / "spdx-license-list"
    found = []
    for described in sorted([*modules.glob("*/package.json"), *modules.glob("@*/*/package.json")]):
        package = json.loads(described.read_text(encoding="utf-8"))
        if described.parent == texts:
            continue
        own = [path for path in described.parent.iterdir() if path.name.lower().startswith("licen")]
        if own:
            text = own[0].read_text(encoding="utf-8")
        else:
            spdx = json.loads((texts / "licenses" / f"{package['license']}.json").read_text(encoding="utf-8"))
            text = f"Copyright (c) {package['author']}\n\n{spdx['licenseText']}"
        found.append(f"{package['name']} {package['version']}, {package['license']}\n\n{text.strip()}\n")
    return f"\n{'-' * 80}\n\n".join(found)


if __name__ == "__main__":
    main()
