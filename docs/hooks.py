"""What mkdocs does to make the site: pages that exist nowhere else, links that work in both places, no name left out.

README.md, CONTRIBUTING.md and CHANGELOG.md become pages, and so does the help of the commands, so none of it is written
twice. A link means the same on the site as in the repository: what lies outside docs/ leads to the repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
COPIED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""File of the repository -> page of the site."""
OUTSIDE = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "bench" / "results").glob("*.png"))]
"""Pictures that pages show and that lie outside docs/; on the site under the same path."""
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and pictures that do not lie in docs/."""
    for source, page in COPIED.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "command_line.md", content=command_line()))
    for picture in OUTSIDE:
        files.append(File.generated(config, picture, abs_src_path=str(ROOT / picture)))
    return files


def command_line() -> str:
    """The page of the commands, from the commands themselves."""
    from fastreg.cli import COMMANDS, build

    app = build()
    summary = [f"| [`{name}`](#fastreg-{name}) | {_first_line(name, app)} |" for name in COMMANDS]
    text = app.generate_docs()
    return "\n".join([_COMMAND_LINE, *summary, "", text[text.index("\n## fastreg ") :]])


_COMMAND_LINE = """# Command line

`fastreg COMMAND --help` prints what stands here. Every command that prints figures has `--json`; tables and figures go
to stdout, progress to stderr. Any option can come from a file: `--config options.toml` (or .yaml, .json), under the
names below without the dashes. The exit code is 0 when all went well, 1 when the input is at fault (one line says
how) and 2 for a command that could not be understood. Outputs are written whole or not at all, and none is
overwritten without `--overwrite`.

| command | |
| --- | --- |"""


def _first_line(name: str, app: Any) -> str:
    return str(app[name].help).strip().splitlines()[0]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes the links of the repository those of the site."""
    source = next((name for name, copy in COPIED.items() if copy == page.file.src_uri), f"docs/{page.file.src_uri}")
    return _LINK.sub(lambda found: found[1] + _target(found[2], source, page, config, files) + found[3], markdown)


def _target(link: str, source: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """`link` of the repository's file `source`, as the site has it.

    What leads nowhere stays as it is, so that mkdocs complains.
    """
    if "://" in link or link.startswith(("mailto:", "/")):
        return link
    path = os.path.normpath(os.path.join(os.path.dirname(source), link))
    inside = COPIED.get(path) or (path if path in OUTSIDE else path.removeprefix("docs/"))
    if (path.startswith("docs/") or path in (*COPIED, *OUTSIDE)) and files.get_file_from_path(inside) is not None:
        return os.path.relpath(inside, os.path.dirname(page.file.src_uri) or ".")
    if (ROOT / path).exists():
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{config.repo_url.rstrip('/')}/{kind}/main/{path}"
    return link


def on_env(env: Any, config: MkDocsConfig, files: Files) -> None:
    """Ends the build if a public name has no entry."""
    shown = {name for page in files.documentation_pages() for name in entries(page.page.markdown or "")}
    missing = [name for name in public_names() if f"fastreg.{name}" not in shown]
    if missing:
        raise PluginError(f"public names without an entry (::: fastreg.NAME) on any page: {', '.join(missing)}")


def entries(markdown: str) -> list[str]:
    """The names whose docstrings a page shows."""
    return re.findall(r"^::: (\S+)", markdown, re.MULTILINE)


def public_names() -> list[str]:
    """The names that `import fastreg` offers, without the version."""
    import fastreg

    return [name for name in fastreg.__all__ if not name.startswith("_")]
