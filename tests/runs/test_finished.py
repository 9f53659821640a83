"""What can be done with a finished run: evaluate, predict, follow its equations, show, report, train anew."""

from __future__ import annotations

import csv
import datetime
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from grownas.config import loading as configs
from grownas.errors import DataError
from grownas.genotype import Genotype
from grownas.runs import reload
from grownas.runs.commands import load_task

CONTEXT = 20  # as the fast config says
SHORT = r"other\.csv: {} computed from a zero state and fewer than task\.context=20 earlier rows; put older"


def test_evaluate_in_a_new_process_prints_the_summary_to_the_last_digit(finished, runner, finish, read_json):
    ended = finish(runner.start_plain("evaluate", finished))
    summary = read_json(finished / "summary.json")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    lines = ended.out.splitlines()
    assert lines[0] == f"val mse {summary['val']!r}"
    assert lines[2] == f"test mse {summary['test']!r}"
    detail = summary["scores"][0]["detail"]["test"]
    assert lines[3] == (
        f"  mae {detail['mae']:.6g}, r2 {detail['r2']:.6g}, hit_rate {detail['hit_rate']:.6g}, 135 forecasts"
    )


def test_evaluate_tells_days_of_the_run_and_new_days_apart(finished, call, write_closes, tmp_path, data, read_json):
    longer = write_closes(tmp_path / "longer.csv", 360)
    same = data.read_text().splitlines()
    assert longer.read_text().splitlines()[: len(same)] == same  # extended, not other
    ended = call("evaluate", finished, f"task.data={longer}")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert [line.split()[:2] for line in lines[::2]] == [["seen", "mse"], ["new", "mse"]]
    last = read_json(finished / "data.json")["dates"][-1]
    assert f"{3 * 298} forecasts, 2020-01-03 to {last}" in lines[1]  # of 299 returns the first has no day before it
    assert f"{3 * 60} forecasts, 2021-02-24 to " in lines[3]


def test_evaluate_on_other_days_standardises_as_the_run_did(finished, followed, call, write_closes, tmp_path):
    other = write_closes(tmp_path / "other.csv", 150, seed=5, first="2022-03-01")
    with pytest.warns(UserWarning, match=SHORT.format("20 forecasts are")):
        ended = call("evaluate", finished, f"task.data={other}")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("new mse ")
    returns = np.diff(np.log(np.loadtxt(other, delimiter=",", skiprows=1, usecols=(1, 2, 3))), axis=0)
    equations = followed((finished / "equations.txt").read_text())
    mean, sd = equations.blocks["mean"], equations.blocks["sd"]
    assert np.array_equal(mean[0], load_file(finished / "weights.safetensors")["mean"])
    errors = (equations.forecast(returns)[:-1] - returns[1:]) / sd
    assert float(ended.out.split()[2]) == pytest.approx((errors**2).mean(), rel=1e-5)


@pytest.mark.parametrize(("names", "missing"), [(("A", "B"), "C"), (("A", "X", "Y"), "B, C")])
@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_missing_columns_are_named(finished, call, write_closes, tmp_path, command, names, missing):
    other = write_closes(tmp_path / "other.csv", names=names)
    ended = call(command, finished, f"task.data={other}")
    assert ended.code == 2
    there = ", ".join(names)
    assert f"other.csv: {missing} missing; its columns are {there}; the model was fitted to A, B, C." in ended.err


def columns_moved(path, place, name="Volume", cell="1.5M"):
    """Write a CSV of closes with the columns in another order and one more, which is no number."""
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines = [[*line[:1], *reversed(line[1:])] for line in lines]
    for number, line in enumerate(lines):
        line.insert(place, cell if number else name)
    path.write_text("\n".join(map(",".join, lines)) + "\n")
    return path


def test_another_order_and_more_columns_give_the_same_figures(finished, call, write_closes, tmp_path):
    other = write_closes(tmp_path / "other.csv", 360)
    plain = call("evaluate", finished, f"task.data={other}").out
    moved = columns_moved(other, 2)
    with pytest.warns(UserWarning, match=r"other.csv: ignored Volume, which the model does not read"):
        ended = call("evaluate", finished, f"task.data={moved}")
    assert (ended.code, ended.out) == (0, plain)
    with pytest.warns(UserWarning, match="ignored Volume"):  # the run's own rows are told by their values
        ended = call("evaluate", finished, f"task.data={columns_moved(write_closes(other), 1)}")
    assert ended.out == call("evaluate", finished).out


