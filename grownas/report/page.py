"""Writes `report.html` for one run, one comparison over seeds, or several runs side by side.

The page is a single file that opens offline: it contains its styles, plots and diagrams. The templates escape all
values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grownas.errors import RunError
from grownas.evaluation.groups import row_name
from grownas.evaluation.replays import KIND
from grownas.genotype import AnyGenotype, Genotype
from grownas.report import (
    backtest,
    figures,
    front,
    growth_log,
    growth_plots,
    history,
    plots,
    replays,
    study,
    tables,
    verdicts,
)
from grownas.report.canvas import NARROW, WIDE
from grownas.report.diagram import CARDS, diagram, environment
from grownas.report.drawings import about, draw
from grownas.report.reading import Backtest, Comparison, Run, Study, Tree, read
from grownas.runs.rundir import write_file

if TYPE_CHECKING:
    from markupsafe import Markup

SHOWN_DAYS, SHOWN_SERIES = 120, 4
CONTENTS = "<!-- contents -->"  # the template's placeholder for the list of sections


def write_report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write the report of one run, of one comparison, or of several runs side by side.

    Args:
        folders: run folders, or one folder of `grownas compare`.
        output: the file to write; by default `report.html` in the folder, or for several runs `comparison.html` in the
            parent folder of the first.

    Returns:
        The path of the page.

    Raises:
        RunError: a folder is not a run folder, a file in it is damaged, or the page cannot be written.
    """
    if not folders:
        raise RunError("no run folder given; give the path of at least one run folder")
    found = [read(Path(folder)) for folder in folders]
    if len(found) > 1:
        html = _render("several.html", _several([run for item in found for run in _runs_of(item)]))
        path = found[0].path.resolve().parent / "comparison.html"
    else:
        html, path = _page(found[0]), found[0].path / "report.html"
    path = path if output is None else Path(output)
    write_file(path, html.encode())
    return path


def _page(of: Run | Comparison | Study | Backtest) -> str:
    """Return the page of one folder."""
    if isinstance(of, Study):
        is_replay = of.result.get("kind") == KIND
        return _render("replay.html", _replays(of)) if is_replay else _render("study.html", _study(of))
    if isinstance(of, Backtest):
        return _render("backtest.html", _backtest(of))
    if isinstance(of, Comparison):
        return _render("comparison.html", _comparison(of))
    return _render("run.html", _run(of))


def _render(template: str, values: Tree) -> str:
    return _with_contents(environment().get_template(template).render(values))


def _with_contents(html: str) -> str:
    """Give each section an anchor and add a list of sections at the top."""
    titles = list[str]()

    def anchored(match: re.Match[str]) -> str:
        titles.append(match[1])
        return f'<h2 id="section-{len(titles)}">{match[1]}</h2>'

    html = re.sub(r"<h2>(.*?)</h2>", anchored, html)
    links = "".join(f'<a href="#section-{number}">{title}</a>' for number, title in enumerate(titles, start=1))
    return html.replace(CONTENTS, f'<nav aria-label="Contents">{links}</nav>' if links else "", 1)


def _run(run: Run) -> Tree:
    """Return the template values for the page of one run."""
    summary = run.summary
    return {
        "title": run.name,
        "kicker": _kicker(run, "run"),
        "verdict": _verdict(run),
        "finished": summary is not None,
        "facts": _facts(run),
        "scores": tables.scores(summary) if summary else None,
        "dots": _both(lambda width: _score_dots(run, width)),
        **_fronts([run]),
        **_details(run),
    }


def _comparison(comparison: Comparison) -> Tree:
    """Return the template values for the page of a comparison over seeds."""
    result, shown = comparison.result, comparison.shown
    finished = [run for run in comparison.runs if run.summary]
    figures = {entry["model"]: entry["test"]["each"] for entry in result["models"]} if result else {}
    values = _details(shown or Run.empty(comparison.path))
    own = shown or (comparison.runs[0] if comparison.runs else None)
    return {
        **values,
        "title": comparison.name,
        "kicker": _kicker(own, f"comparison over {len(comparison.runs)} seed{'s' * (len(comparison.runs) > 1)}")
        if own
        else "comparison",
        "verdict": _compared(result) if result else None,
        "finished": result is not None,
        "done": len(finished),
        "seeds": len(comparison.runs),
        "shown": shown.name if shown else None,
        "scores": tables.comparison(result) if result else None,
        "against": tables.against_random(result) if result else None,
        "sizes": tables.size_words(result) if result else "",
        "dots": _both(
            lambda width: plots.dots(
                figures, metric=result["metric"], ours=[result.get("reference", "grown")], width=width
            )
        )
        if result
        else None,
        "outcomes": tables.outcomes((run.name, run.summary) for run in finished if run.summary),
        **_strategies(comparison),
        **_fronts(finished),
        "cumulative": _cumulative(finished, comparison.best_baseline),
        "rival": comparison.best_baseline,
        "repeat": _repeat(comparison, "compare", values["data"]),
    }


