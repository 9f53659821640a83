"""Tables and figures of a study of optimisers, from `study.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from grownas.evaluation.studies import CELLS, JUDGED, MEASURES
from grownas.report.canvas import ACCENT, FOURTH, OTHER, THIRD, as_svg, grid
from grownas.report.growth_plots import log_ticks
from grownas.report.tables import DIGITS, METRICS, MINUS, NONE, Column, Row, Table, as_text

Tree = Mapping[str, Any]

LOOKS = {("sgd", "sgd"): OTHER, ("sgd", "adam"): THIRD, ("adam", "sgd"): FOURTH, ("adam", "adam"): ACCENT}
WORDS = {"supernet": "supernet", "eigenvalue": "eigenvalue", "cell": "cell, inherited", "anew": "cell, new"}
LEVEL = 0.05


def text(result: Tree) -> str:
    """Return a study as text: one row per combination, then the answers."""
    return f"{as_text(table(result))}\n\n{as_text(answers(result))}"


def table(result: Tree) -> Table:
    """Return one row per backbone, strategy, pair of optimisers and momentum."""
    label, digits = METRICS.get(result["metric"], result["metric"]), DIGITS.get(result["metric"], 4)
    columns = (
        *(Column(name, figures=False) for name in ("backbone", "strategy", "w", "alpha")),
        Column("momentum", "momentum of sgd, beta1 of adam, for both"),
        Column("rate of w", "chosen on validation: the rate of each seed, sgd before times 1 - momentum"),
        Column(f"supernet {label}", "lowest validation figure of the supernet"),
        Column("eigenvalue", "dominant eigenvalue of the Hessian in alpha after the last epoch"),
        Column("early cell", "trained briefly from the supernet's weights; epoch with the lowest mean of other seeds"),
        Column("last cell", "the same, read out after the last epoch"),
        Column("early, new", "the early cell trained from random weights; its epoch chosen by this figure"),
        Column("last, new", "the last cell trained from random weights"),
        Column("diverged", "trainings that diverged, of all rates and seeds"),
    )
    rows = tuple(
        Row(
            (
                *(str(row[name]) for name in ("backbone", "strategy", "weights", "alpha")),
                f"{row['momentum']:g}",
                " ".join(NONE if rate is None else f"{rate:g}" for rate in row["rates"]),
                _spread(row["supernet"], digits),
                _spread(row["eigenvalue"], 4),
                *(_spread(row[name][which], digits) for name in CELLS for which in ("early", "last")),
                str(row["diverged"]),
            )
        )
        for row in result["rows"]
    )
    seeds = len(result["seeds"])
    note = f"Validation figures: mean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}."
    return Table(columns, rows, (note,))


def answers(result: Tree) -> Table:
    """Return one row per backbone, strategy and question, with a difference for each measure."""
    columns = (
        *(Column(name, figures=False) for name in ("backbone", "strategy", "difference")),
        *(
            Column(name, f"difference of the {WORDS[measure]} in per cent, mean ± sd over seeds; p: t-test")
            for measure in JUDGED
            for name in (f"{WORDS[measure]} %", "p")
        ),
    )
    rows = []
    for one in result["answers"]:
        cells = []
        for measure in JUDGED:
            found = one.get(measure)
            other = f" ({found['other']})" if found and found["other"] else ""
            p = NONE if not found or found["p_value"] is None else f"{found['p_value']:.3f}".replace("0.000", "<.001")
            cells += [f"{_spread(found, 1)}{other}" if found else NONE, p]
        is_significant = any(one.get(name) and (one[name]["p_value"] or 1) < LEVEL for name in JUDGED)
        rows.append(Row((one["backbone"], one["strategy"], one["question"], *cells), marked=is_significant))
    note = (
        "Differences in per cent: 100 * the difference of mean logarithms over all other choices; below 0 the first "
        "is better. Inherited: trained on from the supernet's weights; new: from random weights."
    )
    return Table(columns, tuple(rows), (note,))


def _spread(figure: Tree, digits: int) -> str:
    """Return mean and standard deviation as text, with some decimals."""
    if figure["mean"] is None:
        return NONE
    sd = "" if figure["sd"] is None else f" ± {figure['sd']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{sd}".replace("-", MINUS)


def _over_momenta(curves: Any) -> Any:
    """Return the mean logarithm over the first axis; what diverged or is not above 0 is left out, or masked."""
    return np.ma.log(np.ma.masked_invalid(np.array(curves, dtype=np.float64))).mean(axis=0)


def draw(result: Tree, backbone: str, width: float) -> str | None:
    """Draw each measure over epochs: a column per strategy, a line per pair of optimisers, a band over seeds.

    A line is the geometric mean over momenta and seeds; its band extends from the lowest to the highest seed.

    Returns:
        The SVG, or None if the backbone has no figures.
    """
    rows = [row for row in result["rows"] if row["backbone"] == backbone and row["epochs"]]
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    if not rows:
        return None
    with grid(width, 0.6 + 1.25 * len(MEASURES), rows=len(MEASURES), columns=len(strategies)) as (canvas, panels):
        for measure, line in zip(MEASURES, panels, strict=True):
            shown = list[float]()
            for strategy, axes in zip(strategies, line, strict=True):
                for pair, colour in LOOKS.items():
                    own = [r for r in rows if (r["strategy"], r["weights"], r["alpha"]) == (strategy, *pair)]
                    if not own:
                        continue
                    seeds = _over_momenta([row["curves"][measure] for row in own])
                    logs = (seeds.mean(axis=0), seeds.min(axis=0), seeds.max(axis=0))
                    at, (mean, low, high) = own[0]["epochs"], (np.exp(each.filled(np.nan)) for each in logs)
                    axes.plot(at, mean, color=colour, linewidth=1.2, label=" + ".join(pair))
                    axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
                    shown += mean[np.isfinite(mean)].tolist()
            line[0].set_ylabel(WORDS[measure])
            if measure == "eigenvalue" and shown:
                line[0].set_yscale("log")
                ticks = log_ticks(min(shown), max(shown), most=4)
                line[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
                line[0].minorticks_off()
            elif shown:
                bottom, top = min(shown), float(np.quantile(shown, 0.95))
                line[0].set_ylim(bottom - 0.05 * (top - bottom or 1), top + 0.05 * (top - bottom or 1))
        for strategy, axes in zip(strategies, panels[0], strict=True):
            axes.set_title(strategy, fontsize=9)
        for axes in panels[-1]:
            axes.set_xlabel("epoch")
        handles, labels = panels[0][0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper left", ncols=2 if width < 5 else 4, fontsize=8)
        return as_svg(canvas)
