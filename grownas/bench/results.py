"""The results of a benchmark run as JSON, and their comparison with an earlier run."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from grownas.bench.figures import Figure, Must, Row
from grownas.bench.peers import reasons, usable
from grownas.bench.settings import EAGER, GRU, LSTM, SMALL
from grownas.errors import DataError

FORMAT, VERSION = "grownas.bench", 1
TOLD_FLAGS = ("avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "amx_tile", "asimd", "sve")
SLACK = 0.2  # relative difference of ratios between two runs of the same code on a busy machine
SAME = ("cpu", "capability", "torch", "blas", "gpu")  # machines that differ here have different ratios


class Results(NamedTuple):
    """A run of the benchmark: date (UTC), whether it was quick, machine and rows."""

    date: str
    quick: bool
    machine: Mapping[str, Any]
    rows: tuple[Row, ...]

    def save(self, path: Path) -> None:
        """Write JSON atomically."""
        tree = {"format": FORMAT, "version": VERSION, **self._asdict(), "rows": [_to_tree(row) for row in self.rows]}
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read a file that `save` wrote.

        Raises:
            DataError: the file cannot be read, or has another format.
        """
        try:
            tree = json.loads(path.read_text("utf-8"))
            if (tree["format"], tree["version"]) != (FORMAT, VERSION):
                raise ValueError(f"format {tree['format']!r}, version {tree['version']!r}")
            rows = tuple(_from_tree(row) for row in tree["rows"])
            return cls(str(tree["date"]), bool(tree["quick"]), dict(tree["machine"]), rows)
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: not a file of `grownas bench --json` of this version: {type(error).__name__}: {error}"
            ) from error


def now() -> str:
    """Return the date and time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_machine() -> dict[str, Any]:
    """Return the facts on which times depend: processor, threads, versions, backends."""
    info = Path("/proc/cpuinfo")  # Linux only
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = told.get("flags", told.get("Features", "")).split()
    return {
        "cpu": told.get("model name", platform.machine()),
        "flags": [flag for flag in TOLD_FLAGS if flag in flags],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": 1,
        "backends": usable(SMALL),
        "cannot run": [f"{name}: {reason}" for name, reason in reasons(SMALL).items() if reason] or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "blas": next(iter(re.findall(r"BLAS_INFO=(\w+)", torch.__config__.show())), None),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "grownas": metadata.version("grownas"),
    }


class Change(NamedTuple):
    """A peer's ratio to its row's base in the earlier and the later run, and the largest ratio that noise explains."""

    row: str
    peer: str
    base: str
    then: float
    now: float
    allowed: float

    @property
    def slower(self) -> bool:
        """Whether the ratio is worse by more than noise."""
        return not self.now <= self.allowed

    def __str__(self) -> str:
        words = f"{self.row}: {self.peer} / {self.base} was {self.then:.3g}, is {self.now:.3g}"
        return f"{words}; noise allows {self.allowed:.3g}"


def changes(before: Results, after: Results) -> Iterator[Change]:
    """Yield the changes of our backends' ratios in rows that both runs measured.

    Ratios are compared, not times: both peers of a ratio ran on the same machine. Noise is `SLACK` plus the relative
    spreads of the figures, which are wide in short runs.
    """
    known = {row.name: row for row in before.rows}
    for row in after.rows:
        old = known.get(row.name)
        if old is None or old.skipped or row.skipped or not row.base:
            continue
        for peer in row.figures:
            figures = [one.figures.get(name) for one in (old, row) for name in (peer, row.base)]
            if peer in (row.base, EAGER, LSTM, GRU) or None in figures:
                continue
            then = old.ratio(peer, row.base)
            spread = sum(figure.spread for figure in figures if figure is not None)
            yield Change(row.name, peer, row.base, then, row.ratio(peer, row.base), then * (1 + SLACK + spread))


def differences(before: Results, after: Results) -> list[str]:
    """Return messages about differences of two runs' machines that can change the ratios."""
    return [
        f"{name} {before.machine.get(name)} then, {after.machine.get(name)} now"
        for name in SAME
        if before.machine.get(name) != after.machine.get(name)
    ]


def _to_tree(row: Row) -> dict[str, Any]:
    return {
        **row._asdict(),
        "figures": {name: figure._asdict() for name, figure in row.figures.items()},
        "musts": [{**check.must._asdict(), "ratio": check.ratio, "holds": check.holds} for check in row.checks()],
    }


def _from_tree(tree: dict[str, Any]) -> Row:
    figures = {
        str(name): Figure(float(one["median"]), float(one["low"]), float(one["high"]), int(one["samples"]))
        for name, one in tree["figures"].items()
    }
    musts = tuple(Must(str(one["against"]), float(one["bar"]), str(one["of"])) for one in tree["musts"])
    row = Row(
        name=str(tree["name"]),
        unit=str(tree["unit"]),
        figures=figures,
        base=str(tree["base"]),
        musts=musts,
        operations=tree["operations"],
        skipped=tree["skipped"],
    )
    row.checks()  # raises if a limit's figures are missing
    if row.base and row.base not in figures:
        raise ValueError(f"row {row.name!r} has no figure for its base {row.base!r}")
    return row