def _runs_of(item: Run | Comparison | Study | Backtest) -> list[Run]:
    """Return the runs to show side by side."""
    if isinstance(item, Study | Backtest):
        what = "study" if isinstance(item, Study) else "backtest"
        raise RunError(f"{item.path}: a {what} has a page of its own; give its folder alone")
    return item.runs if isinstance(item, Comparison) else [item]


def _study(of: Study) -> Tree:
    """Return the template values for the page of a study of optimisers."""
    result = of.result
    backbones = dict.fromkeys(row["backbone"] for row in result["rows"])
    drawn = {name: _both(partial(study.draw, result, name)) for name in backbones}
    return {
        "title": of.name,
        "kicker": f"study of optimisers over {len(result['seeds'])} seed{'s' * (len(result['seeds']) > 1)}",
        "metric": tables.METRICS.get(result["metric"], result["metric"]),
        "answers": study.answers(result),
        "figures": [(name, drawing) for name, drawing in drawn.items() if drawing],
        "combinations": study.table(result),
        "repeat": _repeat(of, "compare", {}),
    }


def _replays(of: Study) -> Tree:
    """Return the template values for the page of a study of strategies on a table."""
    result = of.result
    return {
        "title": of.name,
        "kicker": f"searches replayed on a table of {result['space']['genotypes']} trained genotypes",
        "metric": tables.METRICS.get(result["metric"], result["metric"]),
        "drawing": _both(partial(replays.draw, result)),
        "strategies": replays.table(result),
        "space": replays.space(result),
        "repeat": _repeat(of, "compare", {}),
    }


def _backtest(of: Backtest) -> Tree:
    """Return the template values for the page of a backtest."""
    result = of.result
    return {
        "title": of.name,
        "kicker": f"backtest in blocks of {result['every']} rows",
        "models": backtest.models(result),
        "intervals": backtest.intervals(result),
        "panels": [_safe(one) for one in backtest.bands(of.forecast, of.dates)] if of.forecast else [],
        "period": backtest.period(result),
        "years": backtest.means(result, "years", backtest.period(result)),
        "blocks": backtest.means(result, "blocks", "first row"),
        "figure": _both(partial(backtest.draw, result, of.losses, of.dates)),
        "rival": backtest.rival_of(result),
        "reference": result["reference"],
        "repeat": _repeat(of, "backtest", {}),
    }


def _fronts(runs: Sequence[Run]) -> Tree:
    """Return the values for the section about bit widths."""
    fronts = [run.summary["front"] for run in runs if run.summary and "front" in run.summary]
    if not fronts:
        return {"front": None, "front_drawing": None}
    return {
        "front": front.table(fronts, runs[0].metric),
        "front_drawing": _both(lambda width: front.draw(fronts, runs[0].metric, width)),
    }


def _strategies(comparison: Comparison) -> Tree:
    """Return the courses of the strategies in a comparison, and the cell of each strategy's best seed."""
    if not comparison.others:
        return {"courses": None, "cells": []}
    first = next((run.summary["strategy"] for run in comparison.runs if run.summary), "growing")
    by_strategy = {first: comparison.runs, **comparison.others}
    finished = {name: [run for run in runs if run.summary] for name, runs in by_strategy.items()}
    found = {
        name: [course for run in runs if run.summary and (course := history.course(run.summary))]
        for name, runs in finished.items()
    }
    metric = next((run.metric for runs in finished.values() for run in runs), "")
    best = {
        name: min(runs, key=lambda run: run.summary["val"] if run.summary else 0.0)
        for name, runs in finished.items()
        if runs
    }
    return {
        "courses": _both(lambda width: plots.courses(found, metric=metric, width=width)),
        "cells": [(f"{name}, {run.name}", _safe(draw(run.genotype))) for name, run in best.items() if run.genotype],
    }


