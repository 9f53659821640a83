"""A config as people see it: all keys, their values, the words they take and what they mean; and it reads back."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from grownas.config import loading as configs
from grownas.config.listing import COMMENTS_AT, is_config, listing
from grownas.config.loading import load
from grownas.config.schema import Section, about

SHIPPED = sorted(configs.shipped())


class Inner(Section):
    """What lies inside.

    Not shown.
    """

    depth: Annotated[int, about("metres")] = 3
    kind: Annotated[Literal["a", "b"], about("sort\nof it")] = "b"


class Outer(Section):
    inner: Inner = Inner()
    words: tuple[Literal["x", "y"], ...] = ("x",)
    either: int | Literal["auto"] = "auto"
    text: Annotated[str, about("free")] = ""
    plain: bool = False
    missing: float | None = None


def test_every_key_stands_with_value_choice_and_meaning():
    assert [re.sub(" {2,}#", "  #", line) for line in listing(Outer()).splitlines()] == [
        "inner:  # What lies inside.",
        "  depth: 3  # metres",
        "  kind: b  # a | b: sort of it",
        "words: [x]  # x | y",
        "either: auto",  # one word is no choice
        "text: ''  # free",
        "plain: false",
        "missing: null",
    ]


def test_comments_line_up_unless_a_value_is_long():
    lines = listing(Outer(text="x" * 100)).splitlines()
    assert {line.index("#") for line in lines if "#" in line and "xxx" not in line} == {COMMENTS_AT}
    assert f"text: {'x' * 100}  # free" in lines


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shown_of_a_shipped_config_is_the_same_config(tmp_path, name):
    words = ["task.tickers=['^GSPC', 'NO']"] if name.startswith("index") else []
    config = load(name, ["seed=7", *words])
    path = tmp_path / "own.yaml"
    path.write_text(listing(config), "utf-8")
    assert load(path) == config


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=3),
    rate=st.floats(1e-300, 1e300),
)
def test_any_values_read_back_as_they_were(tmp_path_factory, text, names, rate):
    first = configs.config_class("index_returns", "growing").model_validate(
        {"task": {"cache": text, "tickers": names}, "strategy": {"weights": {"rate": rate}}}
    )
    path = tmp_path_factory.getbasetemp() / "listing.yaml"
    path.write_text(listing(first), "utf-8")
    assert load(path) == first


def test_all_keys_of_the_run_folders_config_are_shown():
    config = load("index_returns/growing")
    assert yaml.safe_load(listing(config)) == yaml.safe_load(config.dump({}))


def test_every_key_is_explained_unless_its_name_says_all():
    path, bare = [], set()
    for line in listing(load("index_returns/growing")).splitlines():
        key, depth = line.strip().partition(":")[0], (len(line) - len(line.lstrip())) // 2
        path[depth:] = [key]
        if "  # " not in line:
            bare.add(".".join(path))
    assert bare == {
        "task.use", "strategy.use", "strategy.weights.rate", "strategy.alpha.rate",
        "strategy.max_params", "retrain.rate",
    }  # fmt: skip


def test_a_config_is_told_from_runs_and_genotypes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("own.yaml", "own.yml", "genotype.json", "noname"):
        (tmp_path / name).touch()
    (tmp_path / "folder.yaml").mkdir()
    known = {"own.yaml": True, "own.yml": True, "genotype.json": False, "noname": False, "folder.yaml": False}
    absent = {"gone.yaml": True, "gone.json": False, "runs/gone": False, "x" * 5000: False}
    shipped = {"index_returns/growing": True, "index_returns/growing.yaml": True, "index_returns/growin": True}
    for name, answer in {**known, **absent, **shipped}.items():
        assert is_config(name) == answer, name
    (tmp_path / "index_returns" / "growing").mkdir(parents=True)
    assert not is_config("index_returns/growing")  # a folder of this name is a run
