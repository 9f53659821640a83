"""`grownas backtest`: a folder that can be resumed after a kill, with the same bits from Python."""

from __future__ import annotations

import random
import shutil

import numpy as np
import pandas as pd
import pytest

import grownas
from grownas.errors import RunError
from support.slow import mostly_slow

NAMES = ("forecasts.safetensors", "intervals.safetensors", "losses.safetensors", "losses.csv")
MODELS = "models=[grown,var_robust,lstm,zero]"
OPTIONS = ("every=20", "how=[continue,grow]", MODELS, "backtest.holdout=30", "strategy.first_epochs=3")
UNTIL = {  # what must exist when the kill comes
    "in the search": "checkpoint/search-selection.done",
    "in the first model": "checkpoint/grown_continue-block-0.done",
    "between two models": "checkpoint/grown_continue-block-2.done",
    "in the second model": "checkpoint/grown_grow-block-1.done",
    "in a linear model": "checkpoint/var_robust-settings.done",
    "in a baseline": "checkpoint/lstm-block-1.done",
    "while the results are written": "forecasts.safetensors",
    "in the report": "backtest.json",
}


@pytest.fixture(scope="module")
def whole(runs, call):
    """A finished backtest; do not write to it."""
    ended = call("backtest", *runs.options("name=whole-backtest", *OPTIONS))
    assert ended.code == 0, ended.err
    return runs.folder / "whole-backtest"


@pytest.fixture
def assert_same(read_json, without_times):
    """Equal to the last bit, but for times."""

    def check(one, other):
        for name in NAMES:
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
        results = [read_json(folder / "backtest.json") for folder in (one, other)]
        for result in results:
            for row in result["models"]:
                del row["first_seconds"]
        assert without_times(results[0]) == without_times(results[1])

    return check


@pytest.mark.parametrize("moment", mostly_slow(UNTIL, keep=("in the first model", "in a baseline")))
def test_a_killed_backtest_goes_on_as_if_nothing_had_been(broken_off, call, whole, assert_same, moment):
    folder = broken_off(UNTIL[moment], *OPTIONS, command="backtest")
    ended = call("resume", folder)
    assert (ended.code, ended.err) == (0, "")
    assert_same(whole, folder)


@pytest.mark.usefixtures("forked_seeds")
def test_models_that_walk_in_processes_of_their_own_give_the_same_bits(runs, call, whole, assert_same):
    ended = call("backtest", *runs.options("name=apart", *OPTIONS, "workers=3"))
    assert ended.code == 0, ended.err
    folder = runs.folder / "apart"
    assert sorted(one.name for one in folder.glob("*/summary.json")) == ["summary.json"] * 4
    assert_same(whole, folder)
    ended = call("report", folder / "lstm")
    assert (ended.code, "a part of a backtest has no report" in ended.err) == (2, True)
    (folder / "backtest.json").unlink()
    for name in ("summary.json", "checkpoint/lstm-block-1.done"):  # as after a kill
        (folder / "lstm" / name).unlink()
    assert call("resume", folder).code == 0
    assert_same(whole, folder)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_backtest_killed_again_and_again_at_random_moments_ends_the_same(
    broken_off, fork, call, whole, assert_same, kills
):
    draw, folder = random.Random(kills), broken_off("checkpoint", *OPTIONS, command="backtest")
    for _ in range(kills - 1):
        process = fork("resume", folder)
        process.join(draw.uniform(0.05, 0.9))
        process.kill()
        process.join()
    assert call("resume", folder).code == 0
    assert_same(whole, folder)


@pytest.fixture(scope="module")
def from_python(runs, data):
    options = dict(item.split("=", 1) for item in runs.options(*OPTIONS[2:], "backtest.models=[]")[3:])
    options |= {"backtest.models": ["grown", "var_robust", "lstm", "zero"]}
    import yaml

    given = {key: yaml.safe_load(value) if isinstance(value, str) else value for key, value in options.items()}
    given.pop("models")
    frame = pd.read_csv(data, index_col="date", parse_dates=True)
    return grownas.backtest(
        "index_returns/growing", data=frame, every=20, how=["continue", "grow"], overrides=given, quiet=True
    )


def test_python_gives_the_bits_of_the_command_line(whole, from_python):
    loaded = grownas.load(whole)
    for name in ("forecasts", "intervals", "losses", "events", "years", "blocks"):
        pd.testing.assert_frame_equal(getattr(from_python, name), getattr(loaded, name), check_exact=True)
    assert from_python.folder is None
    assert loaded.folder == whole


