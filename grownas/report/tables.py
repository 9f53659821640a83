"""Tables of scores, outcomes and series, as text for the terminal and as rows for the page.

Imports nothing heavy, because the command line prints `score_table` after each run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grownas.evaluation.groups import rows_of
from grownas.evaluation.models import main_of, named

Entry = Mapping[str, Any]

METRICS = {"mse": "MSE"}  # metric -> its name in tables; default: the metric itself
WORDS = {"mse": "error", "nmse_db": "NMSE in dB"}  # metric -> its name in sentences; default: the metric itself
DIGITS = {"perplexity": 2, "nmse_db": 2}  # metric -> number of decimals; default: 4
FINDINGS = {  # finding about the reference -> word in the row of the other model
    "better": "worse",
    "worse": "better",
    "not told apart": "not told apart",
    "same": "the same",
    "untested": "untested",
}
SIZED = {  # test with a measured size -> its name in tables
    "days_and_seeds": "over days and seeds",
    "over_seeds": "over seeds",
    "finding": "both together",
    "diebold_mariano": "Diebold-Mariano",
    "mcs": "model confidence set",
}
CAPPED = "!"  # marks a model whose training reached the epoch limit
CAPPED_NOTE = (
    f"{CAPPED} Training stopped at the epoch limit while the validation loss was still falling, so this model may "
    "improve with more epochs. Raise {keys}."
)
NONE = "\N{EN DASH}"  # shown for a missing figure
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Column:
    """A column: its title, the meaning of the title, and whether it holds figures (aligned to the right)."""

    title: str
    note: str = ""
    figures: bool = True


@dataclass(frozen=True)
class Row:
    """A row: its cells as text, a note below them, and whether it is highlighted."""

    cells: tuple[str, ...]
    note: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """A table: columns, rows, and notes below the table."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def without_empty(self) -> Table:
        """Return the table without empty columns."""
        kept = [i for i in range(len(self.columns)) if not self.rows or any(row.cells[i] != NONE for row in self.rows)]
        rows = (replace(row, cells=tuple(row.cells[i] for i in kept)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[i] for i in kept), rows=tuple(rows))


def _decibels(value: float | None) -> str:
    return figure(value, 2)


DETAILS: dict[str, tuple[Column, Callable[[float | None], str]]] = {  # further score -> its column, how to write it
    "r2": (Column("R²", "on the test part, compared with a forecast of zero"), lambda value: percent(value)),
    "hit_rate": (
        Column("hits", "share of test forecasts with the right sign"),
        lambda value: percent(value or None),  # a forecast of zero has no sign
    ),
    "evm_db": (Column("EVM", "error in the main channel on the test part, in dB; lower is better"), _decibels),
    "acpr_left_db": (Column("ACPR left", "of the output on the test part, left adjacent channel, in dBc"), _decibels),
    "acpr_right_db": (Column("ACPR right", "likewise, right adjacent channel"), _decibels),
}


