"""Measures every row and holds it to its bars. `make bench` runs it, shows the table and writes RESULTS.md."""

from __future__ import annotations

import pytest

from grownas.bench import results, suite, table, timing
from grownas.bench.results import Results

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def head():
    machine = results.describe_machine()
    print(f"\n{table.in_words(machine)}\n{table.head()}")


@pytest.mark.parametrize("name", suite.plan())
def test_its_bars_hold(name, measured):
    with timing.threads(1):
        row = suite.plan()[name]()
    measured.append(row)
    print()
    for line in table.lines(row):
        print(line, flush=True)
    if row.skipped:
        pytest.skip(row.skipped)
    assert [f"{table.in_symbols(check)}: {check.ratio:.3g}" for check in row.checks() if not check.holds] == []


def test_nothing_is_slower_than_in_the_stored_results(measured, stored):
    """Ratios to peers of the same run. It comes after all rows: tests of a file run in its order."""
    assert measured
    if stored is None:
        pytest.skip("there are no stored results yet")
    print()
    after = Results(results.now(), False, results.describe_machine(), tuple(measured))
    assert suite.compare(print, stored, after)
