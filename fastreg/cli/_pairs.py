"""Many pairs by `fastreg register --pairs`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastreg.data.pairs import PairFiles


def run_pairs(options: Any, listed: Path) -> None:
    """Registers the pairs of a list, shows how each went, and the table of all; `options` are the command's."""
    from fastreg.cli.output import err, print_json
    from fastreg.data.pairs import read_pair_files
    from fastreg.nn import checkpoint
    from fastreg.registration import batch
    from fastreg.registration.linear.align import STARTS
    from fastreg.utils.devices import pick_device
    from fastreg.utils.distributed import launch, pick_local_device, pick_part
    from fastreg.utils.files import InputError

    folder = _check(options)
    pairs = read_pair_files(listed)
    part = pick_part(options.part)
    arguments = options.arguments()
    recorded = {key: str(value) for key, value in arguments.items()}
    recorded["init"] = options.init if options.init in STARTS else batch.fingerprint(Path(options.init))
    if options.model is not None:
        recorded["model"] = batch.fingerprint(checkpoint.find(options.model))
    device = pick_device(pick_local_device(options.device))
    if options.model is not None:
        arguments["model"] = checkpoint.load(options.model, device)
    job = batch.Batch(
        folder,
        {**arguments, "device": device},
        recorded,
        tuple(word.strip() for word in options.save.split(",") if word.strip()),
        options.points_space,
        options.overwrite,
        [("--pairs", listed), ("--init", Path(options.init)), *([("--model", options.model)] if options.model else [])],
    )
    mine = len(pairs[part[0] :: part[1]])
    done = 0

    def on_progress(row: batch.Row, fresh: bool) -> None:
        nonlocal done
        done += 1
        if not options.json:
            err.print(f"{done}/{mine} {_row_text(row, fresh)}", soft_wrap=True)

    rows = batch.run(pairs, job, part, on_progress)
    if options.report is not None:
        _report(options.report, folder, pairs)
    failed = [row for row in rows if row.get("error")]
    if options.json:
        print_json({"pairs": rows, "table": str(folder / batch.TABLE)})
    else:
        _print_rows(rows, folder / batch.TABLE)
    if failed:
        said = f"{len(failed)} of {len(rows)} pairs failed, {failed[0]['name']} first; see {folder / batch.TABLE}"
        if launch().world == 1:
            raise InputError(said)
        err.print(said, soft_wrap=True)  # torchrun stops all others where one process ends with 1
    options.end(any(row.get("suspect") for row in rows))


def _check(options: Any) -> Path:
    from fastreg.cli._outputs import check_alone, check_folder
    from fastreg.cli._report import check_page
    from fastreg.plots.report.page import is_page
    from fastreg.utils.files import InputError

    single = (
        "fixed", "moving", "warp", "inverse_warp", "affine_out", "qc", "moving_labels", "moved_labels",
        "fixed_labels", "points", "points_output", "points_moving", "points_moving_output", "mask_fixed",
        "mask_moving", "ants_prefix", "bids_prefix", "landmarks_fixed", "landmarks_moving",
    )  # fmt: skip
    check_alone(options, single, "--pairs: the list and --save say what {} says for one pair")
    if options.moved is None:
        raise InputError("--pairs needs -o, the folder for what comes out")
    check_folder(options.moved)
    if options.report is not None:
        check_page(options.report, options.overwrite or is_page(options.report))  # one of an earlier run goes on
    return Path(options.moved)


def _report(page: Path, folder: Path, pairs: Sequence[PairFiles]) -> None:
    """Writes the page, unless other processes have pairs to do: the last one writes it."""
    from fastreg.cli._report import write_report
    from fastreg.registration.reviews import recorded

    reviews = [recorded(folder / pair.name) for pair in pairs if (folder / pair.name).is_dir()]
    if len(reviews) == len(pairs) and all(review.state != "unfinished" for review in reviews):
        write_report(reviews, page, f"Registrations of {folder.absolute().name}", str(folder))


def _row_text(row: dict[str, Any], fresh: bool) -> str:
    if row.get("error"):
        return f"{row['name']}: {row['error']}"
    dice = f", Dice {_shown(row['dice_before'])} -> {_shown(row['dice'])}" if "dice" in row else ""
    return f"{row['name']}: {row['seconds']:.1f} s{dice}" if fresh else f"{row['name']}: done before"


def _shown(figure: float | None) -> str:
    from fastreg.cli.output import shown

    return shown(figure, "-")


def _print_rows(rows: list[dict[str, Any]], table: Path) -> None:
    from fastreg.cli.output import out, print_table

    known = {"dice_before": "Dice before", "dice": "Dice", "hd95_mm": "HD95 mm"}
    known |= {"tre_mm_before": "TRE mm before", "tre_mm": "TRE mm"}
    columns = {key: title for key, title in known.items() if any(key in row for row in rows)}
    columns |= {"sdlogj": "SDlogJ", "ndv_percent": "NDV %", "seconds": "seconds"}
    counts = {"folds": "folds", "corner_folds": "corner folds"}
    print_table(
        ["pair", *columns.values(), *counts.values()],
        [
            [row["name"], *(_shown(row.get(key)) for key in columns), *(str(row.get(key, "-")) for key in counts)]
            for row in rows
        ],
    )
    out.print(f"written: {table}", soft_wrap=True)
