"""Tables of genotypes that were trained with several seeds: searches are replayed on them without training.

A table is a file of JSON lines. The first line says what was trained and how; each further line is a genotype with its
trainings. All genotypes are chains of one search space.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grownas.encoding import Code, Encoding
from grownas.errors import ConfigError, DataError, GenotypeError
from grownas.genotype import AnyGenotype, Genotype, Node, Op
from grownas.space import SearchSpace

FORMAT, VERSION = "grownas.table", 1
NEIGHBOURS = 10  # a mutation draws one of so many nearest genotypes


class Training(NamedTuple):
    """One training of a genotype.

    Attributes:
        seed: of weights and data order.
        loss: mean validation loss at the best epoch.
        val, test: the task's metric on the validation and test part at the best epoch.
        steps: weight steps.
        epochs: number of epochs trained.
        best_epoch: the epoch with the lowest validation loss.
    """

    seed: int
    loss: float
    val: float
    test: float
    steps: int
    epochs: int
    best_epoch: int


class Entry(NamedTuple):
    """A genotype with equal shares, its number of trained parameters, and its trainings, one per seed."""

    genotype: Genotype
    params: int
    trainings: tuple[Training, ...]


@dataclass(frozen=True)
class GenotypeTable:
    """Genotypes of a space and their trainings.

    Attributes:
        about: plain values: `command` that makes the table, `versions`, `task`, `data` (value of `task.data`),
            `metric`, `recipe` (the training options of a sampling strategy) and `hidden_size`.
        full: the space from which the genotypes were drawn.
        entries: different genotypes, at least two; all have the same seeds.
    """

    about: Mapping[str, Any]
    full: SearchSpace
    entries: tuple[Entry, ...]

    @property
    def seeds(self) -> list[int]:
        """The seeds of each genotype's trainings."""
        return [one.seed for one in self.entries[0].trainings]

    @cached_property
    def space(self) -> TableSpace:
        """The space of the table's genotypes alone."""
        return TableSpace(**asdict(self.full), genotypes=tuple(one.genotype for one in self.entries))

    def lines(self) -> Iterator[str]:
        """Yield the lines of the file."""
        head = {"format": FORMAT, "version": VERSION, **self.about, "space": asdict(self.full)}
        yield json.dumps(head)
        for entry in self.entries:
            nodes = [[op.name for op in node.ops] for node in entry.genotype.nodes]
            trainings = [one._asdict() for one in entry.trainings]
            yield json.dumps({"nodes": nodes, "params": entry.params, "trainings": trainings})

    @classmethod
    def read(cls, path: Path) -> GenotypeTable:
        """Read a file.

        Raises:
            DataError: the file is missing or damaged; the message says where.
        """
        try:
            head, *rest = path.read_text("utf-8").splitlines()
            about = json.loads(head)
            found = {key: about.pop(key, None) for key in ("format", "version")}
            if found != {"format": FORMAT, "version": VERSION}:
                raise ValueError(f"expected {FORMAT} of version {VERSION}, got {found}")
            fields: dict[str, Any] = about.pop("space")
            fields |= {key: tuple(own) for key, own in fields.items() if isinstance(own, list)}
            full = SearchSpace(**fields)
            table = cls(about, full, tuple(_entry(json.loads(line), full) for line in rest))
            table._check()
        except OSError as error:
            raise DataError(
                f"task.replay: {path} cannot be read: {error.strerror}; make it with `grownas tabulate`, or "
                "name a table that the task knows"
            ) from error
        except (ValueError, TypeError, KeyError, AttributeError, ConfigError, GenotypeError) as error:
            raise DataError(f"task.replay: {path} is not a table of genotypes: {error!s}") from error
        return table

    def _check(self) -> None:
        missing = {"command", "versions", "task", "data", "metric", "recipe", "hidden_size"} - self.about.keys()
        if missing:
            raise ValueError(f"line 1 lacks {', '.join(sorted(missing))}")
        if len({self.space.code(one.genotype).tobytes() for one in self.entries}) < max(2, len(self.entries)):
            raise ValueError(f"expected at least 2 genotypes, all different, got {len(self.entries)}")
        for number, entry in enumerate(self.entries, start=2):
            if not self.seeds or [one.seed for one in entry.trainings] != self.seeds:
                raise ValueError(f"line {number}: expected one training with each of the seeds {self.seeds}")