def _several(runs: list[Run]) -> Tree:
    """Return the template values for the page of several runs."""
    finished = [run for run in runs if run.summary]
    figures = {run.name: [entry["test"]] for run in finished if (entry := run.score(run.main))}
    metrics = {run.metric for run in finished}
    metric = next(iter(metrics), "")
    return {
        "title": f"{len(runs)} runs side by side",
        "kicker": "runs " + ", ".join(run.name for run in runs),
        "verdict": _lowest_validation(finished),
        "finished": len(finished) == len(runs),
        "missing": [run.name for run in runs if not run.summary],
        "outcomes": tables.outcomes((run.name, run.summary) for run in finished if run.summary),
        "differences": tables.differences({run.name: run.config for run in runs}),
        "dots": _both(lambda width: plots.dots(figures, metric=metric, ours=(), width=width))
        if len(metrics) == 1
        else None,
        "cells": [(run.name, _safe(draw(run.genotype))) for run in runs if run.genotype],
        "runs": [(run.name, tables.scores(run.summary)) for run in finished if run.summary],
    }


def _lowest_validation(finished: list[Run]) -> str:
    if not finished:
        return "None of these runs has finished yet."
    best = min(finished, key=lambda run: run.summary["val"] if run.summary else 0.0)
    assert best.summary is not None
    label = tables.METRICS.get(best.metric, best.metric)
    val, test = (tables.score(best.summary[part], best.metric) for part in ("val", "test"))
    return f"{best.name} has the lowest validation {label} ({val}); its test {label} is {test}."


def _details(run: Run) -> Tree:
    """Return the values for the sections about one run: growth, curves, cell, forecasts, data, how to repeat it."""
    from grownas.equations import for_people

    rival = run.best_baseline
    return {
        **_growth(run),
        **_trials(run),
        "cell": _safe(draw(run.genotype)) if run.genotype else None,
        "about_cell": about(run.genotype) if run.genotype else "",
        "equations": for_people(run.equations) if run.equations else None,
        "is_text": run.is_text,
        "panels": _panels(run),
        "figures": [(one["title"], one["caption"], _safe(figures.draw(one))) for one in run.figures],
        "days": min(SHOWN_DAYS, len(run.test_dates)),
        "cumulative": _cumulative([run], rival),
        "main": run.main,
        "rival": rival,
        "fit_words": _fit_words(run),
        "next_step": _next_step(run),
        "stopped": run.summary.get("stopped") if run.summary else None,
        "free_running": run.summary.get("free_running") if run.summary else None,
        "data": run.data,
        "series": _series(run),
        "repeat": _repeat(run, run.command, run.data, run.what),
    }


def _growth(run: Run) -> Tree:
    """Return the values for the sections about growth: timeline, cells, shares, predictions, the log."""
    stages = run.summary.get("stage_log", []) if run.summary else []
    metric, fits = history.fits(run.metrics, run.growth)
    events = history.events(run.growth)
    marks = history.marks(fits, events, stages)
    shares = history.shares(run.shares, run.metrics, events, stages)
    predictions = history.predictions(run.growth)
    scatter = growth_plots.scatter(predictions)
    models = [entry["model"] for entry in run.scores]
    searched = row_name(run.summary.get("strategy", "growing")) if run.summary else "grown"
    curves = history.curves(run.metrics, run.metric, models, events, stages, searched)
    panels = [plots.curves(curves, metric=run.metric, over=over) for over in plots.AXES]
    return {
        "timeline": _both(lambda width: growth_plots.timeline(fits, marks, metric=metric, width=width)),
        "curves": [_safe(panel) for panel in panels if panel],
        "curve_of": tables.METRICS.get(run.metric, run.metric),
        "trials": any(fit.is_trial and fit.val for fit in fits),
        "chapters": [_chapter(chapter) for chapter in history.chapters(events)],
        "shares": [_safe(panel) for panel in growth_plots.share_panels(shares)],
        "scatter": _safe(scatter) if scatter else None,
        "ratio": _ratio(predictions),
        "growth": growth_log.table(run.growth, stages),
    }


def _trials(run: Run) -> Tree:
    """Return the values for the section about genotypes that were trained on their own."""
    panels = [plots.trials(run.trials, metric=run.metric, over=over) for over in plots.TRIAL_AXES]
    reasons = Counter(line["reason"] for line in run.trials)
    return {
        "sampled": [_safe(panel) for panel in panels if panel],
        "sampled_of": len(run.trials),
        "sampled_ends": ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())),
    }


