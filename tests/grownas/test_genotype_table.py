"""Tables of trained genotypes: their file, and their genotypes as a search space."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from grownas.encoding import Encoding
from grownas.errors import DataError, GenotypeError
from grownas.genotype import Genotype, Node, Op
from grownas.genotype_table import NEIGHBOURS, GenotypeTable
from support.tables import SEEDS, SPACE, table_of, write


@pytest.fixture(scope="module")
def table():
    return table_of()


def test_a_table_survives_its_file(table, tmp_path):
    write(table, tmp_path / "table.jsonl")
    again = GenotypeTable.read(tmp_path / "table.jsonl")
    assert again == table
    assert again.seeds == list(SEEDS)


def changed(line, change):
    """Return a change of one line of a file, as JSON."""

    def apply(lines):
        tree = json.loads(lines[line])
        change(tree)
        return [*lines[:line], json.dumps(tree), *lines[line + 1 :]]

    return apply


DAMAGED = {
    "no JSON": (lambda lines: ["nothing"], "not a table"),
    "empty": (lambda lines: [], "not a table"),
    "version": (changed(0, lambda tree: tree.update(version=2)), "expected grownas.table of version 1"),
    "no recipe": (changed(0, lambda tree: tree.pop("recipe")), "line 1 lacks recipe"),
    "another space": (changed(0, lambda tree: tree["space"].update(max_nodes=1)), "not in the space of line 1"),
    "twice": (lambda lines: [*lines, lines[-1]], "all different, got 31"),
    "no seed": (changed(3, lambda tree: tree["trainings"].pop()), "line 4: expected one training"),
    "a word": (changed(2, lambda tree: tree.update(nodes=[["add/sine"]])), "sine"),
    "no number": (changed(2, lambda tree: tree["trainings"][0].update(val="low")), "got val='low'"),
    "not finite": (changed(2, lambda tree: tree["trainings"][0].update(loss=math.nan)), "got loss=nan"),
    "no test": (changed(2, lambda tree: tree["trainings"][0].pop("test")), "test"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(table, tmp_path, name):
    damage, words = DAMAGED[name]
    path = tmp_path / "table.jsonl"
    path.write_text("".join(f"{line}\n" for line in damage(list(table.lines()))))
    with pytest.raises(DataError, match=words):
        GenotypeTable.read(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="make it with `grownas tabulate`"):
        GenotypeTable.read(tmp_path / "none.jsonl")


def test_samples_are_all_the_tables_genotypes(table):
    space, rng = table.space, random.Random(1)
    assert {space.sample(rng) for _ in range(1000)} == {one.genotype for one in table.entries}


def test_shares_and_the_order_of_ops_do_not_matter(table):
    genotype = next(one.genotype for one in table.entries if len(one.genotype.nodes[0].ops) > 1)
    first, *others = genotype.nodes
    ops = [replace(op, share=share) for op, share in zip(first.ops[::-1], shares(len(first.ops)), strict=True)]
    other = Genotype((Node(tuple(ops)), *others))
    assert other != genotype
    assert table.space.contains(other)
    assert table.space.place(other) == table.space.place(genotype)


def shares(count):
    return [2 / (count + 1), *[1 / (count + 1)] * (count - 1)]


def test_a_mutation_is_one_of_the_nearest_others(table):
    space, rng = table.space, random.Random(2)
    codes = [Encoding(SPACE).encode(one) for one in space.genotypes]
    for genotype, code in zip(space.genotypes, codes, strict=True):
        distances = sorted(np.abs(code - other).sum() for other in codes if other is not code)
        found = [space.mutate(genotype, rng) for _ in range(50)]
        assert genotype not in found
        assert max(np.abs(Encoding(SPACE).encode(one) - code).sum() for one in found) <= distances[NEIGHBOURS - 1]
        assert len(set(found)) > NEIGHBOURS // 2


def test_any_genotype_of_the_whole_space_has_a_nearest_one(table):
    single = Genotype((Node((Op("add", "tanh"),)),))
    code = Encoding(SPACE).encode(single)
    distances = [np.abs(Encoding(SPACE).encode(one) - code).sum() for one in table.space.genotypes]
    assert distances[table.space.place(single)] == min(distances)


def test_a_genotype_that_is_not_in_the_table_cannot_be_mutated(table):
    outside = Genotype((Node((Op("add", "tanh"),)),) * 3)
    assert not table.space.contains(outside)
    assert not table.space.contains(Genotype((Node((Op("add", "tanh"),)),) * 4))
    with pytest.raises(GenotypeError, match="not in the table"):
        table.space.mutate(outside, random.Random(1))
