"""`fastreg train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fastreg.training.config import TrainConfig


@Parameter(name="*")
@dataclass(kw_only=True)
class Train:
    """Train a registration network on a cohort of images.

    Example: `fastreg train --images 'scans/*_t1.nii.gz' --labels 'scans/*_seg.nii.gz' --val 101,102 --spacing 2 -o
    run`

    A run can be stopped at any time and continued with --resume. --config FILE (TOML, YAML or JSON) sets any of the
    options; `<output>/config.json` is such a file. Under torchrun every process takes its share.
    """

    config: Annotated[TrainConfig, Parameter(name="*")]
    json: bool = False
    """Print the last validation as JSON at the end."""

    def run(self) -> None:
        """Trains; progress goes to stderr, the validation table and the path of the model to stdout."""
        from fastreg.cli.output import out, print_json
        from fastreg.cli.train_bar import TrainBar
        from fastreg.training.trainer import fit

        with TrainBar(quiet=self.json) as bar:
            path = fit(self.config, bar)
        _draw_curve(self.config.run.output)
        if self.json:
            print_json({"model": str(path), **bar.last_validation})
        else:
            out.print(f"model {path}", soft_wrap=True)


def _draw_curve(output: Path) -> None:
    """<output>/curve.png, loss and validation against the step, where matplotlib is installed."""
    import importlib.util

    from fastreg.utils.distributed import launch

    if importlib.util.find_spec("matplotlib") and launch().first:
        from fastreg.plots.training import loss_curve

        loss_curve(output / "metrics.csv", output / "curve.png")
