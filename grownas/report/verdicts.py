"""Writes the verdict: the result of a run or a comparison in sentences, computed from its figures.

`of_run` reads `summary.json`, `of_comparison` reads `comparison.json`. A verdict calls a difference more than chance
only if a test finds it significant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from grownas.criteria.acceptance import GUARD
from grownas.evaluation.models import FITTED, lowest, main_of, named, rivals_of
from grownas.report.tables import WORDS, p_value, score

Tree = Mapping[str, Any]

LEVEL = 0.05  # significance level of all tests
KEPT = "The search added nothing: the start is kept"
CHANCE = {True: "which is more than chance", False: "which may be chance", None: "which is not tested"}
FIGURE = {  # rule that judged an update -> what its figure is
    "significant": "t = {:.3g} on the validation part",
    "better": "gain in mean loss: {:.3g} on the validation part",
    GUARD: "gain in mean training loss: {:.3g}",
}
FINDINGS = {  # finding of a comparison's test -> words for it, said about the reference
    "better": "better than",
    "worse": "worse than",
    "not told apart": "not told apart from",
    "same": "the same as",
}


def of_run(summary: Tree) -> str:
    """Compare a run's main model with the best simple model and the best baseline, and say why the search stopped.

    Args:
        summary: the content of `summary.json`; `tests`, `chosen`, `stage_log`, `starts`, `stopped` and `caution`
            may be missing.
    """
    if "replay" in summary:
        return of_replay(summary)
    figures = {entry["model"]: entry["test"] for entry in summary["scores"]}
    main, chosen = main_of(figures), summary.get("chosen")
    if main is None:
        return ""
    tests = {test["baseline"]: test for test in summary.get("tests", [])}
    cited = []

    def chance(name: str) -> str:
        if name not in tests:
            return CHANCE[None]
        cited.append(name)
        p = tests[name]["p_value"]
        return f"{CHANCE[p < LEVEL]} ({p_value(p)})"

    rivals = rivals_of(main, figures, [summary.get("strategy", "")])
    others = {name: figures[name] for name in rivals if name != chosen}  # the main model may be the start itself
    who = f"The chosen model, {chosen}," if main == "chosen" and chosen else main
    words = _gains(who, figures[main], others, summary["metric"], chance)
    if chosen == "start":
        words.insert(1, f"{KEPT}.")
    if summary.get("update"):
        words.insert(0, update_words(summary["update"]))
    stages = summary.get("stage_log", [])
    if stages and chosen != "start" and not any(line.get("accepted") and line.get("stage", 0) > 1 for line in stages):
        words.insert(1, "Growth added nothing: no change after the first stage was accepted.")
    if summary.get("stopped") and chosen != "start":
        words.append(f"The search stopped: {summary['stopped']}.")
    words += [_second_start_words(one["judge"]) for one in summary.get("starts", ()) if one["kept"] and "judge" in one]
    if cited:
        words.append("p: Diebold-Mariano test of these two models; it says nothing about other seeds.")
    if summary.get("caution"):
        words.append(summary["caution"])
    return " ".join(words)


def _second_start_words(judge: Tree) -> str:
    """Say that growth from the gated node is kept, and by how much it was better."""
    where = f"on the validation parts of {judge['origins']} points in time together"
    figure = FIGURE[judge["rule"]].partition(" on ")[0].format(judge["figure"])
    return f"It grew from one gated node, whose cell is better than that from the linear start {where} ({figure})."


def of_replay(summary: Tree) -> str:
    """Say that a search was replayed on a table, and which of the table's genotypes it chose."""
    table, metric = summary["replay"], summary["metric"]
    return (
        f"A replay: nothing was trained. {summary['strategy']} looked up {summary['scores'][0]['settings']} trainings "
        f"in the table {table['table']} of {table['genotypes']} genotypes. Its choice has the test "
        f"{WORDS.get(metric, metric)} {score(summary['test'], metric)} in the training that was looked up, and rank "
        f"{table['rank']:g} of {table['genotypes']} by the mean over {len(table['seeds'])} seeds. The search stopped: "
        f"{summary['stopped']}."
    )