def test_the_data_frames_fit_each_other(from_python):
    table, losses, forecasts = from_python.table, from_python.losses, from_python.forecasts
    assert list(table.index) == ["grown_continue", "grown_grow", "var_robust", "lstm", "zero"] == list(losses.columns)
    np.testing.assert_allclose(table["loss"], losses.mean(), rtol=1e-12)
    assert forecasts["actual"].shape == (45, 3) == forecasts["lstm"].shape
    assert forecasts.index.equals(losses.index)
    assert from_python.intervals.index.equals(losses.index)
    held = [
        ((forecasts["actual"] >= one["lower"]) & (forecasts["actual"] <= one["upper"])).to_numpy().mean()
        for one in (from_python.intervals[name].swaplevel(axis=1) for name in table.index)
    ]
    told = from_python.result["intervals"]
    np.testing.assert_allclose(held, [told[name]["coverage"] for name in table.index], rtol=1e-12)
    assert pd.isna(table.loc["grown_continue", "p_value"])
    assert table.loc["zero", "p_value"] >= 0
    assert from_python.blocks.shape == (3, 5)
    assert "5 models" in repr(from_python)


def test_the_report_draws_the_curves_and_shows_every_table(whole, drawn, call):
    assert call("report", whole).code == 0
    page = (whole / "report.html").read_text()
    for words in (
        "grown_continue",
        "cumulative loss minus",
        "Models</h2>",
        "Intervals</h2>",
        "grownas backtest whole-backtest/config",
    ):
        assert words in page


