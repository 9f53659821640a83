"""Gathers the rows that were measured and, if none is missing, writes them as the stored results."""

from __future__ import annotations

from pathlib import Path

import pytest

from grownas.bench import picture, results, suite, table
from grownas.bench.results import Results

HERE = Path(__file__).parent
STORED, BEFORE = HERE / "results.json", HERE / "search_before.json"
SEARCH = "search index_returns/growing"
SPLITTING = {  # panel, part, hidden size, nodes
    "splitting, planted H32 J2": ("planted", "train", 32, 2),
    "splitting, bundled H64 J1": ("bundled", "train", 64, 1),
    "splitting, bundled H64 J1, 3 windows": ("bundled", "val", 64, 1),
}


@pytest.fixture(scope="session")
def measured():
    """Rows, in the order in which tests add them; written when the session ends, if all were measured."""
    rows = []
    yield rows
    if {row.name for row in rows} != {*suite.plan(), SEARCH, *SPLITTING}:
        print("\nsome rows were not measured, so the stored results stay as they are")
        return
    found = Results(results.now(), False, results.describe_machine(), tuple(rows))
    found.save(STORED)
    picture.draw(found, path=STORED.with_suffix(".svg"))
    page = table.page(found, picture="results.svg")
    (HERE / "RESULTS.md").write_text(f"{page}\n{search_section(found)}", "utf-8")
    print(f"\nwritten: {HERE / 'RESULTS.md'}")


@pytest.fixture(scope="session", params=SPLITTING)
def splitting_row(request):
    return request.param, *SPLITTING[request.param]


@pytest.fixture(scope="session")
def search_name():
    return SEARCH


def search_section(found: Results) -> str:
    """Return the seconds of the search's parts now and before the engine had kernels of its own."""
    before = Results.load(BEFORE)
    then, now = (next(row for row in one.rows if row.name == SEARCH).figures for one in (before, found))
    rows = [
        [part, *(f"{one[part].median:.1f}" if part in one else "" for one in (then, now))]
        for part in [*(part for part in then if part not in now), *now]
    ]
    words = (
        "Seconds of `make search` after installation, of one run. Before: "
        f"{before.date[:10]}, when the engine was PyTorch calls alone, on {before.machine['cpu']}."
    )
    return f"## Search, by part\n\n{words}\n\n{table.markdown(['part', 'before', 'now'], rows)}\n"


@pytest.fixture(scope="session")
def stored():
    """The results of the last time, read before they are written anew; None if there are none."""
    return Results.load(STORED) if STORED.exists() else None
