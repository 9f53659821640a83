"""The task's options: what they refuse (how configs say it is tested with the configs)."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from grownas.tasks.index_returns import packaged
from grownas.tasks.index_returns.losses import LOSSES
from grownas.tasks.index_returns.options import TABLES, Options
from grownas.tasks.index_returns.sources import KINDS, NAMES, TICKERS, read, utc_today


def test_defaults_are_the_main_jobs():
    options = Options()
    assert (options.use, options.data, options.train, options.val) == ("index_returns", "bundled", 0.70, 0.15)
    assert (options.batches, options.streams, options.bptt, options.loss) == ("streams", 16, 20, "auto")


@pytest.mark.parametrize("loss", ["auto", *LOSSES])
def test_every_loss_of_the_table_may_be_named(loss):
    assert Options(loss=loss).loss == loss


@pytest.mark.parametrize("name", NAMES)
def test_a_sources_name_stays_a_name(name):
    assert Options(data=name).data == name


def test_a_path_means_the_same_file_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Options(data="closes.csv").data == str(tmp_path / "closes.csv")
    assert Options(data="../closes.csv").data == str(tmp_path.parent / "closes.csv")
    assert Options(data="~/closes.csv").data == str(tmp_path / "home" / "closes.csv")
    again = Options(data="closes.csv").data
    assert Options(data=again).data == again


def test_a_shipped_table_brings_its_panel_and_a_path_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped, own = Options(data="bundled", replay="nonlinear"), Options(data="bundled", replay="own.jsonl")
    assert (shipped.data, shipped.table) == ("nonlinear", TABLES["nonlinear"])
    assert (own.data, own.table) == ("bundled", tmp_path / "own.jsonl")
    assert Options().table is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"loss": "hubber"}, r"expected auto, squared, huber, volatility \(did you mean huber\?\)"),
        (
            {"train": 0.8, "val": 0.2},
            "expected train [+] val below 1 [(]train is 0.8[)], so that rows remain for the test part",
        ),
        ({"bptt": 1}, "greater than or equal to 2"),
        ({"bptt": 20.0}, "valid integer"),
        ({"streams": 0}, "greater than or equal to 1"),
        ({"batches": "both"}, "'streams' or 'windows'"),
        ({"tickers": []}, "at least 1 item"),
        ({"inputs": ("rain", "wind", "rain")}, "expected each value once, but .rain. is repeated"),
        ({"train": 0}, "greater than 0"),
        ({"dat": "x"}, "Extra inputs"),
        ({"start": "01.02.2020"}, "expected a day such as 2024-12-31"),
        ({"data": "yfinance", "end": "2020-02-30"}, "expected a day such as 2024-12-31"),
        ({"data": "planted", "planted_nodes": 0}, "greater than or equal to 1"),
        ({"data": "planted", "planted_units": 1}, "greater than or equal to 2"),
        ({"planted_nodes": 2}, "applies only to task.data=planted, but task.data is bundled; leave it out or at 3"),
        ({"data": "white_noise", "planted_units": 32}, "task.data is white_noise; leave it out or at 8"),
        ({"values": "levels"}, "applies only to files, but task.data is bundled, which holds returns; leave it out"),
        ({"values": "closes", "data": "closes.csv"}, "'prices', 'returns' or 'levels'"),
        ({"units": "levels"}, "'returns' or 'prices'"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValidationError, match=words):
        Options(**given)


def test_the_shape_of_a_planted_cell_says_where_the_data_come_from():
    options = Options(data="planted", planted_nodes=2, planted_units=32)
    assert options.model_dump()["planted_nodes"] == 2  # what a run folder's config.yaml holds
    assert {"planted_nodes", "planted_units"} < set(Options.WHERE) < set(Options.model_fields)
    assert Options(planted_nodes=3, planted_units=8) == Options()


@pytest.mark.parametrize("name", [name for name in KINDS if name not in packaged.PANELS])  # these are in test_packaged
def test_what_a_source_holds_is_what_the_table_says(name):
    if name == "yfinance":
        pytest.skip("a download")
    assert read(name, data_seed=1).kind == KINDS[name]
    assert Options(data=name, values=KINDS[name]).values == KINDS[name]


@pytest.mark.parametrize("data", [name for name in NAMES if name != "yfinance"] + ["closes.csv"])
def test_tickers_are_spelled_out_only_where_they_are_used(data):
    assert Options(data=data).tickers is None
    assert Options(data="yfinance").tickers == Options(data="yfinance", tickers=None).tickers == TICKERS
    assert Options(data=data, tickers=["^GSPC"]).tickers == ("^GSPC",)
    assert Options(data="yfinance", tickers=["^GSPC"]).tickers == ("^GSPC",)


def test_a_download_ends_today_and_the_config_says_so():
    """Else a run that is resumed or scored on a later day would read other rows."""
    before = utc_today().isoformat()
    end = Options(data="yfinance", end=None).end
    assert before <= end <= utc_today().isoformat()
    assert Options(data="yfinance").end >= end
    assert Options(data="yfinance", end="2020-01-01").end == "2020-01-01"
    assert Options(data="closes.csv").end is None


def test_one_ticker_stands_for_a_list():
    assert Options(tickers="^GSPC", difference="ranges").tickers == ("^GSPC",)
    assert Options(difference="ranges").difference == ("ranges",)