def as_text(table: Table) -> str:
    """Return a table as plain text with padded columns and its notes; notes of columns and rows are left out."""
    lines = [[column.title for column in table.columns], *[list(row.cells) for row in table.rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    set_lines = [
        "  ".join(
            cell.rjust(width) if column.figures else cell.ljust(width)
            for cell, width, column in zip(line, widths, table.columns, strict=True)
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(len(line) for line in set_lines)
    return "\n".join([set_lines[0], rule, *set_lines[1:], *table.notes])


def score_table(summary: Entry) -> str:
    """Return one run's scores as text, the lowest test figure first."""
    return as_text(scores(summary))


def comparison_table(result: Entry) -> str:
    """Return a comparison over seeds as text, the lowest mean test figure first."""
    return as_text(comparison(result))


def comparison_text(result: Entry) -> str:
    """Return a comparison as text: a row per model, tests against random, the verdict, the size of each test."""
    against = against_random(result)
    tables = [comparison_table(result), *([] if against is None else [as_text(against)])]
    return "\n\n".join([*tables, result["verdict"], size_words(result)])


def scores(summary: Entry) -> Table:
    """Return one run's scores, `summary.json`, the lowest test figure first."""
    label = METRICS.get(summary["metric"], summary["metric"])
    columns = (
        Column("model", figures=False),
        Column(f"test {label}", "on the test part; lower is better"),
        Column(f"val {label}", "on the validation part; lower is better"),
        *(column for column, _ in DETAILS.values()),
        Column("params", "number of trained parameters"),
        Column("seconds", "time of all fits, including settings that were not chosen"),
        Column("words/s", "training words per second"),
        Column("tried", "number of settings tried"),
    )
    ordered = sorted(summary["scores"], key=lambda entry: _rank(entry["test"]))
    main, strategies = main_of([entry["model"] for entry in summary["scores"]]), [summary.get("strategy", "")]
    rows = tuple(_score_row(entry, summary["metric"], main, strategies) for entry in ordered)
    return Table(columns, rows, _capped_notes(ordered, strategies)).without_empty()


def _capped_notes(entries: Sequence[Entry], strategies: Sequence[str]) -> tuple[str, ...]:
    """Return a note if the training of a model reached the epoch limit."""
    names = [entry["model"] for entry in entries]
    capped = [entry["model"] for entry in entries if entry.get("capped")]
    found = [rows for rows in map(rows_of, dict.fromkeys(("growing", *strategies))) if rows[0] in capped]
    others = set(capped) - {rows[0] for rows in found} - {"chosen"}  # which is another row, too
    keys = ["retrain.epochs"] * bool(others) + ["strategy.max_epochs"] * bool(found)
    keys += ["strategy.fine_tune_epochs"] * any(rows[2] in names for rows in found)
    return (CAPPED_NOTE.format(keys=" and ".join(keys)),) if keys else ()


def _name(entry: Entry) -> str:
    """Return a model's name, with a mark if its training reached the epoch limit."""
    return f"{entry['model']} {CAPPED}" if entry.get("capped") else str(entry["model"])


def _score_row(entry: Entry, metric: str, main: str | None, strategies: Sequence[str]) -> Row:
    detail = entry.get("detail", {}).get("test", {})
    cells = (
        _name(entry),
        score(entry["test"], metric),
        score(entry["val"], metric),
        *(written(detail.get(key)) for key, (_, written) in DETAILS.items()),
        count(entry.get("params")),
        seconds(entry.get("seconds")),
        count(entry.get("words_per_s")),
        count(entry.get("settings")),
    )
    about = _about(entry["model"], entry.get("chosen", {}), entry.get("settings"), strategies)
    return Row(cells, about, entry["model"] == main)


def comparison(result: Entry) -> Table:
    """Return a comparison over seeds, `comparison.json`, the lowest mean test figure first.

    The most important columns come first, because a phone shows only these.
    """
    label, reference = METRICS.get(result["metric"], result["metric"]), result.get("reference", "grown")
    steps, the_steps = _steps(result)
    columns = (
        Column("model", figures=False),
        Column(f"test {label}", "mean over the seeds; lower is better"),
        Column("sd", "standard deviation over the seeds"),
        Column(f"than {reference}", _finding_note(result), figures=False),
        Column(
            f"p over {steps} and seeds",
            f"t-test against {reference} on {the_steps}: probability of a difference this large between equally "
            f"good kinds of models, over other {steps} and other seeds{_size_note(result, 'days_and_seeds')}",
        ),
        Column(
            "p over seeds",
            f"Welch's t-test against {reference}: the same probability, over other seeds on the same {steps}"
            f"{_size_note(result, 'over_seeds')}",
        ),
        Column("MCS", _mcs_note(result), figures=False),
        Column(
            "DM p",
            f"Diebold-Mariano test against {reference}, on the losses averaged over these seeds; it generalises to "
            f"other {steps}, but says nothing about other seeds{_size_note(result, 'diebold_mariano')}",
        ),
        Column("n", "number of seeds"),
        Column("averaged", "test figure of the forecasts averaged over the seeds"),
        Column(f"val {label}", "mean over the seeds"),
        Column("params", "number of trained parameters"),
        Column("seconds", "time of all fits of one seed, including settings that were not chosen"),
        Column("CPU s", "processor seconds of all training of one seed"),
        Column("steps", "weight steps of all fits of one seed, including settings that were not chosen"),
        Column("grad/step", "forward and backward passes on a window per weight step, in all fits of one seed"),
        Column("words/s", "training words per second"),
        Column("tried", "number of settings tried"),
    )
    tests = {test["baseline"]: test for test in result.get("tests", [])}
    ordered = sorted(result["models"], key=lambda entry: _rank(entry["test"]["mean"]))
    rows = (_comparison_row(entry, tests, reference, result) for entry in ordered)
    notes = _capped_notes(ordered, result.get("strategies", ()))
    return Table(columns, tuple(rows), notes).without_empty()


def against_random(result: Entry) -> Table | None:
    """Return the tests of each strategy's models against random search's; None if there are none.

    Found models come first, then retrained cells; in each group the lowest mean test figure first.
    """
    tests = result.get("tests_against_random")
    if not tests:
        return None
    label, (steps, _) = METRICS.get(result["metric"], result["metric"]), _steps(result)
    columns = (
        Column("model", figures=False),
        Column("tested against", figures=False),
        Column(f"test {label}", "mean over the seeds; lower is better"),
        Column("loss difference", "mean test loss minus that of random search's model; below 0: lower than random's"),
        Column("than random", _finding_note(result), figures=False),
        Column(f"p over {steps} and seeds", "as in the table above, against random search's model"),
        Column("p over seeds", "as in the table above, against random search's model"),
        Column("Holm p", "the larger of the two, corrected for the number of models tested against the same one"),
        Column("DM p", "Diebold-Mariano test, as in the table above; it says nothing about other seeds"),
    )
    means = {entry["model"]: entry["test"]["mean"] for entry in result["models"]}
    groups = list(dict.fromkeys(test["reference"] for test in tests))
    ordered = sorted(tests, key=lambda one: (groups.index(one["reference"]), _rank(means.get(one["baseline"]))))
    rows = (
        Row(
            (
                test["baseline"],
                test["reference"],
                score(means.get(test["baseline"]), result["metric"]),
                small(test["loss_difference"]),
                FINDINGS[test["finding"]],
                probability((test["days_and_seeds"] or {}).get("p_value")),
                probability((test["over_seeds"] or {}).get("p_value")),
                probability(test["p_holm"]),
                probability(test["p_value"]),
            )
        )
        for test in ordered
    )
    return Table(columns, tuple(rows)).without_empty()


def _steps(result: Entry) -> tuple[str, str]:
    """Return the name of the tests' steps, and the phrase with their number if the comparison has it."""
    steps = result.get("steps", {"unit": "days"})
    name = steps["unit"].split()[0]  # `days`, or `blocks` of `blocks of 100 tokens`
    return name, f"{count(steps['count'])} {steps['unit']}" if "count" in steps else f"the {name}"


def _finding_note(result: Entry) -> str:
    return (
        "'better' or 'worse' if both tests to the right have p < 0.05; if no forecast depends on the seed, the first "
        f"test decides{_size_note(result, 'finding')}"
    )


def _mcs_note(result: Entry) -> str:
    size, (steps, _) = result.get("mcs", {}).get("size", 0.1), _steps(result)
    return (
        f"'in': member of the model confidence set of size {size:.0%}, not told apart from the best kind of model, "
        f"over other {steps} and other seeds{_size_note(result, 'mcs')}"
    )


def _size_note(result: Entry, test: str) -> str:
    """Return how often a test rejects equal models, as text; empty if the comparison does not say."""
    found = next((one for one in result.get("sizes", []) if one["test"] == test), None)
    return f"; at {found['nominal']:.0%} it rejects {_share(found)} of equal models" if found else ""


def size_words(result: Entry) -> str:
    """Return how often each test rejects equal models and how this was measured; empty if the result does not say."""
    groups: dict[str, list[str]] = {}
    for one in result.get("sizes", []):
        what = f"{SIZED.get(one['test'], one['test'])} {_share(one)} at {one['nominal']:.0%}"
        groups.setdefault(one["source"], []).append(what)
    sentences = (f"{'; '.join(found)} ({source})." for source, found in groups.items())
    return f"Measured size of the tests, on equal models: {' '.join(sentences)}" if groups else ""


def _share(size: Entry) -> str:
    return f"{100 * size['lowest']:.1f} to {100 * size['highest']:.1f} %"


def _comparison_row(entry: Entry, tests: Mapping[str, Entry], reference: str, result: Entry) -> Row:
    name, metric, strategies = entry["model"], result["metric"], result.get("strategies", ())
    test = tests.get(name, {})
    cells = (
        _name(entry),
        score(entry["test"]["mean"], metric),
        score(entry["test"].get("sd"), metric),
        FINDINGS.get(test.get("finding"), NONE),  # type: ignore[arg-type]
        probability((test.get("days_and_seeds") or {}).get("p_value")),
        probability((test.get("over_seeds") or {}).get("p_value")),
        {True: "in", False: "out"}.get(entry.get("in_mcs"), NONE),  # type: ignore[arg-type]
        probability(test.get("p_value")),
        count(entry.get("n")),
        score(entry.get("averaged_test"), metric),
        score(entry.get("val", {}).get("mean"), metric),
        count(entry.get("params")),
        seconds(entry.get("seconds")),
        seconds(entry.get("cpu_seconds")),
        count(entry.get("steps")),
        ratio(entry.get("gradients"), entry.get("steps")),
        count(entry.get("words_per_s")),
        count(entry.get("settings")),
    )
    return Row(cells, _about(name, {}, entry.get("settings"), strategies), name == reference)


def _about(model: str, chosen: Entry, settings: int | None, strategies: Sequence[str]) -> str:
    """Describe a model and its chosen settings as text."""
    what = named(model, strategies)
    values = ", ".join(f"{key} {plain(value)}" for key, value in chosen.items() if isinstance(value, str | int | float))
    by = "settings chosen on validation" if what.tuned and (settings or 1) > 1 else ""
    return "; ".join(part for part in (what.words, by, values.replace("_", " ")) if part)


def series(names: Sequence[str], data: Entry, scores: Mapping[str, Entry]) -> Table:
    """Return one row per series: how it was cleaned, and test scores of a few models.

    Args:
        names: names of the series.
        data: the content of `data.json`.
        scores: entries of `summary.json` by model, in the order of the columns.
    """
    columns = [Column("series", figures=False), Column("mean", "mean of the training part"), Column("sd")]
    columns.append(Column("carried", "blanks filled with the previous value"))
    still = data.get("cleaning", {}).get("still_share")
    if still is not None:  # early versions did not write it
        columns.append(Column("still", "share of rows in which the series did not move"))
    columns += [Column(f"{model} R²", "on the test part, compared with a forecast of zero") for model in scores]
    columns += [Column(f"{model} hits", "share of test forecasts with the right sign") for model in scores]
    carried = data.get("cleaning", {}).get("carried_forward", {})
    each = [entry.get("detail", {}).get("test", {}).get("per_series", {}) for entry in scores.values()]
    rows = []
    for i, name in enumerate(names):
        moments = [small(data.get(key, [])[i]) if i < len(data.get(key, [])) else NONE for key in ("mean", "sd")]
        scored = [percent(one.get(name, {}).get("r2")) for one in each]
        scored += [percent(one.get(name, {}).get("hit_rate") or None) for one in each]
        rest = [] if still is None else [percent(still.get(name))]
        rows.append(Row((name, *moments, count(carried.get(name)), *rest, *scored)))
    return Table(tuple(columns), tuple(rows))


def next_step(names: Sequence[str], forecasts: Sequence[float | None], errors: Sequence[float | None]) -> Table:
    """Return one row per series: its forecast of the next step and its usual error, in its own units.

    Args:
        names: names of the series.
        forecasts: forecasts of the next step.
        errors: root mean squared errors on the test part.
    """
    columns = (
        Column("series", figures=False),
        Column("forecast", "in the units of the series"),
        Column("usual error", "root mean squared error on the test part, in the same units"),
    )
    rows = (Row((name, small(a), small(b))) for name, a, b in zip(names, forecasts, errors, strict=True))
    return Table(columns, tuple(rows))


def outcomes(runs: Iterable[tuple[str, Entry]]) -> Table:
    """Return one row per finished run: the size of the found cell, and why the search stopped.

    Args:
        runs: for each run its name and the content of `summary.json`.
    """
    columns = (
        Column("run", figures=False),
        Column("test", "test figure of the main model"),
        Column("val", "validation figure of the main model"),
        Column("nodes"),
        Column("ops"),
        Column("params"),
        Column("search s", "seconds of the search"),
        Column("accepted", "accepted candidates out of all tested candidates", figures=False),
        Column("stopped because", figures=False),
    )
    return Table(columns, tuple(_outcome_row(name, summary) for name, summary in runs))


def _outcome_row(name: str, summary: Entry) -> Row:
    stages = summary.get("stage_log", [])
    accepted = f"{sum(bool(line.get('accepted')) for line in stages)} of {len(stages)}" if stages else NONE
    cells = (
        name,
        score(summary.get("test"), summary.get("metric", "")),
        score(summary.get("val"), summary.get("metric", "")),
        count(summary.get("nodes")),
        count(summary.get("ops")),
        count(summary.get("params")),
        seconds(summary.get("search_seconds")),
        accepted,
        str(summary.get("stopped", NONE)),
    )
    return Row(cells)


def differences(configs: Mapping[str, Entry]) -> Table:
    """Return the config keys in which runs differ: one row per key, one column per run."""
    flat = {name: dict(_flatten(config)) for name, config in configs.items()}
    keys = [key for key in dict.fromkeys(key for one in flat.values() for key in one) if not key.startswith("versions")]
    unlike = [key for key in keys if len({repr(one.get(key)) for one in flat.values()}) > 1]
    rows = (Row((key, *(plain(one.get(key, NONE)) for one in flat.values()))) for key in unlike)
    return Table((Column("key", figures=False), *(Column(name, figures=False) for name in flat)), tuple(rows))


def _flatten(tree: Entry, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def figure(value: float | None, digits: int = 4) -> str:
    """Return a figure with `digits` decimals."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def score(value: float | None, metric: str) -> str:
    """Return a figure of a metric with the metric's number of decimals."""
    return figure(value, DIGITS.get(metric, 4))


def small(value: float | None) -> str:
    """Return a number with three significant digits."""
    return NONE if value is None or not math.isfinite(value) else f"{value:.3g}".replace("-", MINUS)


def percent(value: float | None) -> str:
    """Return a share in per cent."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{round(100 * value, 1) + 0.0:.1f} %".replace("-", MINUS)  # + 0.0 turns -0.0 into 0.0


def count(value: float | None) -> str:
    """Return a whole number with thousands separators."""
    return NONE if value is None else f"{round(value):,}"


def seconds(value: float | None) -> str:
    """Return a time in seconds."""
    return NONE if value is None else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def ratio(value: float | None, over: float | None) -> str:
    """Return a ratio with one decimal."""
    return NONE if value is None or not over else figure(value / over, 1)


def probability(value: float | None) -> str:
    """Return a p-value."""
    if value is None or not math.isfinite(value):
        return NONE
    return "<.001" if value < 0.001 else f"{value:.3f}"


def p_value(value: float) -> str:
    """Return a p-value as text, such as `p = 0.012` or `p < .001`."""
    shown = probability(value)
    return f"p {shown.replace('<', '< ')}" if shown.startswith("<") else f"p = {shown}"


def plain(value: Any) -> str:
    """Return the value of a setting without trailing zeros."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _rank(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else value