def test_a_report_without_the_forecasts_that_it_draws_is_refused_in_words(whole, call, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    (folder / "intervals.safetensors").unlink()
    ended = call("report", folder)
    assert ended.code == 2
    assert "forecasts and intervals of grown_continue do not fit backtest.json" in ended.err


def test_a_backtest_is_done_and_keeps_no_model(whole, call):
    assert "done" in call("status", whole).out
    ended = call("predict", whole)
    assert ended.code == 2
    assert "a backtest keeps forecasts and losses, but no model" in ended.err


def test_an_unfinished_backtest_is_refused_in_words(broken_off, call):
    folder = broken_off("checkpoint", *OPTIONS, command="backtest")
    with pytest.raises(RunError, match="not finished; continue it with `grownas resume"):
        grownas.load(folder)
    ended = call("report", folder)
    assert (ended.code, ended.out) == (2, "")
    assert "not finished" in ended.err


@pytest.mark.parametrize(
    ("item", "words"),
    [("every=0", "backtest.every"), ("models=[lsmt]", "lsmt"), ("origin=2020-01-09", "Choose a later origin")],
    ids=["every", "model", "origin"],
)
def test_wrong_input_ends_with_2_before_a_folder_is_made(runner, call, item, words):
    ended = call("backtest", *runner.options(item))
    assert ended.code == 2
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert not runner.folder.exists()


WORDS_QUICK = (
    "task.streams=2",
    "task.bptt=5",
    "space.hidden_size=6",
    "strategy.max_epochs=1",
    "strategy.max_nodes=1",
    "retrain.epochs=1",
    "every=2",
    "origin=5",
    "holdout=2",
    "evidence=4",
    "models=[grown,gru]",
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Two texts of about 1,000 and 300 words; the second has words that the first lacks."""
    draw, place = random.Random(0), tmp_path_factory.mktemp("both")
    for name, lines, words in (("texts", 120, "the cat sat on <unk>"), ("then-text", 12, "a dog sat on the")):
        (place / name).mkdir()
        for part in ("train", "valid", "test"):
            text = "".join(f" {' '.join(draw.choices(words.split(), k=6))} \n" for _ in range(lines))
            (place / name / f"{part}.txt").write_text(text)
    return place / "texts", place / "then-text"


@pytest.fixture(scope="module")
def read_on(call, texts, tmp_path_factory):
    """A finished backtest on both texts; do not write to it."""
    runs, (first, then) = tmp_path_factory.mktemp("read-on"), texts
    options = (f"task.data={first}", f"then={then}", f"runs={runs}", "name=whole", "how=[continue,state]", *WORDS_QUICK)
    ended = call("backtest", "penn_treebank/growing_cpu", *options)
    assert ended.code == 0, ended.err
    return runs / "whole"


def test_a_growing_text_gives_the_perplexity_of_each_block_before_it_is_learned(read_on, read_json):
    result = read_json(read_on / "backtest.json")
    assert [one["model"] for one in result["models"]] == ["grown_continue", "grown_state", "gru"]
    assert (result["metric"], result["period"], result["rows"]) == ("perplexity", "text", 5)  # of 100 words
    assert [one["name"] for one in result["years"]] == ["texts", "then-text"]
    assert [one["name"] for one in result["blocks"]] == ["500", "700", "900"]
    losses = grownas.load(read_on).losses
    assert list(losses.index) == [500, 600, 700, 800, 900]
    for one in result["models"]:
        assert one["loss"] == pytest.approx(np.exp(losses[one["model"]].mean()))
        assert result["blocks"][1]["losses"][one["model"]] == pytest.approx(np.exp(losses[one["model"]][2:4].mean()))
        assert 1 < one["loss"] < 7  # a uniform guess among 6 kinds of words gives 6
    assert "perplexity" in (read_on / "report.html").read_text()
    with pytest.raises(RunError, match="only a backtest on series has forecasts"):
        grownas.load(read_on).forecasts  # noqa: B018
    with pytest.raises(RunError, match="no intervals; only a backtest on series has them"):
        grownas.load(read_on).intervals  # noqa: B018


def test_the_later_text_changes_no_earlier_loss(read_on, call, texts, tmp_path):
    options = (f"task.data={texts[0]}", f"runs={tmp_path}", "name=one", "how=[continue,state]", *WORDS_QUICK)
    ended = call("backtest", "penn_treebank/growing_cpu", *options)
    assert ended.code == 0, ended.err
    alone, both = (grownas.load(folder).losses for folder in (tmp_path / "one", read_on))
    assert 0 < len(alone) < len(both)
    pd.testing.assert_frame_equal(both.iloc[: len(alone)], alone)


def test_a_backtest_of_a_text_goes_on_after_an_interruption(read_on, call, tmp_path):
    """All but the last block of the last model are read back from the checkpoint."""
    folder = tmp_path / "again"
    shutil.copytree(read_on, folder)
    for name in ("backtest.json", "losses.safetensors", "losses.csv", "checkpoint/gru-block-2.done"):
        (folder / name).unlink()
    assert call("resume", folder).code == 0
    assert (folder / "losses.csv").read_bytes() == (read_on / "losses.csv").read_bytes()


@pytest.mark.parametrize("changed", ["texts", "then-text"])
def test_a_backtest_does_not_go_on_with_other_texts(read_on, call, texts, tmp_path, changed):
    folder, (first, then) = tmp_path / "again", texts
    shutil.copytree(read_on, folder)
    (folder / "backtest.json").unlink()
    file = next(place for place in texts if place.name == changed) / "test.txt"
    whole = file.read_text()
    file.write_text(f"{whole} the cat \n")
    try:
        ended = call("resume", folder)
    finally:
        file.write_text(whole)
    assert ended.code == 2
    assert f"the data have changed since the run began ({first}, then {then})" in ended.err
    assert call("resume", folder).code == 0


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("models=[grown,var1]", "backtest.models"),
        ("origin=2021-01-01", "backtest.origin"),
        ("origin=1", "choose a later origin"),
        ("origin=900", "rows of 100 words; choose a lower one"),
        ("retrain.layers=2", "a backtest has models of one layer"),
        ("then=nowhere", "nowhere"),
        ("holdout=5", "no model that learns would ever be followed; raise evidence"),
    ],
)
def test_what_a_text_lacks_is_refused_in_words(call, texts, tmp_path, option, words):
    options = (f"task.data={texts[0]}", f"runs={tmp_path}", *WORDS_QUICK, option)
    ended = call("backtest", "penn_treebank/growing_cpu", *options)
    assert ended.code == 2
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert not list(tmp_path.iterdir())


def test_a_later_word_that_no_model_can_know_is_refused_before_work(call, tmp_path):
    (tmp_path / "known").mkdir()
    for part in ("train", "valid", "test"):
        (tmp_path / "known" / f"{part}.txt").write_text("the cat sat on the mat\n" * 120)
    (tmp_path / "later.txt").write_text("a dog\n" * 40)
    options = (f"task.data={tmp_path / 'known'}", f"then={tmp_path / 'later.txt'}", f"runs={tmp_path / 'runs'}")
    ended = call("backtest", "penn_treebank/growing_cpu", *options, *WORDS_QUICK)
    assert ended.code == 2
    assert "the word 'a' (token" in ended.err
    assert not (tmp_path / "runs").exists()
