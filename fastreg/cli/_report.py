"""The page of `fastreg report` and `fastreg register --report`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastreg.plots.report.page import Entry
    from fastreg.registration.result import RegistrationResult
    from fastreg.registration.reviews import Result, Review


def check_page(path: Path, overwrite: bool) -> None:
    """InputError unless the page can be written."""
    from fastreg.io.images import check_ending
    from fastreg.utils.extras import need
    from fastreg.utils.files import check_free

    check_ending(path, (".html", ".htm"))
    check_free(path, overwrite)
    need("PIL.Image", "plot", "the report's pictures")  # before the work, not after it


def write_report(
    reviews: Sequence[Review],
    page: Path,
    title: str,
    source: str,
    on_progress: Callable[[str, int], None] = lambda name, done: None,
    viewer: tuple[str, str] | None = None,
) -> list[Entry]:
    """Reads each pair's images, draws them and writes the page.

    Args:
        reviews: The pairs.
        page: The file.
        title: Its heading.
        source: Where the pairs are from, as the page says it.
        on_progress: Called with a pair's name and how many are drawn.
        viewer: As in `write_page`; with it every pair has volumes.
    """
    from fastreg.registration.reviews import load_result

    def pairs() -> Iterator[tuple[Entry, Mapping[str, Any]]]:
        for done, review in enumerate(reviews, 1):
            yield _drawn(review, partial(load_result, review.files, review.options.get("channel")), viewer is not None)
            on_progress(review.name, done)

    return _write(page, title, source, reviews, pairs(), viewer)


def write_report_of_one(found: RegistrationResult, figures: Mapping[str, Any], page: Path) -> None:
    """The page of a registration that was just done.

    Args:
        found: The registration.
        figures: Beside those in its log.
        page: The file.
    """
    from dataclasses import replace

    from fastreg.data.lists import stem
    from fastreg.geometry.image import Image
    from fastreg.registration.quality import found_inverse_error_mm
    from fastreg.registration.reviews import result_of, review_of

    log = {"inverse_error_mm": found_inverse_error_mm(found.warp), "seconds": found.seconds, **found.log, **figures}
    files = {role: image.path for role, image in (("fixed", found.fixed), ("moving", found.moving)) if image.path}
    name = " to ".join(stem(image.path) for image in (found.moving, found.fixed) if image.path) or "pair"
    review = replace(review_of(name, log), files=files)
    moved = Image(found.moved[0, 0].numpy(), found.fixed.affine)
    pair = _drawn(review, lambda: result_of(found.fixed, found.moving, found.warp, moved))
    _write(page, f"Registration of {name}", "", [review], iter([pair]))


def _write(
    page: Path,
    title: str,
    source: str,
    reviews: Sequence[Review],
    pairs: Iterator[tuple[Entry, Mapping[str, Any]]],
    viewer: tuple[str, str] | None = None,
) -> list[Entry]:
    from fastreg._version import __version__
    from fastreg.plots.report.page import write_page

    made = [time.strftime("%Y-%m-%d %H:%M"), f"fastreg {__version__}", *([source] if source else [])]
    return write_page(page, title, " · ".join(made), _options(reviews), pairs, viewer)


def _options(reviews: Sequence[Review]) -> dict[str, str]:
    """What all pairs were asked for alike; defaults that say nothing are left out."""
    asked = [review.options for review in reviews if review.options]
    names = dict.fromkeys(name for options in asked for name in options)
    values = {name: {options.get(name, "") for options in asked} for name in names}
    said = {
        name: next(iter(value)) if len(value) == 1 else "differs from pair to pair" for name, value in values.items()
    }
    return {name: value for name, value in said.items() if value not in ("False", "")}


def _drawn(review: Review, load: Callable[[], Result], in_3d: bool = False) -> tuple[Entry, Mapping[str, Any]]:
    """The pair as the page has it; what cannot be read is said in its note."""
    from fastreg.plots.report.page import Entry
    from fastreg.plots.report.viewer import volumes
    from fastreg.plots.report.views import views
    from fastreg.utils.files import InputError

    note, drawn = "", {}
    if review.state in ("done", "suspect"):
        try:
            result = load()
            drawn["views"] = views(result.fixed, result.moved, result.before, result.warp)
            if in_3d and result.fixed.ndim == 3:
                drawn["volumes"] = volumes(result.fixed, result.moved)
        except (InputError, OSError, ValueError, MemoryError) as error:
            note = f"No pictures: {' '.join(str(error).split())}"
    paths = {role: str(review.files.get(role, "")) for role in ("moving", "fixed")}
    entry = Entry(review.name, review.state, review.why, note, review.measure, figures=review.figures, **paths)
    return entry, drawn
