"""Verdicts say what was gained over which model, and call it more than chance only where a test does."""

from __future__ import annotations

import pytest

from grownas.evaluation.comparison import LEVEL
from grownas.report import verdicts


def run_of(figures, p_values=(), **more):
    """The tree of a run's summary: test figures, and p-values of the tests against the chosen model."""
    tests = [{"baseline": name, "p_value": p, "equal": False} for name, p in dict(p_values).items()]
    scores = [{"model": name, "test": value} for name, value in figures.items()]
    return {"metric": "mse", "strategy": "growing", "scores": scores, "tests": tests, **more}


FIGURES = {"chosen": 0.45, "grown": 0.45, "start": 0.47, "zero": 1.2, "har": 0.5, "gru": 0.44}
TEST = "p: Diebold-Mariano test of these two models; it says nothing about other seeds."
P = {"start": 0.01, "har": 0.001, "gru": 0.4}


def test_the_first_sentence_is_the_gain_over_the_best_simple_model_and_whether_it_is_more_than_chance():
    words = verdicts.of_run(run_of(FIGURES, P, chosen="grown"))
    assert words == (
        "The chosen model, grown, has a test error of 0.4500, 4.3 % lower than start, the best simple model (0.4700), "
        "which is more than chance (p = 0.010). It is 2.3 % higher than gru, the best of all baselines (0.4400), which "
        f"may be chance (p = 0.400). {TEST}"
    )


def test_the_start_is_a_baseline():
    """Once grown was called lower than the best baseline where the start in the same table was lower still."""
    words = verdicts.of_run(run_of({"grown": 0.48, "start": 0.47, "var": 0.5}))
    assert words == (
        "grown has a test error of 0.4800, 2.1 % higher than start, the best simple model (0.4700), which is not "
        "tested."
    )
    assert "lower" not in words


@pytest.mark.parametrize("name", ["zero", "var1", "var", "var_robust", "har"])
def test_every_fitted_model_is_a_simple_model(name):
    words = verdicts.of_run(run_of({"grown": 0.48, "start": 0.47, name: 0.4, "lstm": 0.45}))
    assert f"20.0 % higher than {name}, the best simple model (0.4000)" in words
    assert "baselines" not in words  # the best simple model is the best of all


@pytest.mark.parametrize(("p", "said"), [(LEVEL - 1e-9, "more than chance"), (LEVEL, "may be chance")])
def test_more_than_chance_is_said_only_where_the_test_says_so(p, said):
    words = verdicts.of_run(run_of({"grown": 0.4, "zero": 0.5}, {"zero": p}))
    assert f"which {'is' if 'more' in said else ''} {said}".replace("  ", " ") in words
    assert "not tested." not in words
    assert "which is not tested" in verdicts.of_run(run_of({"grown": 0.4, "zero": 0.5}))


@pytest.mark.parametrize(
    ("update", "said"),
    [
        ({"how": "state"}, "Update (state): the model reads the new data with the weights of the run before."),
        (
            {"how": "grow", "accepted": False, "judge": {"rule": "significant", "figure": 0.5917, "threshold": 1.645}},
            "Update (grow): rejected, so the old weights stay (t = 0.592 on the validation part, needed: above 1.645).",
        ),
        (
            {"how": "continue", "accepted": True, "judge": {"rule": "better", "figure": 0.01, "threshold": 0.0}},
            "Update (continue): accepted (gain in mean loss: 0.01 on the validation part, needed: above 0).",
        ),
        (
            {
                "how": "continue",
                "accepted": False,
                "judge": {"rule": "training loss", "figure": -0.02, "threshold": 0.0},
            },
            "Update (continue): rejected, so the old weights stay (gain in mean training loss: -0.02, needed: above "
            "0).",
        ),
    ],
    ids=["state", "rejected", "accepted", "guarded"],
)
def test_an_update_says_what_its_criterion_found_and_explains_no_p_that_it_does_not_give(update, said):
    figures = {"chosen": 0.45, "not_updated": 0.45}
    words = verdicts.of_run(run_of(figures, {"not_updated": 1.0}, chosen="not_updated", update=update))
    assert words == f"{said} The chosen model, not_updated, has a test error of 0.4500."


def test_a_start_that_is_kept_is_compared_with_the_other_models():
    words = verdicts.of_run(run_of({**FIGURES, "start": 0.45}, P, chosen="start", stopped="nothing found"))
    assert words.startswith("The chosen model, start, has a test error of 0.4500, 10.0 % lower than har, ")
    assert "more than chance (p = 0.001). The search added nothing: the start is kept. It is 2.3 % higher" in words
    assert words.endswith(f"(p = 0.400). {TEST}")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"stage": 1, "accepted": True}, {"stage": 2, "accepted": False}], True),
        ([{"stage": 1, "accepted": True}, {"stage": 2, "accepted": True}], False),
        ([], False),
    ],
)
def test_growth_that_added_nothing_is_said_to(lines, said):
    words = verdicts.of_run(run_of(FIGURES, P, stage_log=lines, stopped="max_nodes = 3 reached"))
    assert ("Growth added nothing: no change after the first stage was accepted." in words) == said
    assert words.endswith(f"The search stopped: max_nodes = 3 reached. {TEST}")


