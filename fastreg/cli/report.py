"""`fastreg report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


@Parameter(name="*")
@dataclass
class Report:
    """Show whether registrations worked: one HTML page for a cohort, suspects first, that opens without a network.

    Example: `fastreg report out`, after `fastreg register --pairs pairs.csv -o out`

    A table of figures that need no labels (similarity before and after, overlap, inverse error, change of volume,
    folds) and of those that do, where there are some; for each pair three planes as flicker, checkerboard, difference,
    edges, and deformation. A pair whose images or record cannot be read has a row that says so. Extra: plot.
    """

    source: Path
    """A folder of `fastreg register --pairs`, that of one pair, or a .csv file with the columns fixed, moving, and any
    of name, moved, warp, inverse_warp, affine: registrations by any program, which are judged here."""
    output: Annotated[Path | None, Parameter(alias="-o")] = field(default=None, kw_only=True)
    """The page to write; if not given, report.html in the folder, or beside the list and named like it."""
    title: str | None = field(default=None, kw_only=True)
    """Its heading; if not given, the name of the folder or list."""
    viewer: bool = field(default=False, kw_only=True)
    """Put a 3-D viewer (NiiVue) into the page, once 2.3 MB, and small volumes of each pair."""
    strict: bool = field(default=False, kw_only=True)
    """End with exit code 1 where a pair is not fine: the page is written all the same."""
    overwrite: bool = field(default=False, kw_only=True)
    """Replace the page if it exists."""
    json: bool = field(default=False, kw_only=True)
    """Print the pairs and their figures as JSON."""

    def run(self) -> None:
        """Reads, draws and writes."""
        from dataclasses import asdict

        from fastreg.cli._report import check_page, write_report
        from fastreg.cli.output import err, out, print_json
        from fastreg.plots.report.viewer import vendored
        from fastreg.registration.reviews import reviews_of

        page = self.output
        if page is None:
            page = self.source / "report.html" if self.source.is_dir() else self.source.with_suffix(".html")
        check_page(page, self.overwrite)
        viewer = vendored() if self.viewer else None
        reviews = reviews_of(self.source)
        title = self.title or f"Registrations of {self.source.absolute().name}"

        def on_progress(name: str, done: int) -> None:
            if not self.json:
                err.print(f"{done}/{len(reviews)} {name}", soft_wrap=True)

        entries = write_report(reviews, page, title, str(self.source), on_progress, viewer)
        odd = [entry for entry in entries if entry.state != "done"]
        if self.json:
            print_json({"pairs": [asdict(entry) for entry in entries], "page": str(page)})
        else:
            for entry in odd:
                out.print(f"{entry.state}: {entry.name}: {entry.why}", soft_wrap=True)
            out.print(f"{len(entries)} pairs, {len(entries) - len(odd)} fine; written: {page}", soft_wrap=True)
        if odd and self.strict:
            raise SystemExit(1)