def stand_still(path, first, stop, column=3):
    """Let a series of a CSV of closes stand still in some lines."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    for row in rows[first:stop]:
        row[column] = rows[first - 1][column]
    path.write_text("\n".join(map(",".join, rows)) + "\n")
    return path


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_model_reads_its_series_though_it_stands_still_in_other_data(copied, call, write_closes, tmp_path, command):
    other = stand_still(write_closes(tmp_path / "other.csv", 200, seed=5), 150, 190)
    kept = r"other.csv: kept C, which does not move for 40 rows, 2020-\d\d"
    with pytest.warns(UserWarning, match=kept), pytest.warns(UserWarning, match=SHORT.format("20 forecasts are")):
        ended = call(command, copied, f"task.data={other}")
    assert ended.code == 0, ended.err
    if command == "evaluate":
        assert f"{3 * 198} forecasts" in ended.out
    else:
        assert {row["series"] for row in csv.DictReader((copied / "forecasts-other.csv").read_text().splitlines())} == {
            "A",
            "B",
            "C",
        }


def test_a_series_that_stands_still_is_dropped_and_the_run_says_so(
    runner, call, data, write_closes, read_json, tmp_path
):
    mine = stand_still(Path(shutil.copy(data, tmp_path / "mine.csv")), 100, 120)
    options = [f"task.data={mine}", "baselines.use=[zero]", "strategy.max_epochs=1", "name=run"]
    with pytest.warns(UserWarning, match=r"mine.csv: dropped C, which does not move for 20 rows, 2020-\d\d"):
        ended = call("search", *runner.options(*options))
    assert ended.code == 0, ended.err
    folder = runner.folder / "run"
    told = read_json(folder / "data.json")
    assert told["names"] == ["A", "B"]
    (dropped,) = told["cleaning"]["dropped"]
    assert (dropped["series"], dropped["rows"]) == ("C", 20)
    assert call("report", folder).code == 0
    assert f"C, which {dropped['words']}" in (folder / "report.html").read_text()
    with pytest.warns(UserWarning, match="dropped C"):
        again, summary = call("evaluate", folder), read_json(folder / "summary.json")
    assert again.code == 0, again.err
    assert again.out.splitlines()[0] == f"val mse {summary['val']!r}"
    left_out = "other.csv: ignored C, which the model does not read"
    with pytest.warns(UserWarning, match=left_out), pytest.warns(UserWarning, match=SHORT.format("20 forecasts are")):
        ended = call("evaluate", folder, f"task.data={write_closes(tmp_path / 'other.csv', 200, seed=5)}")
    assert ended.code == 0, ended.err
    assert f"{2 * 198} forecasts" in ended.out


def test_data_that_changed_under_the_same_name_are_refused_unless_named(runner, call, data, write_closes):
    mine = Path(shutil.copy(data, runner.folder.parent / "mine.csv"))
    folder = runner.search("run", f"task.data={mine}", "baselines.use=[zero]", "strategy.max_epochs=1")
    before = call("evaluate", folder).out
    assert call("evaluate", folder, f"task.data={mine}").out == before
    write_closes(mine, 301)  # a day more
    ended = call("evaluate", folder)
    assert ended.code == 2
    assert "the data have changed since the run" in ended.err
    ended = call("evaluate", folder, f"task.data={mine}")  # under the same name
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[2].startswith("new mse ")
    assert "3 forecasts, 2021-02-24 to 2021-02-24" in ended.out


def test_equations_give_the_runs_own_forecasts(finished, followed, read_json):
    task = load_task(configs.load(finished / "config.yaml"))
    equations = followed((finished / "equations.txt").read_text())
    stored = load_file(finished / "forecasts.safetensors")["grown"]
    forecasts = []
    for part in ("val", "test"):
        rows = task.rows(part)
        first = rows.start - 1 - CONTEXT  # `task.context` days before the first day that is forecast from
        made = equations.forecast(task.panel.returns[first : rows.stop - 1])[CONTEXT:]
        forecasts.append((made - task.mean) / task.sd)
    assert np.abs(stored).max() > 0.1  # not trivially zero
    np.testing.assert_allclose(np.concatenate(forecasts), stored, rtol=0, atol=1e-5)
    assert json.loads(equations.words["series"]) == read_json(finished / "data.json")["names"] == ["A", "B", "C"]


def test_predict_writes_each_day_and_the_day_ahead(copied, call, read_json, followed):
    ended = call("predict", copied)
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[:2] == [
        str(copied / "forecasts.csv"),
        "units: log returns in decimals; task.units=prices gives prices",
    ]
    rows = list(csv.DictReader((copied / "forecasts.csv").read_text().splitlines()))
    assert list(rows[0]) == ["date", "series", "forecast", "actual"]
    data, summary = read_json(copied / "data.json"), read_json(copied / "summary.json")
    days = [row["date"] for row in rows[::3]]
    assert [row["series"] for row in rows] == ["A", "B", "C"] * len(days)
    assert days[:-1] == data["dates"]
    last = datetime.date.fromisoformat(days[-2])
    assert days[-1] == (last + datetime.timedelta(days={4: 3}.get(last.weekday(), 1))).isoformat()
    assert [row["actual"] for row in rows[-3:]] == ["", "", ""]
    assert all(row["actual"] for row in rows[:-3])
    assert lines[2] == f"next step: {days[-1]} (Monday to Friday)"
    assert lines[3:] == [f"  {row['series']} {float(row['forecast']):.6g}" for row in rows[-3:]]

    weights = load_file(copied / "weights.safetensors")
    test = rows[3 * data["n_val"] : -3]
    table = {key: np.array([float(row[key]) for row in test]).reshape(-1, 3) for key in ("forecast", "actual")}
    errors = (table["forecast"] - table["actual"]) / weights["sd"]
    assert (errors**2).mean() == pytest.approx(summary["test"], abs=1e-9)

    returns = load_task(configs.load(copied / "config.yaml")).panel.returns
    equations = followed((copied / "equations.txt").read_text())
    ahead = equations.forecast(returns[-CONTEXT - 1 :])[-1]
    np.testing.assert_allclose([float(row["forecast"]) for row in rows[-3:]], ahead, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("last", "next_day"), [("2024-01-04", "2024-01-05"), ("2024-01-05", "2024-01-08"), ("2024-01-06", "2024-01-08")]
)
def test_the_day_ahead_is_the_next_weekday(copied, call, data, tmp_path, last, next_day):
    other = tmp_path / "other.csv"
    lines = data.read_text().splitlines()
    lines.append(",".join([last, *lines[-1].split(",")[1:]]))
    other.write_text("\n".join(lines))
    ended = call("predict", copied, f"task.data={other}")
    assert ended.code == 0, ended.err
    rows = list(csv.DictReader((copied / "forecasts-other.csv").read_text().splitlines()))
    assert {row["date"] for row in rows[-3:]} == {next_day}
    assert rows[0]["date"] == "2020-01-03"  # of other data all days but the first can be forecast
    assert ended.out.splitlines()[2] == f"next step: {next_day} (Monday to Friday)"


# ---- new rows


def closes_of(path, rows, name):
    """Return a CSV of the last rows of another."""
    lines = path.read_text().splitlines()
    made = path.with_name(name)
    made.write_text("\n".join([lines[0], *lines[-rows:]]) + "\n")
    return made


def table(path):
    rows = list(csv.reader(path.read_text().splitlines()))[1:]
    return {(date, series): (ahead, came) for date, series, ahead, came in rows}


@pytest.fixture
def longer(write_closes, tmp_path):
    """The run's rows and 60 more."""
    return write_closes(tmp_path / "longer.csv", 360)


