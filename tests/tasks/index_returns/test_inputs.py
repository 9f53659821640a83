"""Columns that are inputs only: used as they are, read by models, not forecast."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from grownas.cells.cell import GrownRNN
from grownas.errors import DataError
from grownas.genotype import Genotype, Node, Op
from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.task import IndexReturns

ROWS = 301
INPUTS = ("holiday", "weather")  # in this order, whatever that of the columns is


def frame(rows=ROWS):
    rng = np.random.default_rng(0)
    closes = 100 * np.exp(0.01 * rng.normal(size=(rows, 2)).cumsum(0))
    columns = {"weather": rng.normal(size=rows), "a": closes[:, 0], "b": closes[:, 1]}
    columns["holiday"] = np.where(np.arange(rows) % 50 < 5, 1.0, 0.0)
    return pd.DataFrame(columns, index=pd.bdate_range("2020-01-01", periods=rows))


def load(data=None, **options):
    given = {"data": "frame", "loss": "squared", "bptt": 5, "streams": 4, "context": 30, "inputs": INPUTS, **options}
    return IndexReturns.load(Options(**given), frame=frame() if data is None else data)


def model_of(task):
    core = GrownRNN(Genotype((Node((Op("add", "tanh", 1.0),)),)), task.input_size, 6)
    core.reset_parameters(torch.Generator().manual_seed(0))
    return task.model(core, generator=torch.Generator().manual_seed(1))


def test_inputs_come_last_and_are_used_as_they_are():
    task, data = load(), frame()
    assert task.names == ["a", "b", "holiday", "weather"]
    assert task.target_names == ["a", "b"]
    np.testing.assert_array_equal(task.panel.returns[:, 2:], data[list(INPUTS)].to_numpy()[1:])  # a return has 2 rows
    np.testing.assert_allclose(task.panel.returns[:, :2], np.diff(np.log(data[["a", "b"]]), axis=0), rtol=1e-12)
    train = task.values[task.rows("train")]
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(train.std(0), 1)
    assert task.targets.shape == (ROWS - 1, 2)


def test_a_declared_input_is_differenced():
    task, data = load(difference=("weather",)), frame()
    np.testing.assert_allclose(task.panel.returns[:, 3], np.diff(data["weather"])[1:])
    np.testing.assert_array_equal(task.panel.returns[:, 2], data["holiday"].to_numpy()[2:])


def test_a_blank_input_takes_the_previous_value_even_among_returns():
    data = frame().diff().iloc[1:]
    data.iloc[70, 0] = np.nan
    task = load(data, values="returns")
    assert task.panel.returns[70, 3] == data["weather"].iloc[69]


def test_models_read_all_columns_and_forecast_the_first():
    task = load()
    window = next(iter(task.windows("train", seed=0)))
    assert (window.x.shape[-1], window.target.shape[-1]) == (4, 2)
    model = model_of(task)
    found = task.evaluate(model, "test")
    assert found.forecasts.shape == (len(task.dates("test")), 2)
    assert found.metric == pytest.approx(float(((found.forecasts - task.targets[task.rows("test")]) ** 2).mean()))
    told = task.predict(model)
    assert sorted(set(told["series"])) == ["a", "b"]
    assert task.describe()["names"] == ["a", "b"]
    assert task.describe()["inputs"] == list(INPUTS)


def test_inputs_of_a_row_change_its_successors_forecast_and_no_earlier_one():
    data, row = frame(), 280
    task = load()
    before = task.evaluate(model_of(task), "test").forecasts
    data.iloc[row + 1 :, 0] += 5.0  # the row after the first close is row 0
    after = load(data).evaluate(model_of(task), "test").forecasts
    place = row - task.rows("test").start
    np.testing.assert_array_equal(before[: place + 1], after[: place + 1])
    assert (before[place + 1] != after[place + 1]).all()


def test_prices_of_forecasts_are_those_of_the_series_that_are_forecast():
    task = load(units="prices")
    np.testing.assert_array_equal(task.actual("test")[-1], frame()[["a", "b"]].to_numpy()[-1])


def test_the_columns_of_a_named_panel_can_be_inputs():
    task = IndexReturns.load(Options(data="bundled", inputs=("SP500_range",)))
    assert task.names == ["SP500", "NASDAQ", "NASDAQ_range", "SP500_range"]
    assert task.checksum != IndexReturns.load(Options(data="bundled")).checksum


def test_new_rows_join_those_of_a_run():
    data = frame()
    task = load(data.iloc[:250])
    joined = task.joined(Options(data="frame", inputs=INPUTS), frame=data)
    again = load(joined.frame, **{key: value for key, value in joined.options.items() if key != "values"})
    assert again.names == task.names
    assert len(again.values) == ROWS - 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": ("rain",)}, "task.inputs: no series 'rain' in data frame; the data have weather, a, b, holiday"),
        ({"inputs": ("a", "b", "weather", "holiday")}, "task.inputs: all series of data frame are inputs only"),
        ({"subpanel": 1}, r"task.subpanel=1: a sub-panel has no inputs; set task.inputs=\[\]"),
    ],
    ids=["unknown", "all", "sub-panel"],
)
def test_what_cannot_be_is_refused(options, words):
    with pytest.raises(DataError, match=words):
        load(**options)