def test_a_search_without_a_fitted_model_is_compared_with_the_best_baseline():
    tree = run_of({"chosen": 45.8, "start": 1958.2, "gru": 41.96}) | {"metric": "perplexity"}
    assert "test perplexity of 45.80, 9.2 % higher than gru, the best baseline (41.96)" in verdicts.of_run(tree)


def test_a_baseline_alone_has_its_figure():
    assert verdicts.of_run(run_of({"gru": 0.44})) == "gru has a test error of 0.4400."
    assert verdicts.of_run(run_of({})) == ""


def test_what_another_strategy_found_is_no_part_of_ones_own():
    figures = {"chosen": 0.5, "random": 0.4, "random_retrained": 0.45, "zero": 1.0}
    assert "random, the best of all baselines" in verdicts.of_run(run_of(figures))
    assert "random" not in verdicts.of_run(run_of(figures) | {"strategy": "random"})


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (1.0, 1.0, "the same as"),
        (1.0, 1.0001, "less than 0.1 % lower than"),
        (0.9, 1.0, "10.0 % lower than"),
        (1.5, 1.0, "50.0 % higher than"),
        (-1.5, -1.0, "0.5 lower than"),
        (0.0, 0.5, "0.5 lower than"),
    ],
)
def test_a_gap_is_told_in_per_cent_where_that_means_something(ours, theirs, said):
    assert f", {said} zero," in verdicts.of_run(run_of({"grown": ours, "zero": theirs}))


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (-35.5, -34.0, "1.50 dB lower than"),
        (46.6, 38.1, "8.50 dB higher than"),  # decibels have no per cent
        (-35.5, -35.4999, "less than 0.01 dB lower than"),
    ],
)
def test_a_gap_of_decibels_is_told_in_decibels(ours, theirs, said):
    summary = run_of({"grown": ours, "zero": theirs}) | {"metric": "nmse_db"}
    assert f"has a test NMSE in dB of {ours:.2f}, {said} zero, the best simple model ({theirs:.2f})" in (
        verdicts.of_run(summary).replace("\N{MINUS SIGN}", "-")
    )


def test_a_tasks_caution_ends_the_verdict():
    assert verdicts.of_run(run_of({"grown": 1.0, "zero": 2.0}) | {"caution": "Beware."}).endswith(" Beware.")


def test_nothing_is_said_of_chance_where_figures_are_equal():
    assert "chance" not in verdicts.of_run(run_of({"grown": 1.0, "zero": 1.0}))


# Comparisons


def comparison_of(means, findings, *, seeds=3, members=(), untested=(), equal=(), **more):
    tests = [{"baseline": name, "finding": found, "equal": name in equal} for name, found in findings.items()]
    return {
        "metric": "mse",
        "seeds": list(range(seeds)),
        "strategies": ["growing"],
        "models": [{"model": name, "test": {"mean": mean}} for name, mean in means.items()],
        "reference": "chosen" if "chosen" in means else "grown",
        "kept_starts": 0,
        "steps": {"count": 1200, "unit": "days"},
        "tests": tests,
        "mcs": {
            "size": 0.1,
            "members": list(members),
            "p_values": dict.fromkeys(means, 0.5),
            "untested": list(untested),
        },
        **more,
    }


MEANS = {"grown": 0.45, "start": 0.47, "zero": 1.2, "gru": 0.44}
FOUND = {"start": "better", "zero": "better", "gru": "not told apart"}


def test_a_comparison_begins_with_the_gain_and_ends_with_the_set():
    words = verdicts.of_comparison(comparison_of(MEANS, FOUND, members=["grown", "gru"]))
    assert words == (
        "Over 3 seeds grown has a mean test error of 0.4500, 4.3 % lower than start, the best simple model (0.4700), "
        "which is more than chance. It is 2.3 % higher than gru, the best of all baselines (0.4400), which may be "
        "chance. By the tests over 1,200 days and 3 seeds at the 5% level, grown is better than start and zero; not "
        "told apart from gru. Lowest mean test error over 3 seeds: gru (0.4400). grown is in the 10% model confidence "
        "set, which holds no simple model."
    )


