"""The door for Python: data frames in and out, the same bits as the command line, nothing written unless asked for."""

from __future__ import annotations

import json
import threading

import numpy as np
import pandas as pd
import pytest
import torch

import grownas
from grownas.errors import ConfigError, DataError, RunError

QUICK = {
    "strategy.max_epochs": 4,
    "strategy.origins": 1,
    "strategy.max_nodes": 2,
    "retrain.epochs": 3,
    "baselines.use": ["var1", "gru"],
    "baselines.compare": [],
    "baselines.hidden_sizes": [4],
    "baselines.rates": [0.01],
    "baselines.weight_decays": [0],
    "start.max_order": 1,
}


def prices_of(rows=400):
    rng = np.random.default_rng(0)
    days = pd.bdate_range("2020-01-01", periods=rows)
    return pd.DataFrame(100 * np.exp(rng.normal(0, 0.01, (rows, 3)).cumsum(0)), index=days, columns=list("abc"))


@pytest.fixture(scope="module")
def prices():
    return prices_of()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def run(prices, place):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return grownas.search("index_returns/growing", data=prices, seed=2, overrides=QUICK, quiet=True)


def test_nothing_is_written_without_a_folder(run, place):
    assert run.folder is None
    assert list(place.iterdir()) == []


def test_the_parts_of_a_run_are_what_they_say(run):
    assert run.scores.index[0] == "chosen"
    assert {"val", "test", "params", "seconds"} <= set(run.scores.columns)
    assert run.scores.loc["chosen", "test"] == run.summary["test"]
    assert isinstance(run.genotype, grownas.Genotype)
    assert isinstance(run.growth, pd.DataFrame)
    assert not run.model.training


def test_the_cell_is_a_copy_of_the_trained_one_and_a_drop_in(run):
    cell = run.cell()
    out, _ = cell(torch.zeros(5, 2, 3))
    assert out.shape == (5, 2, cell.hidden_size)
    torch.testing.assert_close(run.model.core(torch.zeros(5, 2, 3))[0], out, rtol=0, atol=0)
    with torch.no_grad():
        next(cell.parameters()).add_(1)
    assert not torch.equal(run.model.core(torch.ones(5, 2, 3))[0], cell(torch.ones(5, 2, 3))[0])


def test_forecasts_end_with_the_next_step(run, prices):
    found = run.predict()
    assert list(found.columns) == ["date", "series", "forecast", "actual"]
    ahead = found.tail(3)
    assert ahead["actual"].isna().all()
    assert list(ahead["series"]) == ["a", "b", "c"]
    assert (ahead["date"] == prices.index[-1] + pd.offsets.BDay()).all()
    actual = np.log(prices).diff().iloc[-1]
    known = found[found["date"] == prices.index[-1]].set_index("series")["actual"]
    np.testing.assert_allclose(known[list("abc")], actual, rtol=1e-9)


def test_scores_are_the_summarys_and_since_scores_what_is_new(run):
    scores = run.evaluate()
    assert {part: one["mse"] for part, one in scores.items()} == {part: run.summary[part] for part in ("val", "test")}
    longer = prices_of(430)
    new = run.evaluate(longer, since=str(longer.index[419].date()))
    assert set(new) == {"new"}
    assert new["new"]["count"] == 3 * 10


def test_the_command_line_finds_the_same_to_the_last_digit(run, prices, place, call_cli):
    prices.to_csv(place / "closes.csv", index_label="date")
    items = [f"{key}={json.dumps(value)}" for key, value in QUICK.items()]
    ended = call_cli(
        "search", "index_returns/growing", f"task.data={place / 'closes.csv'}", "seed=2", f"runs={place}", "name=cli",
        "quiet=true", *items,
    )  # fmt: skip
    assert ended == 0
    again = grownas.load(place / "cli")
    assert {one["model"]: one["test"] for one in again.summary["scores"]} == {
        one["model"]: one["test"] for one in run.summary["scores"]
    }
    assert again.genotype == run.genotype
    pd.testing.assert_frame_equal(again.predict(), run.predict())


@pytest.fixture
def call_cli(monkeypatch):
    from grownas import cli

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["grownas", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    return call


def test_a_folder_is_made_where_asked_and_can_be_loaded(run, prices, place):
    kept = grownas.search(
        "index_returns/growing", data=prices, seed=2, overrides=QUICK, folder=place / "kept", quiet=True
    )
    assert kept.folder == place / "kept"
    assert kept.summary["test"] == run.summary["test"]
    assert grownas.load(place / "kept").scores["test"].equals(kept.scores["test"])
    assert grownas.Genotype.load(place / "kept") == run.genotype


def test_it_works_off_the_main_thread_and_keeps_torchs_threads(run, prices):
    found, before = [], torch.get_num_threads()

    def work():
        found.append(grownas.search("index_returns/growing", data=prices, seed=2, overrides=QUICK, quiet=True))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].summary["test"] == run.summary["test"]
    assert torch.get_num_threads() == before


