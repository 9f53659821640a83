"""Sub-panels: what is drawn, that a number fixes it, and which panels are too small."""

from __future__ import annotations

import datetime

import numpy as np
import pytest

from grownas.errors import DataError
from grownas.tasks.index_returns.cleaning import Panel
from grownas.tasks.index_returns.options import Options
from grownas.tasks.index_returns.reading import checksum_of
from grownas.tasks.index_returns.subpanel import draw_subpanel
from grownas.tasks.index_returns.task import IndexReturns


def panel(rows=1500, series=6):
    """Returns that say where they stand: 1000 * row + column."""
    names = [f"s{column}" for column in range(series)]
    dates = [datetime.date(2000, 1, 1) + datetime.timedelta(days=row) for row in range(rows)]
    returns = 1000.0 * np.arange(rows)[:, None] + np.arange(series)
    report = {"rows_used": rows, "carried_forward": dict.fromkeys(names, 7), "note": "kept"}
    return Panel(dates, names, returns, report, checksum_of("panel"))


@pytest.mark.parametrize("number", range(20))
def test_a_subpanel_is_a_few_whole_series_over_days_in_a_row(number):
    whole = panel()
    drawn = draw_subpanel(whole, number)
    rows, series = drawn.returns.shape
    assert 2 <= series <= 6
    assert 800 <= rows <= 1500
    first, columns = int(drawn.returns[0, 0] // 1000), [int(name[1:]) for name in drawn.names]
    np.testing.assert_array_equal(drawn.returns, whole.returns[first : first + rows][:, columns])
    assert drawn.dates == whole.dates[first : first + rows]
    assert columns == sorted(set(columns))
    assert drawn.report["subpanel"] == {"number": number, "first_row": first, "rows": rows, "series": drawn.names}
    assert list(drawn.report["carried_forward"]) == drawn.names
    assert (drawn.report["rows_used"], drawn.report["note"]) == (rows, "kept")
    assert "subpanel" not in whole.report


def test_a_number_fixes_the_draw():
    draws = [draw_subpanel(panel(), number) for number in (*range(64), *range(64))]
    for one, again in zip(draws[:64], draws[64:], strict=True):
        np.testing.assert_array_equal(one.returns, again.returns)
        assert one.checksum == again.checksum
    assert len({one.checksum for one in draws}) == 64  # all are different, and none has the whole's checksum
    assert panel().checksum not in {one.checksum for one in draws}


def test_the_draws_are_spread_out():
    drawn = [draw_subpanel(panel(4000, 12), number).report["subpanel"] for number in range(200)]
    assert {len(one["series"]) for one in drawn} == set(range(2, 13))
    rows = [one["rows"] for one in drawn]
    assert (min(rows) < 900, max(rows) > 2700, max(rows) <= 2800) == (True, True, True)
    assert min(one["first_row"] for one in drawn) < 200
    assert max(one["first_row"] + one["rows"] for one in drawn) > 3900


@pytest.mark.parametrize(("rows", "series"), [(799, 6), (1500, 1)])
def test_panels_too_small_are_refused_with_their_size(rows, series):
    message = f"task.subpanel=3: sub-panels need at least 2 series and 800 rows of returns, the data have {series} "
    with pytest.raises(DataError, match=f"{message}and {rows}; give more"):
        draw_subpanel(panel(rows, series), 3)


def test_the_task_loads_the_subpanel_of_its_options():
    whole, first, second = (IndexReturns.load(Options(data="white_noise", subpanel=number)) for number in (None, 1, 2))
    drawn = draw_subpanel(whole.panel, 1)
    np.testing.assert_array_equal(first.panel.returns, drawn.returns)
    assert (first.names, first.checksum) == (drawn.names, drawn.checksum)
    assert first.n_train == int(0.7 * len(drawn.returns))
    assert len({whole.checksum, first.checksum, second.checksum}) == 3
    assert first.describe()["cleaning"]["subpanel"]["number"] == 1


def test_a_number_below_zero_is_refused():
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Options(subpanel=-1)
