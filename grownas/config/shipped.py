"""Finds the configs shipped with the package; imports nothing heavy, because shell completion lists them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def shipped() -> dict[str, Path]:
    """Return every shipped config: name -> path."""
    root = Path(str(resources.files("grownas.configs")))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}