def test_a_simple_model_that_wins_is_said_to():
    means, found = {**MEANS, "var": 0.4}, {**FOUND, "var": "worse"}
    words = verdicts.of_comparison(comparison_of(means, found, members=["var", "start"]))
    assert "12.5 % higher than var, the best simple model (0.4000), which is more than chance." in words
    assert "worse than var." in words
    assert "Lowest mean test error over 3 seeds: var (0.4000)." in words
    assert "grown is not in the 10% model confidence set; of the simple models it holds start and var." in words


@pytest.mark.parametrize("finding", ["not told apart", "untested", "same"])
def test_no_comparison_is_more_than_chance_where_the_tests_do_not_say_so(finding):
    words = verdicts.of_comparison(comparison_of({"grown": 0.1, "zero": 0.9}, {"zero": finding}))
    assert "more than chance" not in words
    assert "better" not in words


def against_random(pairs):
    return [
        {"baseline": name, "reference": reference, "p_holm": p, "loss_difference": difference}
        for name, reference, p, difference in pairs
    ]


def test_it_says_what_beats_random_search_and_what_does_not():
    again = "random_retrained"
    tests = against_random(
        [
            ("grown", "random", 0.2, -0.1), ("darts", "random", 0.049, 0.1), ("one", "random", 1.0, 0.0),
            ("grown_retrained", again, 0.01, -0.1), ("darts_retrained", again, 0.04, -0.1),
            ("one_retrained", again, 0.05, 1.0),
        ]
    )  # fmt: skip
    words = verdicts.of_comparison(comparison_of(MEANS, FOUND, tests_against_random=tests))
    assert (
        "Against random, by both tests with p corrected for 3 models (Holm): none has a lower error; darts has a "
        "higher error; the other 2 are not told apart. Against random_retrained, by both tests with p corrected for 3 "
        "models (Holm): grown_retrained and darts_retrained have a lower error; one_retrained is not told apart."
    ) in words
    alike = against_random([(name, "random", 0.9, -0.1) for name in ("grown", "darts")])
    words = verdicts.of_comparison(comparison_of(MEANS, FOUND, tests_against_random=alike))
    assert "for 2 models (Holm): none has a lower error; all 2 are not told apart." in words
    single = against_random([("grown", "random", 0.9, -0.1), ("grown_retrained", again, 0.01, -0.1)])
    words = verdicts.of_comparison(comparison_of(MEANS, FOUND, tests_against_random=single))
    assert "Against random, by both tests: grown is not told apart." in words
    assert "Against random_retrained, by both tests: grown_retrained has a lower error." in words
    untested = against_random([("grown", "random", None, -0.1)])
    assert "Against" not in verdicts.of_comparison(comparison_of(MEANS, FOUND, tests_against_random=untested))


def test_one_seed_is_not_tested():
    tree = comparison_of(
        {"grown": 0.4, "zero": 0.5}, {"zero": "untested"}, seeds=1, members=["zero"], untested=["grown"]
    )
    words = verdicts.of_comparison(tree | {"mcs": {**tree["mcs"], "p_values": {"zero": 1.0}}})
    assert "which is not tested. grown is not tested against zero: a trained model needs at least 2 seeds." in words
    assert words.endswith("The 10% model confidence set of zero holds zero.")


@pytest.mark.parametrize(
    ("kept", "said"), [(0, ""), (1, "the start is kept in 1 of 3 seeds."), (3, "the start is kept.")]
)
def test_starts_that_are_kept_are_counted(kept, said):
    words = verdicts.of_comparison(comparison_of(MEANS, FOUND) | {"kept_starts": kept})
    assert said in words
    assert ("The search added nothing" in words) == bool(kept)


def test_baselines_alone_have_a_lowest_and_a_set():
    words = verdicts.of_comparison(comparison_of({"zero": 0.9, "var1": 0.8}, {}, members=["var1"]))
    assert words == "Lowest mean test error over 3 seeds: var1 (0.8000). The 10% model confidence set holds var1."


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (["grown"], "grown is in the 10% model confidence set, alone."),
        (["grown", "lstm"], "grown is in the 10% model confidence set, with lstm."),
        (["lstm"], "grown is not in the 10% model confidence set, which holds lstm."),
    ],
)
def test_a_set_without_a_fitted_model_names_its_members(members, said):
    tree = comparison_of({"grown": 60.0, "lstm": 61.0}, {"lstm": "better"}, members=members)
    words = verdicts.of_comparison(tree | {"metric": "perplexity"})
    assert words.endswith(said)
    assert "simple" not in words
    assert "error" not in words


def test_a_seed_that_forecasts_as_a_baseline_has_no_gain_over_it():
    tree = comparison_of({"grown": 0.4, "var": 0.4, "zero": 0.5}, {"var": "same", "zero": "better"}, equal=["var"])
    words = verdicts.of_comparison(tree)
    assert "20.0 % lower than zero, the best simple model" in words
    assert "the same as var" in words