@pytest.mark.parametrize("new", [1, 5, 60])
def test_new_rows_with_the_context_before_them_are_forecast_as_in_the_whole_file(copied, call, longer, new):
    """One price makes no return and one return makes no forecast, so that two rows precede the context."""
    other = closes_of(longer, CONTEXT + 2 + new, "other.csv")
    since = longer.read_text().splitlines()[-new - 1].partition(",")[0]
    whole = call("evaluate", copied, f"task.data={longer}", f"since={since}")
    part = call("evaluate", copied, f"task.data={other}", f"since={since}")
    assert (part.code, part.out) == (0, whole.out)
    assert part.err == ""
    assert f", {3 * new} forecasts, " in part.out
    assert part.out.startswith("new mse ")


def test_rows_of_another_frequency_are_told(finished, call, longer, tmp_path):
    header, *lines = longer.read_text().splitlines()
    weekly = tmp_path / "weekly.csv"
    weekly.write_text("\n".join([header, *lines[::5]]) + "\n")
    told = r"weekly\.csv: the frequency of the rows is weekly, on \w+, that of the run Monday to Friday; the model"
    with pytest.warns(UserWarning, match=told):
        assert call("evaluate", finished, f"task.data={weekly}").code == 0


@pytest.mark.parametrize(("rows", "told"), [(3, "1 forecast is"), (10, "8 forecasts are"), (CONTEXT + 2, "20 fore")])
def test_a_handful_of_rows_is_forecast_from_a_zero_state_and_told(copied, call, longer, followed, rows, told):
    other = closes_of(longer, rows, "other.csv")
    with pytest.warns(UserWarning, match=f"other.csv: {told}"):
        ended = call("predict", copied, f"task.data={other}")
    assert ended.code == 0, ended.err
    returns = np.diff(np.log(np.loadtxt(other, delimiter=",", skiprows=1, usecols=(1, 2, 3))), axis=0)
    expected = followed((copied / "equations.txt").read_text()).forecast(returns)
    written = np.array([float(ahead) for ahead, _ in table(copied / "forecasts-other.csv").values()])
    np.testing.assert_allclose(written.reshape(-1, 3), expected, rtol=0, atol=1e-7)
    assert ended.out.splitlines()[2].endswith("(Monday to Friday)")  # by the run's own rows