def update_words(update: Tree) -> str:
    """Say what an update did and what its judge found."""
    judge, how = update.get("judge"), update["how"]
    if judge is None:
        return f"Update ({how}): the model reads the new data with the weights of the run before."
    done = "accepted" if update["accepted"] else "rejected, so the old weights stay"
    figure = FIGURE[judge["rule"]].format(judge["figure"])
    return f"Update ({how}): {done} ({figure}, needed: above {judge['threshold']:g})."


def of_comparison(comparison: Tree) -> str:
    """Compare the reference with the best simple model and the best baseline, and say what the tests find.

    Args:
        comparison: the content of `comparison.json`; `strategies` and `kept_starts` may be missing.
    """
    models = comparison["models"]
    means = {entry["model"]: entry["test"]["mean"] for entry in models if entry["test"]["mean"] is not None}
    best, seeds, metric = lowest(means), len(comparison["seeds"]), comparison["metric"]
    reference = comparison["reference"]
    words = []
    if reference in means:
        tests = {test["baseline"]: test for test in comparison["tests"]}
        rivals = [name for name in rivals_of(reference, means, comparison.get("strategies", ())) if name in tests]
        words += _reference_words(comparison, means, {name: tests[name] for name in rivals})
    if best is not None:
        lead = f"Lowest mean test {WORDS.get(metric, metric)} over {_count(seeds)}"
        words.append(f"{lead}: {best} ({score(means[best], metric)}).")
    words.append(_random_words(comparison))
    words.append(_set_words(comparison, means))
    return " ".join(word for word in words if word)


def _gains(
    who: str, ours: float | None, others: Mapping[str, float], metric: str, chance: Callable[[str], str], mean: str = ""
) -> list[str]:
    """Compare a model with the best simple model, and with the best baseline if it is another model.

    Args:
        who: the model, as the subject of the sentence.
        ours: its test figure.
        others: test figures of the start and the baselines.
        metric: metric of the figures.
        chance: returns for a model whether the difference is more than chance, as text.
        mean: `mean` if the figures are means over seeds, else empty.
    """
    if ours is None or not math.isfinite(ours):
        return [f"{who} has no finite test {WORDS.get(metric, metric)}."]
    figure = " ".join(word for word in (mean, "test", WORDS.get(metric, metric)) if word)
    simple = {name: value for name, value in others.items() if named(name).kind in ("start", "fitted")}
    if not any(name in FITTED for name in simple):
        simple = {}  # without a fitted model the start has random weights, so it is no useful comparison
    nearest, best = lowest(simple), lowest(others)
    lead = f"{who} has a {figure} of {score(ours, metric)}"
    if best is None:
        return [f"{lead}."]
    first = best if nearest is None else nearest
    rank = "the best baseline" if nearest is None else "the best simple model"

    def ending(name: str) -> str:
        found = "" if ours == others[name] else f", {chance(name)}"
        return f"({score(others[name], metric)}){found}."

    words = [f"{lead}, {_gap(ours, others[first], metric)} {first}, {rank} {ending(first)}"]
    if best != first:
        words.append(f"It is {_gap(ours, others[best], metric)} {best}, the best of all baselines {ending(best)}")
    return words


def _gap(ours: float, theirs: float, metric: str) -> str:
    """Return the difference of two figures as text: in dB if they are, else in per cent if both are above 0."""
    if ours == theirs:
        return "the same as"
    side = "lower than" if ours < theirs else "higher than"
    if metric.endswith("_db"):
        return f"less than 0.01 dB {side}" if abs(ours - theirs) < 0.01 else f"{abs(ours - theirs):.2f} dB {side}"
    if min(ours, theirs) <= 0:
        return f"{abs(ours - theirs):.3g} {side}"
    share = 100 * abs(ours / theirs - 1)
    return f"less than 0.1 % {side}" if share < 0.1 else f"{share:.1f} % {side}"