def _chapter(chapter: history.Chapter) -> Tree:
    """Return the values for an accepted move: its texts and two drawings."""
    return {
        "stage": chapter.stage,
        "moves": chapter.moves,
        "losses": [tables.figure(loss, 5) for loss in chapter.losses],
        "before": _safe(_drawn(chapter.before, gone=chapter.gone)),
        "after": _safe(_drawn(chapter.after, new=chapter.new)),
    }


def _drawn(genotype: AnyGenotype, **fates: frozenset[tuple[int, int]]) -> str:
    """Draw a cell beside another: of a chain the cards, with the ops that went or came."""
    return diagram(genotype, CARDS, **fates) if isinstance(genotype, Genotype) else draw(genotype)


def _ratio(predictions: Sequence[history.Prediction]) -> str:
    """Say in a sentence how predicted and measured changes of the loss compare."""
    predicted = sum(one.predicted for one in predictions)
    measured = sum(one.measured for one in predictions)
    if not predicted:
        return ""
    kinds, parts = {one.kind for one in predictions}, {one.part for one in predictions}
    what = "split" if kinds == {"split_op"} else "move"
    part = next(iter(parts)) if len(parts) == 1 else ""
    where = f" on the {part} part" if part else ""
    number = len(predictions)
    who = f"The {what} was" if number == 1 else f"Together the {number} {what}s were"
    text = (
        f"{who} predicted to change the loss{where} by {tables.small(predicted)} and changed it by "
        f"{tables.small(measured)}, a ratio of {tables.small(measured / predicted)}"
    )
    if number == 1:
        return f"{text}."
    median = float(np.median([one.measured / one.predicted for one in predictions]))
    return f"{text}; the median ratio is {tables.small(median)}."


def _kicker(run: Run, what: str) -> str:
    """Return the line above the title."""
    summary = run.summary or {}
    task = summary.get("task") or run.config.get("task", {}).get("use", "")
    strategy = summary.get("strategy") or run.config.get("strategy", {}).get("use", "")
    seed = f"seed {summary['seed']}" if what == "run" and "seed" in summary else ""
    return " · ".join(part for part in (what, task, strategy, seed) if part)


def _verdict(run: Run) -> str | None:
    """Return the verdict; for an unfinished run, its progress."""
    if run.summary:
        return verdicts.of_run(run.summary)
    lines = [line for line in run.metrics if line["split"] == "val" and line["metric"] == "loss"]
    if not lines:
        return None
    last = lines[-1]
    fit = f"{last['part']}, " if "part" in last else ""
    own = [line for line in lines if line.get("part") == last.get("part")]
    best = min(line["value"] for line in [one for one in own if "blend" not in one] or own)
    return f"So far: {fit}stage {last['stage']}, epoch {last['epoch']}, lowest validation loss {tables.figure(best)}."


def _compared(result: Tree) -> str:
    """Return the verdict of a comparison; files of early versions lack some figures, so their own text is used."""
    tests = result["tests"]
    is_early = not {"reference", "steps"} <= result.keys() or not all(
        {"finding", "equal"} <= one.keys() for one in tests
    )
    return str(result["verdict"]) if is_early else verdicts.of_comparison(result)


def _fit_words(run: Run) -> str:
    """Return a sentence with the main model's R² on the test part, by kind of series if there are several."""
    detail = ((run.score(run.main) or {}).get("detail") or {}).get("test") or {}
    names, kinds = run.data.get("names", []), run.data.get("kinds", [])
    found: dict[str, list[float]] = {}
    for name, kind in zip(names, kinds, strict=False):
        r2 = (detail.get("per_series", {}).get(name) or {}).get("r2")
        if r2 is not None:
            found.setdefault(kind, []).append(r2)
    if len(found) > 1:
        parts = [f"{tables.percent(float(np.mean(each)))} of {len(each)} {kind}s" for kind, each in found.items()]
        return f"Mean R² of {run.main} on the test part: {', '.join(parts)}."
    return f"R² of {run.main} on the test part: {tables.percent(detail['r2'])}." if detail.get("r2") is not None else ""