def test_two_rows_have_a_next_step_and_no_score(copied, call, longer):
    other = closes_of(longer, 2, "other.csv")
    with pytest.warns(UserWarning, match="other.csv: the next step's forecast is computed from a zero state"):
        ended = call("predict", copied, f"task.data={other}")
    assert ended.code == 0, ended.err
    assert len(table(copied / "forecasts-other.csv")) == 3
    with pytest.warns(UserWarning, match="next step's forecast"):
        ended = call("evaluate", copied, f"task.data={other}")
    assert ended.code == 2
    assert "no row can be scored, because the first row has no row before it; add a row" in ended.err
    ended = call("predict", copied, f"task.data={closes_of(longer, 1, 'one.csv')}")
    assert ended.code == 2
    assert "one.csv: 1 row, but no return" in ended.err


def test_since_scores_later_rows_only(finished, call, longer, read_json):
    dates = read_json(finished / "data.json")["dates"]
    test = dates[read_json(finished / "data.json")["n_val"] :]
    own = call("evaluate", finished, f"since={test[9]}").out.splitlines()
    assert [line.split()[0] for line in own[::2]] == ["test"]
    assert f"{3 * (len(test) - 10)} forecasts, {test[10]} to {test[-1]}" in own[1]
    both = call("evaluate", finished, f"task.data={longer}", f"since={test[9]}").out.splitlines()
    assert [line.split()[0] for line in both[::2]] == ["seen", "new"]
    assert both[0].split()[2] == own[0].split()[2]  # seen rows of the test part are the same rows
    whole = call("evaluate", finished, f"since={dates[0]}").out.splitlines()
    assert [line.split()[0] for line in whole[::2]] == ["val", "test"]


@pytest.mark.parametrize(
    ("since", "words"),
    [
        ("2030-01-01", "no row is dated after since=; the last row is 2021-05-18"),
        ("yesterday", "since=yesterday: not a date such as 2024-12-31"),
    ],
)
def test_a_date_after_all_rows_or_none_is_refused(finished, call, longer, since, words):
    ended = call("evaluate", finished, f"task.data={longer}", f"since={since}")
    assert ended.code == 2
    assert words in ended.err


def test_forecasts_of_other_data_leave_those_of_the_run_alone(copied, call, longer, tmp_path, monkeypatch):
    assert call("predict", copied).code == 0
    before = (copied / "forecasts.csv").read_bytes()
    ended = call("predict", copied, f"task.data={longer}")
    assert ended.out.splitlines()[0] == str(copied / "forecasts-longer.csv")
    assert (copied / "forecasts.csv").read_bytes() == before
    monkeypatch.chdir(tmp_path)
    assert call("predict", copied, f"task.data={longer}", "out=mine.csv").out.splitlines()[0] == "mine.csv"
    assert (tmp_path / "mine.csv").read_bytes() == (copied / "forecasts-longer.csv").read_bytes()
    ended = call("predict", copied, "out=nowhere/mine.csv")
    assert ended.code == 2
    assert "out=nowhere/mine.csv: cannot be written: No such file" in ended.err


