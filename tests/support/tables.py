"""A small table of genotypes whose figures are computed, not trained."""

from __future__ import annotations

from grownas.config import loading
from grownas.experiments.tabulate import draw, recipe_facts
from grownas.genotype_table import Entry, GenotypeTable, Training
from grownas.space import SearchSpace

SPACE = SearchSpace(("add", "hadamard"), ("identity", "tanh", "sigmoid", "relu"), max_nodes=3, max_ops=8)
SEEDS = (1, 2, 3)


def table_of(count: int = 30, figure=lambda place, seed: 1.0 + place + seed / 10) -> GenotypeTable:
    """A table whose validation figure is that of a function of place and seed; the test figure is twice as high."""
    section = loading.load("index_returns/evolution").strategy
    about = {
        "command": "made by hand", "versions": {}, "task": "index_returns", "data": "planted", "metric": "mse",
        "recipe": recipe_facts(section), "hidden_size": 16,
    }  # fmt: skip
    entries = []
    for place, genotype in enumerate(draw(SPACE, count, seed=1)):
        values = [(seed, figure(place, seed)) for seed in SEEDS]
        trainings = tuple(Training(seed, value / 2, value, 2 * value, 90, 10, 2) for seed, value in values)
        entries.append(Entry(genotype, 700 + place, trainings))
    return GenotypeTable(about, SPACE, tuple(entries))


def write(table: GenotypeTable, path) -> None:
    """Write a table's file."""
    path.write_text("".join(f"{line}\n" for line in table.lines()), encoding="utf-8")
