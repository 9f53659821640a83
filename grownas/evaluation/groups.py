"""The run folders of a comparison, grouped by seed or panel, and the names of the table rows that each run adds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

Group = str | os.PathLike[str] | Sequence[Path]  # one seed or panel: a folder, or one folder per strategy


def grouped(folders: Sequence[Group]) -> list[list[Path]]:
    """Return each group as a list of folders; the first strategy comes first."""
    return [
        [Path(group)] if isinstance(group, str | os.PathLike) else [Path(folder) for folder in group]
        for group in folders
    ]


def row_name(strategy: str) -> str:
    """Return the name of the table row for the model that a strategy found."""
    return "grown" if strategy == "growing" else strategy


def rows_of(strategy: str) -> tuple[str, str]:
    """Return the names of a strategy's table rows: the model that it found, and the retrained cell."""
    return row_name(strategy), f"{row_name(strategy)}_retrained"