def test_forecasts_of_another_file_of_the_same_name_are_not_overwritten(copied, call, longer, tmp_path):
    there, elsewhere, prices = tmp_path / "a" / "new.csv", tmp_path / "b" / "new.csv", tmp_path / "new-prices.csv"
    for place, rows in ((there, 200), (elsewhere, 250), (prices, 150)):
        place.parent.mkdir(exist_ok=True)
        closes_of(longer, rows, "other.csv").rename(place)
    for _ in range(2):  # of the same file they are written anew
        assert call("predict", copied, f"task.data={there}").code == 0
    before = (copied / "forecasts-new.csv").read_bytes()
    ended = call("predict", copied, f"task.data={elsewhere}")
    written = copied / "forecasts-new.csv"
    assert (ended.code, ended.err) == (
        2,
        f"error: {written} holds forecasts of {there}; to forecast {elsewhere}, give out=FILE or move this file\n",
    )
    assert written.read_bytes() == before
    assert call("predict", copied, f"task.data={elsewhere}", f"out={tmp_path / 'mine.csv'}").code == 0
    assert call("predict", copied, f"task.data={there}", "task.units=prices").code == 0
    assert "forecasts-new-prices.csv holds forecasts of" in call("predict", copied, f"task.data={prices}").err
    (copied / "forecasts.json").unlink()  # as of an early version
    assert (
        "holds forecasts of data that an earlier version did not record"
        in call("predict", copied, f"task.data={there}").err
    )
    assert call("predict", copied).code == call("predict", copied).code == 0


def test_prices_compound_the_returns_with_the_last_known_close(copied, call, longer):
    assert call("predict", copied, f"task.data={longer}").code == 0
    ended = call("predict", copied, f"task.data={longer}", "task.units=prices")
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[:2] == [str(copied / "forecasts-longer-prices.csv"), "units: prices"]
    returns, prices = (table(copied / f"forecasts-longer{end}.csv") for end in ("", "-prices"))
    assert list(prices) == list(returns)
    closes = {line.split(",")[0]: line.split(",")[1:] for line in longer.read_text().splitlines()[1:]}
    days = [*closes, list(prices)[-1][0]]
    for (day, name), (ahead, came) in prices.items():
        place = "ABC".index(name)
        known = float(closes[days[days.index(day) - 1]][place])
        assert float(ahead) == pytest.approx(known * np.exp(float(returns[day, name][0])), rel=1e-12)
        assert came == (closes[day][place] if day in closes else "")


def test_python_gets_what_the_command_line_prints_and_writes(copied, call, longer):
    import pandas as pd

    frame = pd.read_csv(longer, index_col="date", parse_dates=True)[["C", "A", "B"]]
    printed = call("evaluate", copied, f"task.data={longer}", "since=2021-03-01").out
    for data in (frame, longer, str(longer)):
        scores = reload.evaluate(copied, data=data, since="2021-03-01")
        assert list(scores) == ["new"]
        assert f"new mse {scores['new']['mse']!r}" == printed.splitlines()[0]
        made = reload.predict(copied, data=data)
        assert list(made.columns) == ["date", "series", "forecast", "actual"]
        assert call("predict", copied, f"task.data={longer}").code == 0
        text = (copied / "forecasts-longer.csv").read_text()
        assert made.to_csv(index=False, lineterminator="\n") == text
    assert made["date"].dtype.kind == "M"
    assert made["actual"].isna().sum() == 3
    own = reload.predict(copied)
    assert call("predict", copied).code == 0
    assert own.to_csv(index=False, lineterminator="\n") == (copied / "forecasts.csv").read_text()


def test_the_runs_own_rows_as_a_frame_are_the_runs_own(finished, data):
    import pandas as pd

    frame = pd.read_csv(data, index_col="date", parse_dates=True)
    assert reload.evaluate(finished, data=frame) == reload.evaluate(finished)
    with pytest.warns(UserWarning, match="data frame: 20 forecasts are computed from a zero state"):
        assert list(reload.evaluate(finished, data=frame.iloc[:-1])) == ["seen"]


