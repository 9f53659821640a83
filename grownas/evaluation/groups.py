"""The run folders of a comparison, grouped by seed or panel, and the names of the table rows that each run adds."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grownas.errors import RunError

Group = str | os.PathLike[str] | Sequence[Path]  # one seed or panel: a folder, or one folder per strategy


def grouped(folders: Sequence[Group]) -> list[list[Path]]:
    """Return each group as a list of folders; the first strategy comes first."""
    return [
        [Path(group)] if isinstance(group, str | os.PathLike) else [Path(folder) for folder in group]
        for group in folders
    ]


def read_part(folder: Path, keys: set[str]) -> dict[str, Any]:
    """Return the `summary.json` of a part of a study, which must have these keys.

    Raises:
        RunError: the part is not finished, or damaged.
    """
    path = folder / "summary.json"
    if not path.is_file():
        raise RunError(f"{folder}: not a finished part of a study: {path.name} is missing; resume the study")
    try:
        part: dict[str, Any] = json.loads(path.read_text("utf-8"))
        missing = keys - part.keys()
    except (OSError, ValueError, AttributeError) as error:  # invalid JSON raises ValueError
        raise RunError(f"{folder}: damaged: {error}") from error
    if missing:
        raise RunError(f"{folder}: damaged: {', '.join(sorted(missing))} missing in {path.name}; run it again")
    return part


def row_name(strategy: str) -> str:
    """Return the name of the table row for the model that a strategy found."""
    return "grown" if strategy == "growing" else strategy


def rows_of(strategy: str) -> tuple[str, str, str]:
    """Return the names of a strategy's table rows: the model that it found, the retrained cell, and the supernet.

    Only strategies that derive a cell from a trained supernet have the third row.
    """
    name = row_name(strategy)
    return name, f"{name}_retrained", f"{name}_supernet"
