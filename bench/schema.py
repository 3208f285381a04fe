"""What a benchmark run leaves behind: one JSON file of rows, and the only thing that the report reads.

Every row says what was done (op, work, size, dtype), by whom (backend) and where (device, threads); the record says
on which machine, with which versions, at which commit. A row of a peer that could not take part says why.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from fastreg.utils.files import InputError, atomic

VERSION = 1


@dataclass(kw_only=True)
class Row:
    """What all rows have."""

    kind: ClassVar[str]
    op: str
    """warp, lncc, integrate, smoothness, mind, correlate; or the name of a whole job."""
    work: str
    """"forward", or "forward + backward to ..."; for a row of exactness, what was compared."""
    size: list[int]
    """[batch, channels, D, H, W] of the image, or of the field."""
    dtype: str
    backend: str
    """Who did it: a backend of fastreg's, with its instruction set ("native avx512"), or a peer."""
    option: str = ""
    """Padding, window, steps: what the op was asked for."""
    device: str = "cpu"
    threads: int = 1
    absent: str | None = None
    """Why there are no figures."""

    @property
    def voxels(self) -> int:
        """Of one image, all channels and the batch counted."""
        return math.prod(self.size)


@dataclass(kw_only=True)
class Exactness(Row):
    """How far a value or a gradient is from float64."""

    kind = "exactness"
    data: str
    """Which data; see data.py."""
    error: float | None = None
    """Largest absolute difference over the largest absolute value of the truth."""
    tolerance: float | None = None
    """None for peers, which are only shown."""
    reason: str = ""
    """Why the tolerance is what it is."""

    @property
    def ok(self) -> bool:
        """Whether the row keeps its tolerance. NaN does not."""
        if self.tolerance is None:
            return True
        return self.absent is None and self.error is not None and self.error <= self.tolerance


@dataclass(kw_only=True)
class Timing(Row):
    """Milliseconds of repeated runs."""

    median: float | None = None
    p20: float | None = None
    p80: float | None = None
    runs: int = 0
    peak: int | None = None
    """Most bytes above the inputs, where they were seen together with the time: on a GPU."""
    kept: int | None = None
    """Bytes that the forward leaves for the backward, above its result."""


@dataclass(kw_only=True)
class Speed(Timing):
    """One implementation in a group; rows of the same group took turns, save on a GPU, which does not drift."""

    kind = "speed"
    group: str
    bytes: int | None = None
    """What the op must read and write at least."""
    copy: float | None = None
    """Milliseconds of a copy that reads and writes as many bytes, measured in the same turns."""

    @property
    def fraction_of_copy(self) -> float | None:
        """1 is as fast as a copy of the same bytes."""
        return None if self.copy is None or self.median is None else self.copy / self.median


@dataclass(kw_only=True)
class Memory(Row):
    """The most memory that an op took, alone in its process."""

    kind = "memory"
    peak: int | None = None
    """Bytes above the inputs; results and gradients count."""
    bytes: int | None = None
    """Of the results and gradients themselves: the least that anybody needs."""


@dataclass(kw_only=True)
class Job(Timing):
    """A training step or an inference of a whole network, or a training run's wait for data."""

    kind = "job"
    network: str
    images_per_second: float | None = None
    share: float | None = None
    """Of the time that went into the ops (a step, an inference) or into waiting for data (loading)."""


KINDS: dict[str, type[Row]] = {one.kind: one for one in (Exactness, Speed, Memory, Job)}


@dataclass(kw_only=True)
class Machine:
    """Where and with what."""

    date: str
    commit: str
    """Of the working tree; "+" after it says that files were changed since."""
    device: str
    """Name of the processor, or of the GPU."""
    cores: int
    memory_gb: float
    instructions: str
    """Instruction set that fastreg chose."""
    system: str
    load: float
    """Load average before the run: above about 0.5 somebody else was using the machine."""
    versions: dict[str, str]
    """Package -> version, or "absent"."""