@pytest.mark.parametrize("use", [reload.evaluate, reload.predict, reload.model])
def test_torch_keeps_its_number_of_threads(finished, use):
    before, own = torch.get_num_threads(), configs.load(finished / "config.yaml").threads
    torch.set_num_threads(own + 2)
    try:
        use(finished)
        assert torch.get_num_threads() == own + 2
        with pytest.raises(DataError, match="not a date"):
            reload.evaluate(finished, since="yesterday")
        assert torch.get_num_threads() == own + 2
    finally:
        torch.set_num_threads(before)


def test_show_prints_the_cell(finished, call, read_json):
    genotype, summary = Genotype.load(finished / "genotype.json"), read_json(finished / "summary.json")
    ended = call("show", finished)
    assert ended.code == 0, ended.err
    assert f"2 node(s), {summary['ops']} op(s), {summary['params']:,} parameters" in ended.out
    for node in genotype.nodes:
        for op in node.ops:
            assert f"{op.share:7.2%}  {op.name}" in ended.out
    alone = call("show", finished / "genotype.json")
    assert alone.code == 0
    assert alone.out.splitlines()[1:] == ended.out.splitlines()[1:]


def test_train_repeats_a_genotype_as_the_search_retrained_it(finished, runner, call, evaluates_to_summary, read_json):
    ended = call("train", *runner.options(f"genotype={finished / 'genotype.json'}"))
    assert ended.code == 0, ended.err
    folder = runner.folder / "index_returns-train-cell-1"
    assert (folder / "genotype.json").read_bytes() == (finished / "genotype.json").read_bytes()
    (entry,) = read_json(folder / "summary.json")["scores"]
    searched = next(e for e in read_json(finished / "summary.json")["scores"] if e["model"] == "grown_retrained")
    assert entry["model"] == "grown_retrained"
    assert (entry["val"], entry["test"], entry["params"]) == (searched["val"], searched["test"], searched["params"])
    evaluates_to_summary(folder)
    assert call("predict", folder).code == 0


@pytest.mark.parametrize("name", ["gru", "var1"])
def test_train_runs_a_baseline_alone(finished, runner, call, read_json, name):
    ended = call("train", *runner.options(f"genotype={name}"))
    assert ended.code == 0, ended.err
    folder = runner.folder / f"index_returns-train-{name}-1"
    summary = read_json(folder / "summary.json")
    assert [entry["model"] for entry in summary["scores"]] == [name]
    assert summary["nodes"] is None
    if name == "var1":
        searched = next(e for e in read_json(finished / "summary.json")["scores"] if e["model"] == name)
        assert summary["test"] == searched["test"]
    for command in ("show", "evaluate", "predict"):
        ended = call(command, folder)
        assert ended.code == 2
        assert "this run trained a baseline" in ended.err
    assert call("resume", folder).code == 0
    assert call("report", folder).code == 0


def test_report_of_one_run_and_of_several(copied, runner, call):
    other = runner.search("other", "seed=2", "baselines.use=[zero]", "strategy.max_epochs=1")
    (copied / "report.html").unlink()
    ended = call("report", copied)
    assert ended.code == 0, ended.err
    assert ended.out == f"{copied / 'report.html'}\n"
    assert "copied" in (copied / "report.html").read_text()
    ended = call("report", copied, other)
    assert ended.code == 0, ended.err
    page = Path(ended.out.strip())
    text = page.read_text()
    assert page.parent == copied.parent
    assert "copied" in text
    assert "other" in text
    assert list(page.parent.glob("*.part")) == []


COMMANDS = ("resume", "evaluate", "predict", "show", "report")


