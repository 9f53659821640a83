"""How often the printed tests tell apart what is equal: one LSTM, its seeds split at random into two groups.

`statistics.MEASURED_SIZE` holds what this found; `pytest tests/runs/test_measured_size.py -m slow -s` measures
it again, in about ten minutes on one core.
"""

from __future__ import annotations

import numpy as np
import pytest

from grownas.baselines.recurrent import recurrent_core
from grownas.config import loading as configs
from grownas.evaluation.statistics import MEASURED_SIZE, diebold_mariano, model_confidence_set, two_way_t, welch_t
from grownas.experiments.experiment import generator_for, retrain_recipe
from grownas.training.loop import fit

SEEDS, SPLITS, SETS = 60, 4000, 500  # trained; splits tested; splits of which the confidence set is made, which is slow
UNITS = 16
NOISE = 0.02  # of a share, above and below those of the table: other machines round otherwise


def losses_of_an_lstm(panel):
    """Train the LSTM baseline with one fixed setting, a seed after the other; return losses by seed and test day."""
    config = configs.load("index_returns/growing", [f"task.data={panel}"])
    task = configs.task_class(config.task.use).load(config.task).with_loss("squared")
    actual, losses = task.values[task.rows("test")], []
    for seed in range(1, SEEDS + 1):
        generator = generator_for(seed, f"lstm-{UNITS}")
        core = recurrent_core("lstm", task.input_size, UNITS, generator=generator)
        trained = fit(task.model(core, generator=generator), task, retrain_recipe(config), seed=seed)
        losses.append(((task.evaluate(trained.model, "test").forecasts - actual) ** 2).mean(axis=1))
    return np.stack(losses)


def shares_that_reject(losses, group):
    """Return how often each test rejects that two disjoint random groups of seeds are equally good."""
    rng, found, sets = np.random.default_rng([0, group]), [], []
    for number in range(SPLITS):
        order = rng.permutation(len(losses))
        a, b = losses[order[:group]], losses[order[group : 2 * group]]
        p_values = (
            diebold_mariano(a.mean(axis=0), b.mean(axis=0)).p_value,
            two_way_t(a, b).p_value,
            welch_t(a.mean(axis=1), b.mean(axis=1)).p_value,
        )
        found.append([*(p < 0.05 for p in p_values), max(p_values[1:]) < 0.05])
        if number < SETS:
            sets.append(len(model_confidence_set({"a": a, "b": b}, size=0.1).members) < 2)
    names = ("diebold_mariano", "days_and_seeds", "over_seeds", "finding")
    return {**dict(zip(names, np.mean(found, axis=0), strict=True)), "mcs": np.mean(sets)}


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("panel", ["bundled", "nonlinear", "planted"])
def test_equal_models_are_told_apart_as_rarely_as_the_table_says(panel):
    losses, sizes = losses_of_an_lstm(panel), {one.test: one for one in MEASURED_SIZE}
    for group in (3, 5, 10):
        shares = shares_that_reject(losses, group)
        print(panel, group, {name: f"{share:.1%}" for name, share in shares.items()}, flush=True)
        for name, share in shares.items():
            assert sizes[name].lowest - NOISE < share < sizes[name].highest + NOISE, (name, group)