def _next_step(run: Run) -> Tree | None:
    """Return the forecast of the step after the last row, in the units of each series."""
    ahead = (run.summary or {}).get("next_step")
    if not ahead or len(ahead["forecasts"]) != len(run.data.get("names", [])):
        return None
    each = ((run.score(run.main) or {}).get("detail") or {}).get("test", {}).get("per_series", {})
    errors = [(each.get(name) or {}).get("mse") for name in run.data["names"]]
    own = [None if mse is None else sd * mse**0.5 for mse, sd in zip(errors, run.data["sd"], strict=True)]
    return {"date": ahead["date"], "table": tables.next_step(run.data["names"], ahead["forecasts"], own)}


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return the key figures below the verdict."""
    if run.summary is None:
        return []
    summary, rival = run.summary, run.best_baseline
    label = tables.METRICS.get(run.metric, run.metric)
    facts = [(f"test {label}, {run.main}", tables.score(summary["test"], run.metric))]
    for model, words in ((rival, f"test {label}, {rival}"), ("start", f"test {label}, start")):
        entry = run.score(model) if model else None
        facts += [(words, tables.score(entry["test"], run.metric))] if entry else []
    if summary["nodes"] is not None:  # None: the run trained a baseline
        facts.append(("nodes, ops", f"{summary['nodes']}, {summary['ops']}"))
    facts.append(("parameters", tables.count(summary["params"])))
    for key, words in (("search_seconds", "search"), ("retrain_seconds", "retraining")):
        if summary.get(key) is not None:
            facts.append((words, f"{tables.seconds(summary[key])} s"))
    return facts


def _score_dots(run: Run, width: float) -> str | None:
    figures = {entry["model"]: [entry["test"]] for entry in run.scores}
    return plots.dots(figures, metric=run.metric, ours=[run.main], width=width)


def _panels(run: Run) -> list[Markup]:
    """Draw the last test days of at most `SHOWN_SERIES` series, spread evenly from the highest to the lowest R²."""
    names = run.data.get("names", [])
    if not {run.main, "actual"} <= run.test.keys() or not len(run.test["actual"]):
        return []
    actual, forecast = run.test["actual"], run.test[run.main]
    error, size = ((actual - forecast) ** 2).sum(0), (actual**2).sum(0)
    ranked = np.argsort(error / np.where(size > 0, size, 1))
    places = ranked[np.unique(np.linspace(0, len(names) - 1, min(SHOWN_SERIES, len(names))).round().astype(int))]
    panels = []
    for i in places if len(names) > SHOWN_SERIES else range(len(names)):
        mean, sd = run.data["mean"][i], run.data["sd"][i]
        shown = [(values[-SHOWN_DAYS:, i] * sd + mean) for values in (actual, forecast)]
        panels.append(_safe(plots.forecast_panel(run.test_dates[-SHOWN_DAYS:], *shown, title=names[i])))
    return panels


def _cumulative(runs: list[Run], rival: str | None) -> Tree | None:
    """Draw the best baseline's squared error minus the main model's, cumulated over the test days."""
    gains = []
    for run in runs:
        if rival is not None and {run.main, "actual", rival} <= run.test.keys():
            actual = run.test["actual"]
            gains.append(((actual - run.test[rival]) ** 2 - (actual - run.test[run.main]) ** 2).mean(1))
    if not gains or len({len(gain) for gain in gains}) > 1 or not len(gains[0]):
        return None
    return _both(lambda width: plots.cumulative(runs[0].test_dates, gains, width=width))


def _series(run: Run) -> tables.Table | None:
    names = run.data.get("names")
    if not names:
        return None
    models = [model for model in dict.fromkeys((run.main, "start", run.best_baseline)) if model]
    return tables.series(names, run.data, {model: entry for model in models if (entry := run.score(model))})


def _repeat(of: Run | Comparison | Study | Backtest, command: str, data: Tree, what: str | None = None) -> Tree:
    """Return the values for the section on how to repeat a run; `what` is the baseline that it trained, if any."""
    config = of.config
    versions = config.get("versions") or {}
    return {
        "name": of.name,
        "command": command,
        "genotype": (what or f"{of.name}/genotype.json") if command == "train" else None,
        "has_model": command not in ("compare", "backtest") and what is None,
        "config": of.config_text,
        "versions": {name: str(version) for name, version in versions.items()},  # YAML reads 2.4 as a number
        "forecasts": "names" in data,
        "checksum": data.get("checksum") or config.get("data_checksum"),
    }


def _both(draw: Callable[[float], str | None]) -> Tree | None:
    """Draw the wide variant for desktops and the narrow one for phones; None if there is nothing to draw."""
    wide, narrow = draw(WIDE), draw(NARROW)
    return {"wide": _safe(wide), "narrow": _safe(narrow)} if wide and narrow else None


def _safe(svg: str) -> Markup:
    """Mark one of our drawings as markup, which is not escaped again; its text is already escaped."""
    from markupsafe import Markup

    return Markup(svg)
