"""A published cell, given by name, through a whole run."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from grownas.genotype import Genotype


@pytest.mark.parametrize("name", ["darts_v2", "enas"])
def test_it_is_trained_scored_drawn_followed_and_reloaded(
    runner, call, evaluates_to_summary, read_json, followed, name
):
    genotype, units = Genotype.load(name), 8
    ended = call("train", *runner.options("name=published", f"genotype={name}"))
    assert ended.code == 0, ended.err
    folder, nodes = runner.folder / "published", len(genotype.nodes)
    summary = read_json(folder / "summary.json")
    assert (summary["nodes"], summary["ops"], summary["backend"]) == (nodes, nodes, "native")
    cell = (3 + units) * 2 * units + nodes * units * 2 * units
    assert summary["params"] == cell + 3 * units + 3
    assert Genotype.load(folder / "genotype.json") == genotype
    evaluates_to_summary(folder)
    page = (folder / "report.html").read_text("utf-8")
    assert f"state {nodes}: reads state {genotype.nodes[-1].reads}" in page
    assert "Each state reads one earlier state" in page
    assert "Each node mixes" not in page
    shown = call("show", folder)
    assert shown.out.startswith(f"{nodes} node(s), {nodes} op(s), {summary['params']:,} parameters")
    assert shown.out.splitlines()[1:] == call("show", name).out.splitlines()[1:] == genotype.in_words()
    assert call("predict", folder).code == 0
    rows = list(csv.DictReader((folder / "forecasts.csv").read_text().splitlines()))
    ahead = [float(row["forecast"]) for row in rows if not row["actual"]]
    closes = np.array(
        [list(row.values())[1:] for row in csv.DictReader(runner.data.read_text().splitlines())], dtype=float
    )
    follower = followed((folder / "equations.txt").read_text("utf-8"))
    np.testing.assert_allclose(follower.forecast(np.diff(np.log(closes), axis=0))[-1], ahead, rtol=0, atol=1e-6)


def test_a_near_name_is_suggested(runner, call):
    ended = call("train", *runner.options("genotype=dart_v2"))
    assert ended.code == 2
    assert "genotype=dart_v2: no such file, baseline or published cell; did you mean darts_v2?" in ended.err
    shown = call("show", "dart_v2")
    assert shown.code == 2
    assert "dart_v2: no such file; " in shown.err
    assert "did you mean 'darts_v2'?" in shown.err
