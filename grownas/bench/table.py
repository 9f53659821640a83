"""The table of a benchmark, as lines for the terminal and as the page `tests/benchmarks/RESULTS.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from grownas.bench.figures import Check, Row
from grownas.bench.results import Results
from grownas.bench.settings import EAGER, GRU, LSTM

COLUMNS = {  # title -> width on the terminal; a ratio below 1 means faster
    "peer": 22,
    "median": 11,
    "quartiles": 22,
    "samples": 9,
    "/ eager": 10,
    "/ LSTM": 10,
    "/ base": 10,
    "GFLOP/s": 9,
}


def head() -> str:
    """Return the head of the table on the terminal."""
    return _line(list(COLUMNS))


def lines(row: Row) -> Iterator[str]:
    """Yield a row's lines on the terminal: its name, each peer's figures, and the limits."""
    if row.skipped:
        yield f"{row.name}: skipped, {row.skipped}"
        return
    yield f"{row.name}: {row.unit}" + (f", base: {row.base}" if row.base else "")
    for peer in row.figures:
        yield _line(cells(row, peer))
    for check in row.checks():
        yield f"  must: {in_symbols(check)}: {check.ratio:.3g}, {holds(check)}"


def cells(row: Row, peer: str) -> list[str]:
    """Return a peer's cells of the table, in the order of `COLUMNS`; a ratio to an unmeasured peer is blank."""
    figure = row.figures[peer]
    quartiles = f"{figure.low:.4g} to {figure.high:.4g}" if figure.samples > 1 else ""
    ratios = [f"{row.ratio(peer, other):.3g}" if other in row.figures else "" for other in (EAGER, LSTM, row.base)]
    same_work = row.operations is not None and peer not in (LSTM, GRU)
    speed = f"{(row.operations or 0) / figure.median / 1e6:.3g}" if same_work else ""
    return [peer, f"{figure.median:.4g}", quartiles, str(figure.samples), *ratios, speed]


def in_symbols(check: Check) -> str:
    """Return a limit as a formula."""
    return f"{check.must.of} <= {check.must.bar:.4g} x {check.must.against}"


def holds(check: Check) -> str:
    """Return in words whether a limit holds."""
    return "holds" if check.holds else "DOES NOT HOLD"


def in_words(machine: Mapping[str, Any]) -> str:
    """Return the facts on which times depend, as text."""
    told = {name: " ".join(value) if isinstance(value, list) else value for name, value in machine.items()}
    return "; ".join(f"{name}: {value}" for name, value in told.items() if value is not None)


def page(results: Results, *, picture: str) -> str:
    """Return the results as Markdown.

    Args:
        results: the results.
        picture: path of the picture, relative to the page.
    """
    measured = [row for row in results.rows if not row.skipped]
    bars = [
        [row.name, in_symbols(check), f"{check.ratio:.3g}", holds(check)] for row in measured for check in row.checks()
    ]
    figures = [
        [f"{row.name} ({row.unit})" if first else "", *cells(row, peer)]
        for row in measured
        for first, peer in ((number == 0, peer) for number, peer in enumerate(row.figures))
    ]
    skipped = [f"- {row.name}: {row.skipped}" for row in results.rows if row.skipped]
    parts = [
        "# Results of `make bench`",
        f"Measured {results.date}{' (quick)' * results.quick}. {in_words(results.machine)}.",
        "Median and quartiles of peers that were timed in turn in one run: processor time of one thread, but wall time "
        "for rows of threads and of first calls. "
        "`reference` is plain autograd (eager), `floor` the unavoidable matrix products alone, done by torch: a "
        "backend whose own products are quicker can be below it. A row's ratios are taken to its base: the floor, or "
        "the peer whose ratio is 1.",
        f"![ratio to the floor]({picture})",
        "## What must hold",
        markdown(["row", "must", "measured", ""], bars),
        "## Figures",
        markdown(["row", *COLUMNS], figures),
        *(["## Not measured", "\n".join(skipped)] if skipped else []),
    ]
    return "\n\n".join(parts) + "\n"


def _line(entries: Sequence[str]) -> str:
    first, *others = zip(entries, COLUMNS.values(), strict=True)
    return (f"  {first[0]:<{first[1]}}" + "".join(f"{text:>{width}}" for text, width in others)).rstrip()


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