def test_what_cannot_be_used_is_refused_with_what_to_do(prices, run, place):
    with pytest.raises(ConfigError, match=r"strategy\.max_node: unknown key; did you mean .*strategy\.max_nodes"):
        grownas.search("index_returns/growing", data=prices, overrides={"strategy.max_node": 2}, quiet=True)
    with pytest.raises(ConfigError, match="got a list, expected a data frame, a path or a name such as bundled"):
        grownas.search("index_returns/growing", data=[1, 2], quiet=True)
    with pytest.raises(DataError, match="c"):
        run.predict(prices[["a", "b"]])
    with pytest.raises(RunError, match="no such folder"):
        grownas.load(place / "nowhere")
    with pytest.raises(ConfigError, match="does not read data frames"):
        grownas.search("penn_treebank/growing_cpu", data=prices, quiet=True)


def test_a_comparison_returns_tables_and_leaves_nothing_behind(prices, place, monkeypatch):
    monkeypatch.chdir(place)
    before = sorted(place.iterdir())
    fewer = {**QUICK, "baselines.use": ["var1"], "retrain.grown": False}
    found = grownas.compare(
        "index_returns/growing",
        data=prices,
        seeds=[1, 2],
        strategies=["growing", "random"],
        overrides=fewer,
        quiet=True,
    )
    assert {"chosen", "grown", "random", "start", "var1"} <= set(found.scores.index)
    assert found.scores.loc["random", "n"] == 2
    assert "var1" in found.tests.index
    assert found.verdict
    assert sorted(place.iterdir()) == before
    with pytest.raises(RunError, match="call compare with folder="):
        found.runs()


ZONED = {
    "days": pd.bdate_range("2023-12-29", periods=302, tz="Europe/Berlin").delete(
        [0, 60]
    ),  # without a regular frequency
    "hours": pd.date_range("2024-10-16 09:00", periods=300, freq="h", tz="Europe/Berlin"),  # the clocks go back
}


@pytest.mark.parametrize("index", ZONED.values(), ids=ZONED)
def test_forecasts_keep_the_time_zone_of_a_frame(index, tmp_path):
    frame = prices_of(300).set_axis(index)
    quick = {**QUICK, "baselines.use": ["var1"], "retrain.grown": False}
    made = grownas.search(data=frame, overrides=quick, folder=tmp_path / "run", quiet=True)
    memory = grownas.search(data=frame, overrides=quick, quiet=True)
    dates = memory.predict()["date"]
    assert dates.dtype == index.dtype
    assert list(dates.unique()[:-1]) == list(index[-(len(dates) // 3) + 1 :])
    for one in (made, grownas.load(tmp_path / "run"), grownas.load(made.save(tmp_path / "copy"))):
        pd.testing.assert_series_equal(one.predict()["date"], dates)
    later = prices_of(312).set_axis(index.append(index[-12:] + pd.Timedelta(days=30)))
    updated = made.update(later, how="state", overrides={"update.block": 4})
    assert updated.predict()["date"].dtype == index.dtype
    with pytest.warns(UserWarning, match="earlier rows|is a guess"):  # other dates are other data
        elsewhere = made.predict(frame.tz_convert("Asia/Tokyo"))["date"]
    assert str(elsewhere.dt.tz) == "Asia/Tokyo"


def test_a_backtest_keeps_the_time_zone_of_a_frame(tmp_path):
    frame = prices_of(300).set_axis(ZONED["hours"])
    quick = {**QUICK, "baselines.use": ["var1"], "retrain.grown": False}
    found = grownas.backtest(
        data=frame, every=20, how="state", overrides=quick, folder=tmp_path / "backtest", quiet=True
    )
    assert list(found.forecasts.index) == list(frame.index[-len(found.forecasts) :])
    assert found.losses.index.dtype == frame.index.dtype


def test_a_search_goes_on_without_a_baseline_that_has_too_few_rows():
    """A HAR of 20 series has 61 coefficients each, more than the folds of 91 training rows leave."""
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.normal(size=(130, 20)), index=pd.date_range("2015-01-01", periods=130, freq="MS"))
    fewer = {**QUICK, "baselines.use": ["har", "var1"], "retrain.grown": False, "task.values": "returns"}
    with pytest.warns(UserWarning, match="no row har: 91 training rows are too few to choose a HAR of 20 series"):
        found = grownas.search(data=wide, overrides=fewer, quiet=True)
    assert {"chosen", "var1"} <= set(found.scores.index)
    assert "har" not in found.scores.index