def _entry(tree: Mapping[str, Any], full: SearchSpace) -> Entry:
    nodes = tuple(Node(tuple(_op(name, 1 / len(names)) for name in names)) for names in tree["nodes"])
    genotype = Genotype(nodes, full.highway, full.share_projection)
    if not full.contains(genotype):
        raise ValueError(f"{tree['nodes']} is not in the space of line 1")
    return Entry(genotype, int(tree["params"]), tuple(_training(one) for one in tree["trainings"]))


def _training(tree: Mapping[str, Any]) -> Training:
    for name, value in tree.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"expected finite numbers, got {name}={value!r}")
    return Training(**tree)


def _op(name: str, share: float) -> Op:
    combine, _, activation = name.partition("/")
    return Op(combine, activation, share)


@dataclass(frozen=True)
class TableSpace(SearchSpace):
    """The genotypes of a table as a search space.

    `sample` draws one of them. `mutate` draws one of the nearest ones: the distance of two genotypes is the number of
    entries in which their codes differ (`encoding.Encoding`). A table holds a tiny part of its space, so this step is
    longer than a mutation in the whole space. Shares and the order of ops in a node do not matter.

    Attributes:
        genotypes: the genotypes, with different codes.
    """

    genotypes: tuple[Genotype, ...] = ()

    def contains(self, genotype: AnyGenotype) -> bool:
        """Return whether a genotype is in the table; its shares do not matter."""
        if genotype in self._members:
            return True
        return super().contains(genotype) and self.code(genotype).tobytes() in self._places

    def sample(self, rng: random.Random) -> AnyGenotype:
        """Draw a genotype of the table."""
        return rng.choice(self.genotypes)

    def mutate(self, genotype: AnyGenotype, rng: random.Random) -> AnyGenotype:
        """Draw one of the `NEIGHBOURS` genotypes that are nearest to a genotype, without itself.

        Raises:
            GenotypeError: the genotype is not in the table.
        """
        if not self.contains(genotype):
            raise GenotypeError(f"{genotype} is not in the table; only a genotype of the table can be mutated")
        return self.genotypes[rng.choice(self._neighbours[self.place(genotype)])]

    def place(self, genotype: AnyGenotype) -> int:
        """Return the number of the genotype that is nearest to a genotype of the whole space; of equals the first."""
        code = self.code(genotype)
        found = self._places.get(code.tobytes())
        return int(np.abs(self._codes - code).sum(1).argmin()) if found is None else found

    def code(self, genotype: AnyGenotype) -> Code:
        """Return the code of a genotype of the whole space."""
        return self._encoding.encode(genotype)

    @cached_property
    def _encoding(self) -> Encoding:
        fields = {key: value for key, value in asdict(self).items() if key != "genotypes"}
        return Encoding(SearchSpace(**fields))

    @cached_property
    def _codes(self) -> Code:
        return np.stack([self.code(one) for one in self.genotypes])

    @cached_property
    def _members(self) -> frozenset[AnyGenotype]:
        return frozenset(self.genotypes)

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {code.tobytes(): place for place, code in enumerate(self._codes)}

    @cached_property
    def _neighbours(self) -> list[Sequence[int]]:
        """For each genotype, the places of the nearest others, the nearest first."""
        distances = np.abs(self._codes[:, None] - self._codes).sum(2)
        np.fill_diagonal(distances, np.inf)
        return [np.argsort(row, kind="stable")[: min(NEIGHBOURS, len(row) - 1)].tolist() for row in distances]