def _reference_words(comparison: Tree, means: Mapping[str, float], tests: Mapping[str, Tree]) -> list[str]:
    """Say what the reference gains, in how many seeds the start was kept, and what the tests find.

    Args:
        comparison: the content of `comparison.json`.
        means: mean test figure of each model.
        tests: tests of the reference against the start and the baselines.
    """
    metric, steps, reference = comparison["metric"], comparison["steps"], comparison["reference"]
    seeds = len(comparison["seeds"])
    where = f"{steps['count']:,} {steps['unit']} and {_count(seeds)}"

    def chance(name: str) -> str:
        finding = tests[name]["finding"]
        return CHANCE[None if finding == "untested" else finding in ("better", "worse")]

    others = {name: means[name] for name, test in tests.items() if not test["equal"]}
    words = _gains(f"Over {_count(seeds)} {reference}", means[reference], others, metric, chance, "mean")
    if kept := comparison.get("kept_starts", 0):
        words.append(f"{KEPT}." if kept == seeds else f"{KEPT} in {kept} of {seeds} seeds.")
    groups: dict[str, list[str]] = {}
    for name, test in tests.items():
        groups.setdefault(test["finding"], []).append(name)
    untested = groups.pop("untested", [])
    found = [f"{FINDINGS[finding]} {_list(names)}" for finding, names in groups.items()]
    if found:
        words.append(f"By the tests over {where} at the {LEVEL:.0%} level, {reference} is {'; '.join(found)}.")
    if untested:
        words.append(f"{reference} is not tested against {_list(untested)}: a trained model needs at least 2 seeds.")
    return words


def _random_words(comparison: Tree) -> str:
    """Say which models have a lower error than random search's, which a higher one, and how many neither, by tests."""
    what = WORDS.get(comparison["metric"], comparison["metric"])
    groups: dict[str, list[Tree]] = {}
    for test in comparison.get("tests_against_random", ()):
        if test["p_holm"] is not None:
            groups.setdefault(test["reference"], []).append(test)
    sentences = []
    for reference, tests in groups.items():
        found: dict[str, list[str]] = {"lower": [], "higher": [], "neither": []}
        for test in tests:
            side = "neither" if test["p_holm"] >= LEVEL else "lower" if test["loss_difference"] < 0 else "higher"
            found[side].append(test["baseline"])
        parts = [f"{_have(found['lower'])} a lower {what}"] * bool(found["lower"] or len(tests) > 1)
        parts += [f"{_have(found['higher'])} a higher {what}"] * bool(found["higher"])
        rest = len(found["neither"])
        who = f"all {rest}" if rest == len(tests) else f"the other {rest}"
        parts += [f"{who} are not told apart"] * (rest > 1)
        parts += [f"{name} is not told apart" for name in found["neither"] if rest == 1]
        how = f" with p corrected for {len(tests)} models (Holm)" * (len(tests) > 1)
        sentences.append(f"Against {reference}, by both tests{how}: {'; '.join(parts)}.")
    return " ".join(sentences)


def _have(names: Sequence[str]) -> str:
    return f"{_list(names)} {'have' if len(names) > 1 else 'has'}" if names else "none has"


def _set_words(comparison: Tree, compared: Mapping[str, float]) -> str:
    """Say whether the model confidence set holds the reference, and which simple models (or other models) it holds."""
    confidence, reference = comparison["mcs"], comparison["reference"]
    untested = confidence.get("untested", ())
    members, the_set = confidence["members"], f"{confidence['size']:.0%} model confidence set"
    if not members:
        return ""
    if reference not in compared or reference in untested:
        among = f" of {_list(list(confidence['p_values']))}" if untested else ""
        return f"The {the_set}{among} holds {_list(members)}."
    lead = f"{reference} is {'in' if reference in members else 'not in'} the {the_set}"
    if any(name in compared for name in FITTED):
        simple = [name for name in ("start", *FITTED) if name in members]
        return lead + (
            f"; of the simple models it holds {_list(simple)}." if simple else ", which holds no simple model."
        )
    others = [name for name in members if name != reference]
    if reference not in members:
        return f"{lead}, which holds {_list(others)}."
    return lead + (f", with {_list(others)}." if others else ", alone.")


def _count(seeds: int) -> str:
    return f"{seeds} seed{'s' * (seeds > 1)}"


def _list(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
