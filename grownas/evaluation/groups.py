"""The run folders of a comparison, those of one seed or panel together, and the rows that each adds to its table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

Group = str | os.PathLike[str] | Sequence[Path]  # of one seed or panel: one folder, or the first strategy's and others


def grouped(folders: Sequence[Group]) -> list[list[Path]]:
    """Return each group as a list of folders, the first strategy's first."""
    return [
        [Path(group)] if isinstance(group, str | os.PathLike) else [Path(folder) for folder in group]
        for group in folders
    ]


def row_name(strategy: str) -> str:
    """Return the name of the row of the model that a strategy found."""
    return "grown" if strategy == "growing" else strategy


def rows_of(strategy: str) -> tuple[str, str, str]:
    """Return the names of a strategy's rows: the model that it found, its cell trained anew, the supernet it trained.

    Only strategies that read a cell out of a supernet have the third.
    """
    name = row_name(strategy)
    return name, f"{name}_retrained", f"{name}_supernet"
