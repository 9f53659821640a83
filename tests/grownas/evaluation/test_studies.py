"""A study of optimisers over its seeds, worked out by a few lines of numpy and scipy."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from grownas.errors import RunError
from grownas.evaluation.studies import compare, early_units
from grownas.report import study as report

PAIRS = list(itertools.product(("sgd", "adam"), ("sgd", "adam")))
MOMENTA = (0.0, 0.9)
SEEDS, UNITS = (1, 2, 3), 4
WAYS = [(*pair, momentum) for pair in PAIRS for momentum in MOMENTA]


@pytest.fixture
def figures():
    """Figures of each measure, shape (combinations, seeds, units)."""
    rng = np.random.default_rng(3)
    return {name: rng.uniform(0.5, 1.0, (len(WAYS), len(SEEDS), UNITS)) for name in ("supernet", "cell", "anew")}


@pytest.fixture
def parts(tmp_path, figures):
    def write(changes=None):
        folders = []
        for backbone, (number, seed) in itertools.product(("chain", "dag"), enumerate(SEEDS)):
            curves = []
            for place, (weights, alpha, momentum) in enumerate(WAYS):
                units = [
                    {"epoch": 5 * (unit + 1), "eigenvalue": 0.1 * unit + 0.01 * number}
                    | {name: float(each[place, number, unit]) for name, each in figures.items()}
                    for unit in range(UNITS)
                ]
                way = {"weights": weights, "alpha": alpha, "momentum": momentum}
                curves.append({**way, "rate": 0.1 * seed, "diverged": [], "units": units})
            part = {"metric": "mse", "strategy": "darts", "backbone": backbone, "seed": seed, "curves": curves}
            if changes is not None:
                changes(part)
            folder = tmp_path / f"{backbone}-darts-seed-{seed}"
            folder.mkdir(exist_ok=True)
            (folder / "summary.json").write_text(json.dumps(part))
            folders.append(folder)
        return folders

    return write


def early(each):
    """Return each seed's figure at the epoch that is best for the mean of the others."""
    return [each[s, np.delete(each, s, axis=0).mean(axis=0).argmin()] for s in range(len(each))]


def test_the_figures_of_a_row_are_the_lowest_the_last_and_the_early_one(parts, figures):
    result = compare(parts())
    assert (result["metric"], result["seeds"], len(result["rows"])) == ("mse", [1, 2, 3], 2 * len(WAYS))
    for place, (way, row) in enumerate(zip(WAYS, result["rows"][: len(WAYS)], strict=True)):
        assert (row["backbone"], row["strategy"], row["weights"], row["alpha"], row["momentum"]) == (
            "chain", "darts", *way,
        )  # fmt: skip
        assert row["epochs"] == [5, 10, 15, 20]
        assert row["rates"] == pytest.approx([0.1, 0.2, 0.3])
        lowest = figures["supernet"][place].min(axis=1)
        assert row["supernet"]["mean"] == pytest.approx(lowest.mean())
        assert row["supernet"]["sd"] == pytest.approx(lowest.std(ddof=1))
        assert row["eigenvalue"]["mean"] == pytest.approx(0.3 + 0.01)
        for measure in ("cell", "anew"):
            each = figures[measure][place]
            assert row[measure]["early"]["mean"] == pytest.approx(np.mean(early(each)))
            assert row[measure]["last"]["mean"] == pytest.approx(each[:, -1].mean())
            assert row[measure]["gain"]["mean"] == pytest.approx((each[:, -1] - early(each)).mean())
        assert np.array(row["curves"]["cell"]) == pytest.approx(figures["cell"][place])


