"""A comparison over sub-panels: real processes, one a sub-panel."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

PANELS = (
    *("panels=2", "workers=2", "retrain.grown=false", "strategy.max_epochs=1", "strategy.max_nodes=1"),
    *("start.rule=combined", "space.hidden_size=12"),  # room for a lag and two averages of three series
    *("baselines.use=[zero,var1,har]", "baselines.compare=[]"),
)


@pytest.fixture(scope="session")
def long(tmp_path_factory, write_closes) -> Path:
    return write_closes(tmp_path_factory.mktemp("long") / "closes.csv", 850)


@pytest.fixture(scope="session")
def compared(runs, call, long) -> Path:
    ended = call("compare", *runs.options("name=panels", f"task.data={long}", *PANELS, "quiet=false"))
    assert ended.code == 0, ended.err
    assert "regrets: " in ended.out
    assert "over the lowest of zero, var1, har, on 2 panels" in ended.out
    return runs.folder / "panels"


def test_the_folder_holds_a_run_a_panel_and_the_regrets(compared, read_json):
    result = read_json(compared / "panels.json")
    assert [one["panel"] for one in result["panels"]] == ["panel-1", "panel-2"]
    assert {"grown", "start", "zero", "var1", "har"} <= {one["model"] for one in result["models"]}
    for number, panel in enumerate(result["panels"], 1):
        summary, data = (read_json(compared / f"panel-{number}" / name) for name in ("summary.json", "data.json"))
        further = read_json(compared / f"panel-{number}-random" / "summary.json")["scores"]
        wanted = {entry["model"]: entry["test"] for entry in summary["scores"]}
        assert panel["test"] == wanted | {e["model"]: e["test"] for e in further if e["model"].startswith("random")}
        assert data["cleaning"]["subpanel"]["number"] == number
        assert summary["seed"] == 1


def test_the_runs_start_at_the_combination(compared, read_json):
    for number in (1, 2):
        scores = read_json(compared / f"panel-{number}" / "summary.json")["scores"]
        chosen = next(entry["chosen"] for entry in scores if entry["model"] == "start")
        assert {"loss", "order", "centres", "weights"} == set(chosen)


def test_a_panels_run_is_the_search_alone(compared, runs, long, assert_same_run, evaluates_to_summary):
    options = [one for one in PANELS if not one.startswith(("panels", "workers"))]
    alone = runs.search("alone-panel", f"task.data={long}", "task.subpanel=2", *options)
    assert_same_run(compared / "panel-2", alone)
    evaluates_to_summary(compared / "panel-2")


@pytest.mark.slow
def test_a_comparison_goes_on_and_takes_more_panels(forked_seeds, compared, tmp_path, call, read_json):
    folder = Path(shutil.copytree(compared, tmp_path / "panels"))
    before = (folder / "panels.json").read_bytes()
    (folder / "panel-2" / "summary.json").unlink()
    assert call("resume", folder).code == 0
    assert (folder / "panels.json").read_bytes() == before
    ended = call("resume", folder, "panels=3")
    assert ended.code == 0, ended.err
    assert len(read_json(folder / "panels.json")["panels"]) == 3


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_what_reads_one_run_names_a_run_of_the_comparison(compared, call, command):
    ended = call(command, compared)
    assert ended.code == 2
    assert f"such as {compared / 'panel-1'}" in ended.err


def test_a_panel_too_short_is_refused_before_work_begins(runner, call):
    ended = call("compare", *runner.options("name=short", *PANELS))
    assert ended.code == 2
    assert "sub-panels need at least 2 series and 800 rows of returns, the data have 3 and 299" in ended.err
    assert not (runner.folder / "short").exists()


def test_a_text_has_no_subpanels(tmp_path, call):
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text("a b c d e f g h\n" * 300)
    ended = call(
        "compare",
        "penn_treebank/growing",
        f"task.data={tmp_path}",
        f"runs={tmp_path}",
        "panels=2",
        "device=cpu",
        "bf16=false",
    )
    assert ended.code == 2
    assert "panels=2: penn_treebank has no sub-panels; set panels=null" in ended.err
