"""The summary of a fitted forecaster, as text for the terminal and as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from grownas.evaluation.comparison import pair_tests
from grownas.evaluation.models import main_of
from grownas.evaluation.statistics import model_confidence_set
from grownas.genotype import AnyGenotype
from grownas.report.diagram import environment
from grownas.report.drawings import about, draw
from grownas.report.tables import NONE, Column, Row, Table, as_text, count, p_value, percent, score
from grownas.report.verdicts import KEPT, update_words

LEAST_ROWS = 8  # fewer rows of the test part say nothing about differences, and are not tested


class Fitted(NamedTuple):
    """What the summary reads of a finished search.

    Attributes:
        summary: the content of `summary.json`.
        data: the content of `data.json`.
        forecasts: standardised forecasts of the test part by model, and `actual`, each `(n, I)`.
        genotype: the cell of the chosen model.
    """

    summary: dict[str, Any]
    data: dict[str, Any]
    forecasts: dict[str, np.ndarray[Any, Any]]
    genotype: AnyGenotype


class Ahead(NamedTuple):
    """The forecast of the next row.

    Attributes:
        label: label of the row.
        forecasts: one number per series.
        bounds: lower and upper bound of each interval.
        coverage: coverage of the intervals.
    """

    label: Any
    forecasts: Sequence[float]
    bounds: Sequence[tuple[float, float]]
    coverage: float


@dataclass(frozen=True)
class ForecasterSummary:
    """Data, models, growth, comparison with the baselines, and the next forecast of a forecaster.

    `print` shows it as text, a notebook as HTML.

    Attributes:
        facts: names and values of the data and the models.
        comparison: one row per model.
        next_row: one row per series.
        genotype: the cell of the first seed.
    """

    facts: tuple[tuple[str, str], ...]
    comparison: Table
    next_row: Table
    genotype: AnyGenotype

    @classmethod
    def of(cls, fits: Sequence[Fitted], ahead: Ahead, *, rows: tuple[Any, Any, int], values: str) -> ForecasterSummary:
        """Summarise a forecaster.

        Args:
            fits: its searches, one per seed.
            ahead: its next forecast.
            rows: labels of the first and the last row, and the number of rows.
            values: kind of the values.
        """
        first = fits[0]
        return cls(
            (*_about_data(first.data, rows, values), *_about_models(fits)),
            _compared(fits),
            _next_row(first.data["names"], ahead),
            first.genotype,
        )

    def __str__(self) -> str:
        """Return the summary as text."""
        width = max(len(name) for name, _ in self.facts)
        facts = "\n".join(f"{name.ljust(width)}  {value}" for name, value in self.facts)
        parts = ["Grown forecaster", facts, as_text(self.comparison), as_text(self.next_row)]
        rule = "=" * max(len(line) for part in parts for line in part.splitlines())
        return f"{rule}\n" + f"\n{rule}\n".join(parts) + f"\n{rule}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the summary as HTML with a drawing of the cell; all names are escaped."""
        from markupsafe import Markup

        template = environment().get_template("forecaster.html")
        return template.render(
            facts=self.facts,
            tables=(self.comparison, self.next_row),
            cell=Markup(draw(self.genotype)),  # from a template that escapes
            about_cell=about(self.genotype),
        )


def _about_data(data: dict[str, Any], rows: tuple[Any, Any, int], values: str) -> list[tuple[str, str]]:
    first, last, number = rows
    return [
        ("series", ", ".join(data["names"])),
        ("rows", f"{number:,}, {_label(first)} to {_label(last)}"),
        ("values", values),
        ("fitted to", f"{data['n_train']:,} training, {data['n_val']:,} validation and {data['n_test']:,} test rows"),
    ]


def _about_models(fits: Sequence[Fitted]) -> list[tuple[str, str]]:
    """Return which model was chosen, its size, and what growth or the last update did, for each seed."""
    facts = []
    for summary in (one.summary for one in fits):
        stages = summary.get("stage_log", [])
        accepted = sum(bool(line.get("accepted")) for line in stages)
        kept = f"{KEPT}; " if summary.get("chosen") == "start" else ""
        size = f"{summary['nodes']} node(s), {summary['ops']} op(s), {count(summary['params'])} parameters"
        grown = ("growth", f"{kept}{accepted} of {len(stages)} stages accepted")
        what, words = ("update", update_words(summary["update"])) if summary.get("update") else grown
        facts += [
            (f"model, seed {summary['seed']}", f"{summary.get('chosen', 'grown')}: {size}"),
            (f"{what}, seed {summary['seed']}", words),
        ]
    return facts


def _compared(fits: Sequence[Fitted]) -> Table:
    """Return the test errors of all models, forecasts averaged over the seeds, and tests against the main model."""
    names = [name for name in fits[0].forecasts if name != "actual" and all(name in one.forecasts for one in fits)]
    actual = fits[0].forecasts["actual"]
    losses = {
        name: ((actual - np.mean([one.forecasts[name] for one in fits], axis=0)) ** 2).mean(axis=1) for name in names
    }
    tested = len(actual) >= LEAST_ROWS
    tests = {one["baseline"]: one for one in pair_tests(losses)} if tested else {}
    members = model_confidence_set(losses).members if tested else []
    rows = [
        Row(
            (
                name,
                score(float(losses[name].mean()), "mse"),
                f"{tests[name]['statistic']:+.2f}" if name in tests else NONE,
                p_value(tests[name]["p_value"]).removeprefix("p = ") if name in tests else NONE,
                ("yes" if name in members else "no") if tested else NONE,
            ),
            marked=name == main_of(losses),
        )
        for name in sorted(names, key=lambda name: float(losses[name].mean()))
    ]
    columns = (
        Column("model", figures=False),
        Column("test MSE"),
        Column("DM"),
        Column("p"),
        Column("in set", figures=False),
    )
    averaged = f", forecasts averaged over {len(fits)} seeds" if len(fits) > 1 else ""
    notes = (
        f"test MSE: standardised series{averaged}",
        f"DM, p: Diebold-Mariano test against {main_of(losses)}; above 0 if {main_of(losses)} is better",
        "in set: member of the 90 % model confidence set",
    )
    return Table(columns, tuple(rows), notes)


def _next_row(names: Sequence[str], ahead: Ahead) -> Table:
    columns = (
        Column(_label(ahead.label), figures=False),
        Column("forecast"),
        Column("lower"),
        Column("upper"),
    )
    rows = tuple(
        Row((name, *(f"{one:.6g}" for one in (value, *bounds))))
        for name, value, bounds in zip(names, ahead.forecasts, ahead.bounds, strict=True)
    )
    return Table(columns, rows, (f"lower, upper: conformal interval with coverage {percent(ahead.coverage)}",))


def _label(label: Any) -> str:
    """Return the label of a row as text; a date without the time of day if that is midnight."""
    return str(label).removesuffix(" 00:00:00")