@dataclass(kw_only=True)
class Record:
    """One run."""

    machine: Machine
    rows: list[Row] = field(default_factory=list)
    about: dict[str, str] = field(default_factory=dict)
    """What else there is to say of the run: a GPU's driver, what was left out."""
    version: int = VERSION

    def of(self, kind: type[R], **wanted: Any) -> list[R]:
        """The rows of a kind whose attributes are these."""
        rows = [row for row in self.rows if isinstance(row, kind)]
        return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]

    def write(self, path: Path) -> None:
        """The whole file, or nothing; NaN and infinity become words that read() knows."""
        kept = {
            "version": self.version,
            "machine": asdict(self.machine),
            "rows": [{"kind": row.kind, **_brief(row)} for row in self.rows],
        }
        lines = json.dumps(kept["rows"], allow_nan=False, separators=(", ", ": ")).replace("}, {", "},\n  {")
        about = f' "about": {json.dumps(self.about)},\n' if self.about else ""
        with atomic(path) as partial:
            partial.write_text(
                f'{{\n "version": {self.version},\n "machine": {json.dumps(kept["machine"])},\n{about} "rows": [\n  '
                f"{lines[1:-1]}\n ]\n}}\n"
            )


R = TypeVar("R", bound=Row)


def _brief(row: Row) -> dict[str, Any]:
    """The row without what is left at its default."""
    unsaid = {one.name: one.default for one in fields(row)}
    return {name: _spelt(value) for name, value in asdict(row).items() if value != unsaid[name]}


def _spelt(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> Record:
    """The record in a file.

    Raises:
        InputError: no such file, no JSON, or a row that does not fit its dataclass, naming the row and the field.
    """
    path = Path(path)
    try:
        stored = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"results {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"results {path}: not JSON ({error})") from error
    if not isinstance(stored, dict) or stored.get("version") != VERSION:
        found = stored.get("version") if isinstance(stored, dict) else type(stored).__name__
        raise InputError(f"results {path}: expected version {VERSION} of the format, got {found!r}")
    rows = []
    for number, one in enumerate(stored.get("rows", [])):
        where = f"results {path}, row {number}"
        if not isinstance(one, dict):
            raise InputError(f"{where}: expected an object, got {one!r}")
        kind = KINDS.get(one.pop("kind", None))
        if kind is None:
            raise InputError(f"{where}: kind must be one of {', '.join(KINDS)}")
        rows.append(_checked(_built(kind, one, where), where))
    machine = _built(Machine, stored.get("machine", {}), f"results {path}, machine")
    return Record(machine=machine, rows=rows, about=_checked_about(stored.get("about", {}), path))


B = TypeVar("B")


def _built(kind: type[B], values: dict[str, Any], where: str) -> B:
    """An instance, after every field was found to have its type."""
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected an object, got {values!r}")
    types = get_type_hints(kind)
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    if unknown := set(values) - set(known):
        raise InputError(f"{where}: unknown {', '.join(sorted(unknown))}")
    for name, value in values.items():
        if isinstance(value, str) and value in ("nan", "inf", "-inf") and types[name] is not str:
            value = values[name] = float(value)
        if not _fits(value, types[name]):
            wanted = getattr(types[name], "__name__", str(types[name]))
            raise InputError(f"{where}: {name} must be {wanted}, got {value!r}")
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from error


def _fits(value: Any, wanted: Any) -> bool:
    if get_origin(wanted) is Union or type(wanted).__name__ == "UnionType":
        return any(_fits(value, one) for one in get_args(wanted))
    if get_origin(wanted) is list:
        return isinstance(value, list) and all(_fits(one, get_args(wanted)[0]) for one in value)
    if get_origin(wanted) is dict:
        return isinstance(value, dict) and all(_fits(one, get_args(wanted)[1]) for one in value.values())
    if wanted is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))


def _checked_about(about: Any, path: Path) -> dict[str, str]:
    if not _fits(about, dict[str, str]):
        raise InputError(f"results {path}: about must be words for words, got {about!r}")
    return about


def _checked(row: Row, where: str) -> Row:
    """What a type does not say."""
    if isinstance(row, Timing) and row.absent is None:
        if row.median is None or row.p20 is None or row.p80 is None or row.runs < 1:
            raise InputError(f"{where}: a timing needs median, p20, p80 and runs, or absent")
        if not 0 < row.p20 <= row.median <= row.p80:
            raise InputError(f"{where}: expected 0 < p20 <= median <= p80, got {row.p20}, {row.median}, {row.p80}")
    if isinstance(row, Memory) and row.absent is None and (row.peak is None or row.peak < 0):
        raise InputError(f"{where}: peak must be bytes >= 0, got {row.peak}")
    if isinstance(row, Exactness) and row.absent is None and row.error is None:
        raise InputError(f"{where}: a row of exactness needs its error, or absent")
    return row
