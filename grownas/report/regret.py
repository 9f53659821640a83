"""Tables of a comparison over panels, `panels.json`, as text."""

from __future__ import annotations

from grownas.report.tables import METRICS, NONE, Column, Entry, Row, Table, as_text, score

FIGURES, COUNTS = ("mean", "median", "p90", "worst"), ("n", "wins", "ties", "losses")
FOUND = {"better": "DM wins", "not told apart": "DM ties", "worse": "DM losses"}  # finding about a model -> its column
MARKS = {"better": "<", "not told apart": " ", "worse": ">"}  # finding about a model -> mark beside its figure
BEST = "*"  # marks the best simple model of a panel


def regret_table(result: Entry) -> str:
    """Return the regrets as text: one row per model, the lowest mean first, then the meaning of the columns."""
    titles = (*(f"{name} %" for name in FIGURES), *COUNTS, *FOUND.values())
    columns = (Column("model", figures=False), *map(Column, titles))
    rows = tuple(_regret_row(model) for model in result["models"])
    return (
        f"{as_text(Table(columns, rows))}\n\nRegret: 100 * log of the test {result['metric']} over the lowest of "
        f"{', '.join(result['simple'])}, on {len(result['panels'])} panels.\nWins, ties, losses: panels with a regret "
        "below, at and above 0. DM: panels on which the model's losses are lower than those of the best simple model, "
        f"not told apart from them, or higher, by the Diebold-Mariano test at the {result['level']:.0%} level."
    )


def _regret_row(model: Entry) -> Row:
    figures = (f"{model[name]:.2f}" for name in FIGURES)
    counts = (*(model[name] for name in COUNTS), *(model["dm"].get(finding, 0) for finding in FOUND))
    return Row((model["model"], *figures, *map(str, counts)))


def metric_table(result: Entry) -> str:
    """Return the test metrics as text: one row per panel, one column per model, then the meaning of the marks."""
    models = [model["model"] for model in result["models"]]
    columns = (Column("panel", figures=False), *map(Column, ("series", "test rows", "seeds", *models)))
    rows = tuple(_metric_row(panel, models, result["metric"]) for panel in result["panels"])
    return (
        f"{as_text(Table(columns, rows))}\n\nTest {METRICS.get(result['metric'], result['metric'])}, the mean over the "
        f"seeds; lower is better. {BEST} the best simple model of the panel; {MARKS['better']} lower and "
        f"{MARKS['worse']} higher than it by the Diebold-Mariano test at the {result['level']:.0%} level."
    )


def _metric_row(panel: Entry, models: list[str], metric: str) -> Row:
    def cell(model: str) -> str:
        if model not in panel["test"]:
            return NONE
        mark = BEST if model == panel["best"] else MARKS[panel["dm"][model]]
        return f"{score(panel['test'][model], metric)} {mark}"

    counts = (len(panel["series"]), panel["rows"], len(panel["seeds"]))
    return Row((panel["panel"].removeprefix("panel-"), *map(str, counts), *map(cell, models)))
