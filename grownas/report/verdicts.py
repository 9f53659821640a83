"""Verdicts: what a run's figures say, in words."""

from __future__ import annotations

from typing import Any

from grownas.report.reading import OURS
from grownas.report.tables import WORDS, score

Summary = dict[str, Any]


def verdict(entries: list[Summary], stopped: str | None, metric: str) -> str:
    """Say in words what was found, and which model is best on the test part."""
    words = [f"Growth ended: {stopped}."] if stopped else []
    ours, word = entries[0], WORDS.get(metric, metric)
    simple = [entry for entry in entries if entry["model"] not in OURS]
    if simple and ours["model"] in OURS:
        best = min(simple, key=lambda entry: entry["test"])
        relation = "lower than" if ours["test"] < best["test"] else "not lower than"
        words.append(
            f"The test {word} of {ours['model']}, {score(ours['test'], metric)}, is {relation} that of the best "
            f"baseline, {best['model']}, {score(best['test'], metric)}."
        )
    else:
        words.append(f"The test {word} of {ours['model']} is {score(ours['test'], metric)}.")
    return " ".join(words)