def test_the_answers_are_differences_of_mean_logarithms_with_a_t_test(parts, figures):
    answers = {one["question"]: one for one in compare(parts())["answers"] if one["backbone"] == "dag"}
    ends = {
        "supernet": figures["supernet"].min(axis=2),
        "cell": figures["cell"][..., -1],
        "anew": figures["anew"][..., -1],
    }
    ends = {name: 100 * np.log(each) for name, each in ends.items()}
    of = {pair: [w for w, way in enumerate(WAYS) if way[:2] == pair] for pair in PAIRS}
    for measure, values in ends.items():
        sgd, adam = ([w for w, way in enumerate(WAYS) if way[0] == name] for name in ("sgd", "adam"))
        check(answers["sgd - adam for weights"][measure], values[sgd].mean(0) - values[adam].mean(0))
        sgd, adam = ([w for w, way in enumerate(WAYS) if way[1] == name] for name in ("sgd", "adam"))
        check(answers["sgd - adam for alpha"][measure], values[sgd].mean(0) - values[adam].mean(0))
        best = min(PAIRS[:-1], key=lambda pair: values[of[pair]].mean())
        found = answers["adam + adam - best other pair"][measure]
        check(found, values[of["adam", "adam"]].mean(0) - values[of[best]].mean(0))
        assert found["other"] == " + ".join(best)
    for measure in ("cell", "anew"):
        gains = [np.log(figures[measure][w, :, -1]) - np.log(early(figures[measure][w])) for w in range(len(WAYS))]
        check(answers["early - last cell"][measure], -100 * np.mean(gains, axis=0))
    assert "supernet" not in answers["early - last cell"]


def check(found, difference):
    assert found["mean"] == pytest.approx(difference.mean())
    assert found["sd"] == pytest.approx(difference.std(ddof=1))
    assert found["p_value"] == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)


def test_an_early_epoch_is_never_chosen_by_the_seed_itself():
    figures = np.array([[1.0, 9.0, 5.0], [4.0, 2.0, 3.0], [4.0, 2.0, 3.0]])
    assert early_units(figures) == [1, 0, 0]  # the first seed's own lowest is unit 0
    assert early_units(figures[:1]) == [0]  # but a single seed has no others
    assert early_units(np.array([[np.nan, np.nan], [1.0, 0.5]])) == [1, 1]


def test_a_cell_that_diverged_is_as_bad_as_the_worst_and_a_training_that_diverged_is_left_out(parts, figures):
    def change(part):
        if part["seed"] == 2:
            part["curves"][0]["units"][-1]["cell"] = None
            part["curves"][1] |= {"rate": None, "diverged": [0.1, 0.2], "units": []}

    result = compare(parts(change))
    first, second = result["rows"][:2]
    worst = np.delete(figures["cell"][0].ravel(), 2 * UNITS - 1).max()
    assert first["cell"]["last"]["mean"] == pytest.approx(np.mean([*figures["cell"][0][[0, 2], -1], worst]))
    assert first["curves"]["cell"][1][-1] is None
    assert (second["supernet"]["n"], second["diverged"]) == (2, 2)
    assert second["supernet"]["mean"] == pytest.approx(figures["supernet"][1][[0, 2]].min(axis=1).mean())
    assert "–" in report.text(result)


def test_a_part_that_is_not_finished_or_damaged_is_named(parts):
    folders = parts()
    (folders[1] / "summary.json").write_text("{")
    with pytest.raises(RunError, match=f"{folders[1].name}: damaged"):
        compare(folders)
    (folders[1] / "summary.json").write_text('{"metric": "mse"}')
    with pytest.raises(RunError, match="backbone, curves, seed, strategy missing"):
        compare(folders)
    parts(lambda part: part["curves"][2]["units"][0].update(anew=0.0))
    with pytest.raises(RunError, match="a mse is not above 0, so it has no logarithm"):
        compare(folders)
    parts(lambda part: part["seed"] == 3 and part["curves"][2]["units"].pop())
    with pytest.raises(RunError, match=r"chain darts sgd adam 0\.0: trainings of different epochs"):
        compare(folders)
    parts()
    (folders[1] / "summary.json").unlink()
    with pytest.raises(RunError, match=f"{folders[1].name}: not a finished part of a study"):
        compare(folders)


def test_the_tables_and_the_figure_show_every_combination(parts):
    result = compare(parts())
    text = report.text(result)
    for backbone in ("chain", "dag"):
        assert sum(line.startswith(backbone) for line in text.splitlines()) == len(WAYS) + 4
        drawing = report.draw(result, backbone, 7.6)
        for word in ("darts", "sgd + adam", "adam + adam", "eigenvalue", "epoch"):
            assert word in drawing
    assert report.draw(result, "other", 7.6) is None


def test_what_diverged_for_every_momentum_leaves_a_gap_in_the_figure(parts):
    def change(part):
        for curve in part["curves"][:2]:
            curve["units"][1] |= {"cell": None, "eigenvalue": -1.0}

    drawing = report.draw(compare(parts(change)), "chain", 7.6)
    assert "nan" not in drawing
    assert "sgd + sgd" in drawing
