"""An in-memory run folder, for runs that write nothing to disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from grownas.runs.rundir import RunDir


class MemoryFolder:
    """Keeps the files of a run in memory (see `grownas.protocols.Folder`).

    Attributes:
        files: file name -> content: plain values, text, a pair of tensors and notes, or the bytes of a file.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        """Create a folder that is empty, or holds the bytes of files."""
        self.files: dict[str, Any] = dict(files or {})

    def write_json(self, name: str, tree: Mapping[str, Any]) -> None:
        """Keep plain values."""
        self.files[name] = tree

    def write_text(self, name: str, text: str) -> None:
        """Keep text."""
        self.files[name] = text

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
        """Keep notes and copies of tensors on the CPU."""
        self.files[name] = {key: one.detach().cpu().clone() for key, one in tensors.items()}, dict(notes or {})

    def dump(self, folder: Path) -> None:
        """Write all files to an existing folder on disk, in the same form as a run folder."""
        rundir = RunDir(folder)
        for name, content in self.files.items():
            if isinstance(content, bytes):
                rundir.write_bytes(name, content)
            elif isinstance(content, str):
                rundir.write_text(name, content)
            elif name.endswith(".safetensors"):
                rundir.write_tensors(name, *content)
            else:
                rundir.write_json(name, content)
