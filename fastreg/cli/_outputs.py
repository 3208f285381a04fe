"""What `fastreg register` writes of one pair, and whether it may."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastreg.registration.files import Outputs


def check_alone(options: Any, names: Sequence[str], said: str) -> None:
    """InputError where one of the options is given; `said` is the message, {} the option."""
    from fastreg.utils.files import InputError

    given = [name for name in names if getattr(options, name) not in (None, [])]
    if given:
        raise InputError(said.format(f"--{given[0].replace('_', '-')}"))


def check_folder(path: Path) -> Path:
    """InputError where something that is no folder stands where results go."""
    from fastreg.utils.files import InputError

    if os.path.lexists(path) and not path.is_dir():
        raise InputError(f"output {path} is a {'link to nothing' if path.is_symlink() else 'file'}, not a folder")
    return path


def outputs_of(options: Any) -> Outputs:
    """Where the results of one pair go."""
    from fastreg.registration.files import Outputs

    return Outputs(
        moved=options.moved,
        warp=options.warp,
        inverse_warp=options.inverse_warp,
        affine=options.affine_out,
        moved_labels=options.moved_labels,
        points=options.points_output,
        points_back=options.points_moving_output,
        ants_prefix=options.ants_prefix,
        bids=_bids(options),
    )


def _bids(options: Any) -> tuple[str, str, str] | None:
    from fastreg.utils.files import InputError

    if options.bids_prefix is None and options.bids_spaces is None:
        return None
    labels = [word.strip() for word in (options.bids_spaces or "").split(",")]
    if options.bids_prefix is None or len(labels) != 2 or not all(label.isalnum() for label in labels):
        raise InputError("--bids-prefix and --bids-spaces go together: two labels of letters and digits, as T1w,MNI")
    return options.bids_prefix, labels[0], labels[1]


def paths_of(options: Any) -> list[Path]:
    """All files that are written."""
    return [*outputs_of(options).paths(), *(path for path in (options.qc, options.report) if path is not None)]


def check_outputs(options: Any) -> None:
    """InputError where nothing is written, what goes together is not given together, or a file may not be written."""
    from fastreg.cli._report import check_page
    from fastreg.io.images import check_ending
    from fastreg.plots.canvas import PICTURE_ENDINGS
    from fastreg.utils.files import InputError, check_free

    if not paths_of(options):
        raise InputError(
            "nothing to write: give at least one of --moved, --warp, --inverse-warp, --affine-out, --ants-prefix, "
            "--qc, --report"
        )
    if options.moved_labels is not None and options.moving_labels is None:
        raise InputError("--moving-labels and --moved-labels go together")
    if options.moving_labels is not None and options.moved_labels is None and options.fixed_labels is None:
        raise InputError("--moving-labels and --moved-labels go together")
    if options.fixed_labels is not None and options.moving_labels is None:
        raise InputError("--fixed-labels needs --moving-labels, which are moved onto them")
    for given, output, name in (
        (options.points, options.points_output, "--points"),
        (options.points_moving, options.points_moving_output, "--points-moving"),
    ):
        if (given is None) != (output is None):
            raise InputError(f"{name} and {name}-output go together")
    for option in ("save", "part"):
        if getattr(options, option) != getattr(type(options)(), option):
            raise InputError(f"--{option} needs --pairs")
    outputs_of(options).check(options.overwrite)
    if options.qc is not None:
        check_free(options.qc, options.overwrite)
        check_ending(options.qc, PICTURE_ENDINGS)
    if options.report is not None:
        check_page(options.report, options.overwrite)
