"""The rows of a backtest on texts: labels, and a checksum of all that is read."""

from __future__ import annotations

import pytest

from grownas.config.loading import load
from grownas.experiments.timeline import timeline_of
from grownas.tasks.penn_treebank.task import PennTreebank

QUICK = {"task.streams": 2, "task.bptt": 5}


@pytest.fixture
def text(tmp_path):
    """Return what writes a text of 3 x `lines` lines of 10 words to a folder, and returns its path."""

    def write(place, lines=40, words="the cat sat on the mat and looked up"):
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        for part in ("train", "valid", "test"):
            (folder / f"{part}.txt").write_text(f"{words}\n" * lines)
        return str(folder)

    return write


def timeline(data, then=None):
    config = load("penn_treebank/growing_cpu", {**QUICK, "task.data": data, "backtest.then": then})
    return timeline_of(config, PennTreebank.load(config.task))


def test_two_texts_of_one_name_are_two_periods(text):
    first, then = text("one/text"), text("other/text")
    both = timeline(first, then)
    labels, periods = both.labels(2)
    assert labels == [str(100 * row) for row in range(2, 16)]  # 400 words learned, then 1,200
    assert periods == ["text"] * 2 + [then] * 12
    assert both.source == f"{first}, then {then}"


def test_the_checksum_covers_both_texts(text):
    first = text("first")
    alone = timeline(first).checksum
    assert alone == PennTreebank.load(load("penn_treebank/growing_cpu", {**QUICK, "task.data": first}).task).checksum
    found = {alone}
    for words in ("the cat", "the mat", "the cat"):
        found.add(timeline(first, text("then", words=words)).checksum)
    assert len(found) == 3
    found.add(timeline(text("first", lines=41), text("then")).checksum)
    assert len(found) == 4
