"""Draws sub-panels, a few series over a span of days, from a panel, so that models can be compared on many panels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grownas.errors import DataError
from grownas.tasks.index_returns.cleaning import Panel
from grownas.tasks.index_returns.reading import checksum_of

LEAST_SERIES, MOST_SERIES = 2, 12
LEAST_ROWS, MOST_ROWS = 800, 2800
SEED = 16  # seed of the draws; another seed gives other sub-panels


def draw_subpanel(panel: Panel, number: int) -> Panel:
    """Return the sub-panel of a number: series, span and first row are uniform draws of the number's own generator.

    Args:
        panel: clean returns.
        number: number of the sub-panel; for the same panel it always gives the same days and series.

    Raises:
        DataError: the panel has fewer than 2 series or 800 rows, or series that are inputs only.
    """
    if panel.inputs:
        raise DataError(f"task.subpanel={number}: a sub-panel has no inputs; set task.inputs=[] or task.subpanel=null")
    rows, series = panel.returns.shape
    if series < LEAST_SERIES or rows < LEAST_ROWS:
        raise DataError(
            f"task.subpanel={number}: sub-panels need at least {LEAST_SERIES} series and {LEAST_ROWS} rows of returns, "
            f"the data have {series} and {rows}; give more data, or set task.subpanel=null"
        )
    rng = np.random.default_rng([SEED, number])
    count = int(rng.integers(LEAST_SERIES, min(MOST_SERIES, series) + 1))
    span = int(rng.integers(LEAST_ROWS, min(MOST_ROWS, rows) + 1))
    columns = np.sort(rng.choice(series, count, replace=False))
    first = int(rng.integers(rows - span + 1))
    days, names = slice(first, first + span), [panel.names[column] for column in columns]
    drawn = {"number": number, "first_row": first, "rows": span, "series": names}
    carried = {name: panel.report["carried_forward"][name] for name in names}  # counted in the whole panel
    return replace(
        panel,
        dates=panel.dates[days],
        names=names,
        returns=panel.returns[days, columns],
        report={**panel.report, "rows_used": span, "carried_forward": carried, "subpanel": drawn},
        checksum=checksum_of(panel.checksum, repr(drawn)),
        known=None if panel.known is None else panel.known[first : first + span + 1, columns],
    )
