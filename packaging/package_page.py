"""The README as a package index shows it, alone: links and pictures of the repository with their full address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = "https://github.com/fastreg/fastreg"
_LINK = re.compile(r"(!?)(\[[^\]]*\]\()(?!https?:|#)([^)\s]+)\)")


def dynamic_metadata(field: str, settings: Mapping[str, Any] | None = None) -> dict[str, str]:
    """What scikit-build-core takes as `readme`."""
    return {"content-type": "text/markdown", "text": with_addresses(Path("README.md").read_text(encoding="utf-8"))}


def with_addresses(text: str) -> str:
    """`text` with every link into the repository as an address; pictures as the file itself, not its page."""
    return _LINK.sub(
        lambda found: f"{found[1]}{found[2]}{REPOSITORY}/{'raw' if found[1] else 'blob'}/main/{found[3]})", text
    )
