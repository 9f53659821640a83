"""Tables and a figure of a study of strategies on a table of genotypes, from `study.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grownas.evaluation.replays import QUANTILES
from grownas.report.canvas import ACCENT, FOURTH, OTHER, THIRD, as_svg, grid
from grownas.report.tables import METRICS, MINUS, NONE, Column, Row, Table, as_text

Tree = Mapping[str, Any]

COLOURS = (OTHER, ACCENT, THIRD, FOURTH)
SHOWN = (10, 30, 100, 300)  # numbers of genotypes in the table of strategies, and the last one


def text(result: Tree) -> str:
    """Return a study as text: the strategies, then the spread of the space."""
    return f"{as_text(table(result))}\n\n{as_text(space(result))}"


def table(result: Tree) -> Table:
    """Return one row per number of genotypes and strategy."""
    label = METRICS.get(result["metric"], result["metric"])
    columns = (
        Column("genotypes", "number of genotypes that the search looked up"),
        Column("strategy", figures=False),
        Column("searches", "number of repeated searches"),
        Column(f"val {label}", "of the best trial so far: mean over searches, 95 % interval of the mean"),
        Column(f"test {label}", "of the same trial"),
        Column("rank", "of its genotype by mean test figure over seeds; 1 is the best"),
        Column("beats random", "probability that its test figure is below that of random search; equal: half"),
    )
    at = result["at"]
    shown = [place for place, number in enumerate(at) if number in SHOWN or number == at[-1]]
    rows = [
        Row(
            (
                str(at[place]),
                one["strategy"],
                str(one["repeats"]),
                *(interval(one[name][place], digits) for name, digits in (("val", 4), ("test", 4), ("rank", 1))),
                interval(one["beats_random"][place], 2) if one["beats_random"] else NONE,
            ),
            marked=bool(one["beats_random"]) and _is_told_apart(one["beats_random"][place]),
        )
        for place in shown
        for one in result["strategies"]
    ]
    note = (
        "A replay: trainings are looked up in a table, so the intervals hold for its genotypes and seeds alone; the "
        "teachers of seqnas do nothing."
    )
    return Table(columns, tuple(rows), (note,))


def space(result: Tree) -> Table:
    """Return the spread of the space: a row for the validation and one for the test figure."""
    found, metric = result["space"], str(result["metric"])
    columns = (
        Column(METRICS.get(metric, metric), figures=False),
        *(Column(f"{100 * share:g} %", "quantile over genotypes of the mean over seeds") for share in QUANTILES),
        Column("from genotypes", "share of the variance of single trainings that genotypes explain; the rest: seeds"),
    )
    rows = tuple(
        Row(
            (
                part,
                *(f"{one:.4f}" for one in found[part]["quantiles"]),
                interval(found[part]["from_genotypes"], 2),
            )
        )
        for part in ("val", "test")
    )
    note = (
        f"{found['genotypes']} genotypes, {found['seeds']} seeds. Rank correlation of validation and test over "
        f"genotypes: {interval(found['correlation'], 2)} of means over seeds, "
        f"{interval(found['correlation_best'], 2)} among the quarter with the lowest validation figures, "
        f"{interval(found['correlation_single'], 2)} of single trainings; of the number of parameters and the mean "
        f"test figure: {interval(found['of_params'], 2)}. Intervals: 95 %, bootstrap over genotypes."
    )
    return Table(columns, rows, (note,))


def interval(one: Tree, digits: int) -> str:
    """Return a mean with its interval as text."""
    mean, low, high = (f"{one[name]:.{digits}f}".replace("-", MINUS) for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _is_told_apart(one: Tree) -> bool:
    return bool(one["low"] > 0.5 or one["high"] < 0.5)


def draw(result: Tree, width: float) -> str:
    """Draw test figure and rank of the best trial so far over genotypes, with a line and a band per strategy."""
    label, at = METRICS.get(result["metric"], result["metric"]), result["at"]
    with grid(width, 4.6, rows=2, columns=1) as (canvas, ((above,), (below,))):
        for one, colour in zip(result["strategies"], _colours(result["strategies"]), strict=True):
            for axes, name in ((above, "test"), (below, "rank")):
                mean, low, high = ([each[key] for each in one[name]] for key in ("mean", "low", "high"))
                axes.plot(at, mean, color=colour, linewidth=1.2, label=one["strategy"])
                axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
        for axes, words in ((above, f"test {label}"), (below, "rank by mean test")):
            axes.set_xscale("log")
            ticks = [number for number in (1, 3, 10, 30, 100, 300, 1000) if number <= at[-1]]
            axes.set_xticks(ticks, [str(number) for number in ticks])
            axes.minorticks_off()
            axes.set_ylabel(words)
        below.set_xlabel("genotypes")
        handles, labels = above.get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper left", ncols=2 if width < 5 else 4, fontsize=8)
        return as_svg(canvas)


def _colours(strategies: Sequence[Tree]) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(len(strategies))]
