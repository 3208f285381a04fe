"""Visits of one person by `fastreg register --within-subject`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastreg.registration.within_subject import WithinSubject


def run_visits(options: Any) -> None:
    """Brings all images into their common space and writes it, the maps to the visits and the changes."""
    from fastreg.cli.output import err, out, print_json
    from fastreg.registration.within_subject import register_within_subject
    from fastreg.utils.files import InputError, check_apart, check_exists, check_free

    folder, visits = _check(options)
    for path in visits:
        check_exists(path, "visit", folder=True)
    written = [folder / name for name in _names(len(visits))]
    for path in written:
        check_free(path, options.overwrite)
    check_apart({path.name: path for path in written}, [("visit", path) for path in visits])
    masks = [*options.mask_fixed, *options.mask_moving]
    if masks and len(masks) != len(visits):
        raise InputError(f"masks: expected one for each of {len(visits)} visits, got {len(masks)}")
    chosen = {"metric": None if options.metric == "auto" else options.metric}
    chosen |= {"regularity": None if options.regularity == "default" else options.regularity}
    chosen |= {"smoothness": options.smoothness, "volume": options.volume, "device": options.device}
    found = register_within_subject(
        visits,
        masks=masks or None,
        on_progress=lambda what: None if options.json else err.print(what),
        **{name: value for name, value in chosen.items() if value is not None},
    )
    _write(found, folder)
    changes = list(_changes(found))
    if options.json:
        named = {"visits": [str(path) for path in visits], "written": [str(path) for path in written]}
        print_json({**named, "changes": changes})
        return
    for row in changes:
        out.print(
            "visit {from} to {to}: volume of the head {percent:+.2f} %, 98 % of it {low:+.1f} to {high:+.1f} %".format(
                **row
            )
        )
    out.print(f"written: {folder}", soft_wrap=True)


def _check(options: Any) -> tuple[Path, list[Path]]:
    from fastreg.cli._outputs import check_alone, check_folder
    from fastreg.utils.files import InputError

    if options.moved is None:
        raise InputError("--within-subject needs -o, the folder for what comes out")
    single = (
        "warp", "inverse_warp", "affine_out", "qc", "report", "moving_labels", "moved_labels", "fixed_labels", "points",
        "points_output", "points_moving", "points_moving_output", "ants_prefix", "bids_prefix",
        "landmarks_fixed", "landmarks_moving", "model", "weights", "refine", "levels",
    )  # fmt: skip
    check_alone(options, single, "--within-subject writes what docs/within_subject.md lists; not with {}")
    return check_folder(options.moved), [*options.fixed, *options.moving]


def _names(count: int) -> Iterator[str]:
    yield "mean.nii.gz"
    for k in range(1, count + 1):
        yield from (f"visit{k}.nii.gz", f"visit{k}_rigid.mat", f"visit{k}_warp.nii.gz", f"visit{k}_log_jacobian.nii.gz")
    for k in range(2, count + 1):
        yield f"change_{k - 1}_to_{k}.nii.gz"


def _write(found: WithinSubject, folder: Path) -> None:
    from fastreg.io.affines import save_affine
    from fastreg.io.images import save_image
    from fastreg.io.warps import save_warp

    save_image(folder / "mean.nii.gz", found.mean)
    for k, visit in enumerate(found.visits, 1):
        save_image(folder / f"visit{k}.nii.gz", visit.in_middle("bspline"))
        save_affine(folder / f"visit{k}_rigid.mat", visit.rigid)
        save_warp(folder / f"visit{k}_warp.nii.gz", visit.warp)
        save_image(folder / f"visit{k}_log_jacobian.nii.gz", visit.log_jacobian)
    for k in range(1, len(found.visits)):
        save_image(folder / f"change_{k}_to_{k + 1}.nii.gz", found.change(k - 1, k))


def _changes(found: WithinSubject) -> Iterator[dict[str, float]]:
    """Of neighbouring visits, over what is not background."""
    import numpy as np

    from fastreg.registration.samples import objects

    head = objects(found.mean.data)
    for k in range(1, len(found.visits)):
        change = found.change(k - 1, k).data[head]
        low, high = np.percentile(change, (1, 99))
        percent = [100 * float(np.expm1(x)) for x in (change.mean(), low, high)]
        yield {"from": k, "to": k + 1, "percent": percent[0], "low": percent[1], "high": percent[2]}
