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


def rows_of(strategy: str) -> tuple[str, str, str]:
    """Return the names of a strategy's table rows: the model that it found, the retrained cell, and the supernet.

    Only strategies that derive a cell from a trained supernet have the third row.
    """
    name = row_name(strategy)
    return name, f"{name}_retrained", f"{name}_supernet"
