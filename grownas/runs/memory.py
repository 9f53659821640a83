"""The results of a run that writes no folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from grownas.runs.rundir import RunDir


class MemoryFolder:
    """Keeps what a run would write (see `grownas.protocols.Folder`).

    Attributes:
        files: content by name: plain values, text, or tensors and notes.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.files: dict[str, Any] = {}

    def write_json(self, name: str, tree: Mapping[str, Any]) -> None:
        """Keep plain values."""
        self.files[name] = tree

    def write_text(self, name: str, text: str) -> None:
        """Keep a text."""
        self.files[name] = text

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
        """Keep copies of tensors on the CPU, and notes."""
        self.files[name] = {key: one.detach().cpu().clone() for key, one in tensors.items()}, dict(notes or {})

    def dump(self, folder: Path) -> None:
        """Write all that is kept into an existing folder, as a run writes it."""
        rundir = RunDir(folder)
        for name, content in self.files.items():
            if name.endswith(".safetensors"):
                rundir.write_tensors(name, *content)
            elif isinstance(content, str):
                rundir.write_text(name, content)
            else:
                rundir.write_json(name, content)
