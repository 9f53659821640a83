"""A comparison over panels, drawn from one panel (real processes, one a panel) or listed."""

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


@pytest.fixture(scope="session")
def listed(runs, call, write_closes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    files = [write_closes(folder / f"{name}.csv", 320, seed=seed) for seed, name in enumerate(("one", "two"))]
    ended = call(
        *("compare", *runs.options("name=listed", f"panels=[{','.join(map(str, files))}]", "seeds=[1,2]")),
        *("cluster=in_process", "strategies=[growing]", "retrain.grown=false", "strategy.max_epochs=1"),
        *("strategy.max_nodes=1", "baselines.use=[zero,var1]", "quiet=false"),
    )
    assert ended.code == 0, ended.err
    lines = [line.split() for line in ended.out.splitlines()]
    assert ["panel", "series", "test", "rows", "seeds"] in [line[:5] for line in lines]
    assert [line[:4] for line in lines if line[:1] in (["one"], ["two"])] == [
        ["one", "3", "48", "2"],
        ["two", "3", "48", "2"],
    ]
    assert "over the lowest of zero, var1, on 2 panels" in ended.out
    return runs.folder / "listed"


def test_a_list_of_panels_runs_every_panel_with_every_seed(listed, read_json):
    result = read_json(listed / "panels.json")
    assert [(one["panel"], one["seeds"]) for one in result["panels"]] == [("panel-one", [1, 2]), ("panel-two", [1, 2])]
    for panel in result["panels"]:
        summaries = [read_json(listed / f"{panel['panel']}-seed-{seed}" / "summary.json") for seed in (1, 2)]
        assert [summary["seed"] for summary in summaries] == [1, 2]
        for model, test in panel["test"].items():
            both = [entry["test"] for summary in summaries for entry in summary["scores"] if entry["model"] == model]
            assert test == pytest.approx(sum(both) / 2, rel=1e-12)
    sources = [read_json(listed / f"panel-{name}-seed-1" / "data.json")["source"] for name in ("one", "two")]
    assert sources == ["one.csv", "two.csv"]


def test_a_run_of_a_listed_panel_evaluates_to_its_summary(listed, call, evaluates_to_summary):
    evaluates_to_summary(listed / "panel-two-seed-2")
    assert f"such as {listed / 'panel-one-seed-1'}" in call("evaluate", listed).err


@pytest.mark.parametrize(
    ("panels", "words"),
    [
        ("[bundled,white_noise,bundled]", "expected each value once, but 'bundled' is repeated"),
        ("[a/closes.csv,b/closes.csv]", "expected each value once, but 'closes' is repeated"),
        ("[no-such-file.csv]", "no-such-file.csv: no such file"),
        ("[]", "at least 1 value(s)"),
        ("0", "greater than or equal to 1"),
    ],
)
def test_a_wrong_list_of_panels_is_refused_before_work_begins(runner, call, panels, words):
    ended = call("compare", *runner.options("name=wrong", f"panels={panels}"))
    assert ended.code == 2
    assert words in ended.err
    assert not (runner.folder / "wrong").exists()


def test_options_that_do_not_fit_a_listed_panel_are_named(runner, call):
    ended = call("compare", *runner.options("task.values=levels", "panels=[white_noise]"))
    assert ended.code == 2
    assert "panels: task.values applies only to files, but task.data is white_noise, which holds returns" in ended.err


def test_a_panel_too_short_is_refused_before_work_begins(runner, call):
    ended = call("compare", *runner.options("name=short", *PANELS))
    assert ended.code == 2
    assert "sub-panels need at least 2 series and 800 rows of returns, the data have 3 and 299" in ended.err
    assert not (runner.folder / "short").exists()


def test_a_text_has_no_panels(tmp_path, call):
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
    ended = call("compare", "penn_treebank/growing", "panels=[a,b]", f"runs={tmp_path}")
    assert ended.code == 2
    assert "panels: penn_treebank has no panels; set panels=null" in ended.err