@pytest.mark.parametrize(("command", "named"), [("predict", "forecasts.json"), ("report", "report.html")])
def test_a_file_that_cannot_be_written_is_named(copied, call, command, named):
    (copied / f".{named}.part").mkdir()
    ended = call(command, str(copied))
    assert ended.code == 2
    assert f"{named}: cannot be written: Is a directory" in ended.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_missing_folder_is_told(call, tmp_path, command):
    ended = call(command, tmp_path / "nothing")
    assert ended.code == 2
    assert f"{tmp_path / 'nothing'}" in ended.err
    assert "no such" in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_in_place_of_a_folder_is_told(call, tmp_path, command):
    (tmp_path / "file").write_text("hello")
    ended = call(command, tmp_path / "file")
    assert ended.code == 2
    assert f"{tmp_path / 'file'}" in ended.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_is_no_run_is_told(call, tmp_path, command):
    (tmp_path / "notes.txt").write_text("hello")
    ended = call(command, tmp_path)
    assert ended.code == 2
    assert "not a run folder" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("command", ["evaluate", "predict", "show"])
def test_an_unfinished_run_is_told_how_to_go_on(copied, call, command):
    (copied / "summary.json").unlink()
    ended = call(command, copied)
    assert ended.code == 2
    assert f"grownas resume {copied}" in ended.err


DAMAGE = {
    "emptied": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2] + b"\n{",  # half of a YAML file may be YAML
    "binary": lambda content: b"\xff\xfe\x00PK\x03",
    "a list": lambda content: b"[]",
    "a number": lambda content: b"3",
    "an empty object": lambda content: b"{}",
}
READS = {
    "summary.json": ("evaluate", "predict", "show", "report"),
    "weights.safetensors": ("evaluate", "predict"),
    "genotype.json": ("evaluate", "predict", "show", "report"),
    "config.yaml": ("resume", "evaluate", "predict", "report"),
    "run.json": ("resume",),
    "data.json": ("report",),
    "forecasts.safetensors": ("report",),
}
HARMLESS = {  # nothing is asked of these
    ("config.yaml", "report", "emptied"),
    ("config.yaml", "report", "an empty object"),
    ("config.yaml", "report", "a list"),
    ("data.json", "report", "an empty object"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("name", "command"), [(name, command) for name in READS for command in READS[name]])
def test_a_damaged_file_is_named(copied, call, name, command, damage):
    path = copied / name
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    ended = call(command, copied)
    if (name, command, damage) in HARMLESS:
        assert ended.code == 0, ended.err
        return
    assert ended.code == 2
    assert name in ended.err or str(copied) in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize("change", ["missing", "shape", "no names", "no mean", "no readout"])
def test_weights_that_do_not_fit_are_told(copied, call, command, change):
    path = copied / "weights.safetensors"
    weights, notes = load_file(path), {"names": '["A", "B", "C"]'}
    key = next(name for name in weights if name.startswith("core"))
    if change == "missing":
        del weights[key]
    elif change == "shape":
        weights[key] = np.zeros((1, 2), np.float32)
    elif change == "no names":
        notes = {}
    else:
        del weights[{"no mean": "mean", "no readout": "readout.weight"}[change]]
    save_file(weights, path, notes)
    ended = call(command, copied)
    assert ended.code == 2
    assert "weights.safetensors" in ended.err


def test_each_tensor_and_the_names_are_needed_whole(finished, broken_weights_are_told, tmp_path):
    broken_weights_are_told(finished, tmp_path / "copied")


def test_a_genotype_of_another_cell_does_not_fit(copied, call):
    genotype = Genotype.load(copied / "genotype.json")
    Genotype(genotype.nodes[:1]).save(copied / "genotype.json")
    ended = call("evaluate", copied)
    assert ended.code == 2
    assert "weights.safetensors does not fit genotype.json" in ended.err


@pytest.mark.parametrize(
    ("key", "value"), [("loss", "cubic"), ("loss", 3), ("params", "many"), ("scores", None), ("scores", [{}])]
)
def test_a_summary_of_wrong_values_is_told_or_read(copied, call, key, value, read_json):
    summary = {**read_json(copied / "summary.json"), key: value}
    (copied / "summary.json").write_text(json.dumps(summary))
    for command in ("evaluate", "show", *(["report"] if key == "scores" else [])):
        ended = call(command, copied)
        assert ended.code in (0, 2)
        assert ended.code == 0 or "summary.json" in ended.err


@pytest.mark.parametrize("override", ["task.train=0.6", "task.context=10", "seed=9", "strategy.patience=1"])
def test_a_finished_run_takes_other_data_and_nothing_else(finished, call, override):
    ended = call("evaluate", finished, override)
    assert ended.code == 2
    assert "only task.data" in ended.err
