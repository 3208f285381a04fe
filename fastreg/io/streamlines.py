"""Streamlines in .trk and .tck files, through nibabel: points are RAS mm."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from fastreg.io.point_sets import Grid, PointSet, check_finite
from fastreg.utils.files import InputError

ENDINGS = (".trk", ".tck")


@dataclass(frozen=True, eq=False)
class Streamlines(PointSet):
    """The streamlines of a file, one after the other."""

    tractogram: Any
    """nibabel's, with the data of points and streamlines."""
    header: dict[Any, Any]
    path: Path

    kind: ClassVar[str] = "streamlines"
    others: ClassVar[tuple[str, ...]] = ENDINGS

    @property
    def lengths(self) -> list[int]:
        """Points of each streamline."""
        return [len(line) for line in self.tractogram.streamlines]

    def content(self) -> bytes:
        """Lengths of all streamlines and, in a .trk file, their data as they were."""
        return self.written(self.ending)

    def written(self, ending: str, grid: Grid | None = None) -> bytes:
        """As .trk or .tck; a .tck file holds no data beside the points.

        Raises:
            InputError: .trk of a .tck file, without an image that its header can name.
        """
        from nibabel.streamlines import ArraySequence, TckFile, Tractogram, TrkFile

        lines = ArraySequence(np.split(self.points.astype(np.float32), np.cumsum(self.lengths)[:-1]))
        out = io.BytesIO()
        if ending == ".tck":
            said = self.header if ending == self.ending else {}
            header = {key: text for key, text in said.items() if ":" not in f"{key}{text}"}  # nibabel writes no others
            TckFile(Tractogram(lines, affine_to_rasmm=np.eye(4)), header=header).save(out)
            return out.getvalue()
        if ending != self.ending and grid is None:
            raise InputError(f"points {self.path}: a .trk file names its image; give --moving, or write .tck")
        header = self.header if grid is None else {**self.header, **_of_image(grid)}
        given = self.tractogram
        tractogram = Tractogram(lines, given.data_per_streamline, given.data_per_point, affine_to_rasmm=np.eye(4))
        TrkFile(tractogram, header=header).save(out)
        return out.getvalue()


class Tck(Streamlines):
    """A .tck file."""

    ending: ClassVar[str] = ".tck"


class Trk(Streamlines):
    """A .trk file."""

    ending: ClassVar[str] = ".trk"

    def moved(self, points: np.ndarray, grid: Grid | None = None) -> Trk:
        """The same with other points; the header says of which image they are then."""
        if grid is None:
            text = f"points {self.path}: the header goes on naming the image before; give --moving, the one after"
            warnings.warn(text, UserWarning, stacklevel=4)
            return replace(self, points=points)
        return replace(self, points=points, header={**self.header, **_of_image(grid)})


def _of_image(grid: Grid) -> dict[str, Any]:
    """What the header of a .trk file says of the image."""
    from nibabel.orientations import aff2axcodes

    affine, shape = grid
    return {
        "voxel_to_rasmm": affine.astype(np.float32),
        "dimensions": np.array([*shape, 1][:3], np.int16),
        "voxel_sizes": np.linalg.norm(affine[:3, :3], axis=0).astype(np.float32),
        "voxel_order": "".join(aff2axcodes(affine)),
    }


def read_streamlines(content: bytes, path: str | Path) -> Streamlines:
    """The bytes of a .trk or .tck file."""
    from nibabel.streamlines import TckFile, TrkFile

    kind, made = (TrkFile, Trk) if content.startswith(b"TRACK") else (TckFile, Tck)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            file = kind.load(io.BytesIO(content))
            points = np.array(file.tractogram.streamlines.get_data(), np.float64).reshape(-1, 3)
    except Exception as error:  # nibabel's, struct's and NumPy's, as the damage has it
        said = " ".join(str(error).split())[:120]
        raise InputError(f"points {path}: not streamlines that can be read ({said})") from error
    if not _is_whole(content, file):
        raise InputError(
            f"points {path}: expected all the streamlines that its header says, got a file that is cut short"
        )
    points = check_finite(points, f"points {path}")
    return made(points, file.tractogram, dict(file.header), Path(path), space="ras")


def _is_whole(content: bytes, file: Any) -> bool:
    """Whether nothing is missing at the end, which nibabel does not ask: .trk counts its lines, .tck ends in Inf."""
    if content.startswith(b"TRACK"):
        order: Literal["little", "big"] = "little" if content[996:998] == b"\xe8\x03" else "big"
        return int.from_bytes(content[988:992], order, signed=True) in (0, len(file.tractogram.streamlines))
    kind = ">f4" if str(file.header.get("datatype", "")).endswith("BE") else "<f4"
    return bool(np.isinf(np.frombuffer(content[-12:], kind)).all())
