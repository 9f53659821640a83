"""The JSON of genotypes: reading, writing, and the checks that all backbones share. `genotype` has the backbones."""

from __future__ import annotations

import difflib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from grownas.errors import GenotypeError

if TYPE_CHECKING:
    from grownas.genotype import AnyGenotype
    from grownas.genotype_bits import Bits

FORMAT, VERSION = "grownas.genotype", 1
HEAD = ("format", "version", "backbone", "nodes")


class Reader(NamedTuple):
    """How genotypes of a backbone are read.

    Attributes:
        read: makes a genotype of plain values; raises GenotypeError if a value is wrong.
        keys: optional keys at the top level, beside `HEAD`.
    """

    read: Callable[[Mapping[str, Any]], AnyGenotype]
    keys: Sequence[str]


READERS: dict[str, Reader] = {}  # by backbone; filled by `genotype`


class Saved(ABC):
    """Base class of genotypes: JSON and a description in words."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return the genotype as plain values, as in the JSON."""

    @property
    @abstractmethod
    def op_count(self) -> int:
        """Number of ops in all nodes."""

    @property
    @abstractmethod
    def bits(self) -> tuple[Bits, ...]:
        """Widths of each unit in order, see `grownas.bits`; empty if weights and inputs are real numbers."""

    @abstractmethod
    def with_bits(self, bits: Sequence[Bits]) -> Self:
        """Return the genotype with other widths, one pair per unit; without widths if there are none.

        Raises:
            GenotypeError: the number of pairs is wrong.
        """

    @property
    def figures(self) -> dict[str, int]:
        """Further figures of the cell for the summary of a run; none by default."""
        return {}

    @abstractmethod
    def in_words(self) -> list[str]:
        """Describe what each node reads and does, line by line."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON atomically."""
        part = Path(f"{os.fspath(path)}.part")
        part.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @staticmethod
    def from_dict(mapping: Mapping[str, Any]) -> AnyGenotype:
        """Return the genotype of some plain values, of the backbone that they name; the inverse of `to_dict`.

        Raises:
            GenotypeError: a key or a value is wrong; the message quotes its place.
        """
        tree = fields_of(mapping, "genotype", HEAD, [key for reader in READERS.values() for key in reader.keys])
        for key, wanted in (("format", FORMAT), ("version", VERSION)):
            if tree[key] != wanted or isinstance(tree[key], bool):
                raise GenotypeError(f"{key}: {tree[key]!r} is not supported; expected {wanted!r}")
        backbone = tree["backbone"]
        if not isinstance(backbone, str) or backbone not in READERS:
            expected = " or ".join(map(repr, READERS))
            raise GenotypeError(f"backbone: {backbone!r} is not supported; expected {expected}")
        return READERS[backbone].read(tree)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> AnyGenotype:
        """Read JSON of any backbone.

        Args:
            path: a file or a run folder; if neither exists, the name of a published cell (see `published`).

        Raises:
            GenotypeError: the file is missing or wrong; the message quotes the file and the place in it.
        """
        name, cells = os.fspath(path), published()
        file = cells[name] if name in cells and not os.path.exists(path) else Path(os.path.expanduser(path))
        if file.is_dir():
            file = file / "genotype.json"
            if not file.exists():
                raise GenotypeError(f"{name}: the folder has no genotype.json; give the folder of a finished run")
        try:
            tree = json.loads(
                file.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant
            )
            return Saved.from_dict(tree)
        except FileNotFoundError as error:
            raise GenotypeError(
                f"{name}: no such file; give the path of a genotype.json or a published cell: "
                f"{', '.join(cells)}{_hint(name, tuple(cells))}"
            ) from error
        except (OSError, UnicodeDecodeError, RecursionError) as error:
            raise GenotypeError(f"{name}: cannot be read: {error}") from error
        except ValueError as error:  # also raised for a number with too many digits
            raise GenotypeError(f"{name}: not JSON: {error}") from error
        except GenotypeError as error:
            raise GenotypeError(f"{name}: {error}") from error


def published() -> dict[str, Path]:
    """Return the paths of the published cells that the package contains, by name."""
    folder = Path(str(resources.files("grownas") / "cells" / "published"))
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def is_number(value: Any) -> bool:
    """Return whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def fields_of(value: Any, place: str, needed: Sequence[str], optional: Sequence[str] = ()) -> Mapping[str, Any]:
    """Return an object of plain values; refuse it if keys are missing or unknown."""
    if not isinstance(value, Mapping):
        raise GenotypeError(f"{place}: {value!r} is not an object with {', '.join(needed)}")
    for key in value:
        known(key, (*needed, *optional), f"{place}: key")
    missing = [key for key in needed if key not in value]
    if missing:
        raise GenotypeError(f"{place}: {', '.join(missing)} missing")
    return value


def items_of(value: Any, place: str) -> Sequence[Any]:
    """Return a list of plain values; refuse anything else."""
    if not isinstance(value, list | tuple):
        raise GenotypeError(f"{place}: {value!r} is not a list")
    return value


def flag(value: Any, place: str) -> bool:
    """Return true or false; refuse anything else."""
    if not isinstance(value, bool):
        raise GenotypeError(f"{place}: {value!r} is not true or false")
    return value


def known(value: Any, allowed: Collection[str], place: str) -> None:
    """Refuse a name that is not allowed, with the nearest one that is."""
    if not isinstance(value, str) or value not in allowed:
        raise GenotypeError(
            f"{place}: unknown {value!r}, expected one of {', '.join(allowed)}{_hint(str(value), allowed)}"
        )


def _hint(value: str, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(value, allowed, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise GenotypeError(f"key {twice!r} appears twice in one object")
    return dict(pairs)


def _no_constant(word: str) -> float:
    raise GenotypeError(f"{word} is not a finite number")
