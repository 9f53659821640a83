"""Panels and overrides with which a whole search takes less than a second."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

TINY: dict[str, Any] = {
    "task.bptt": 5,
    "task.context": 20,
    "space.hidden_size": 8,
    "space.activation": ["identity", "tanh"],
    "start.rule": "single",
    "start.max_order": 1,
    "strategy.max_epochs": 2,
    "strategy.first_epochs": 2,
    "strategy.max_nodes": 1,
    "strategy.origins": 1,
    "strategy.prune": "none",
    "retrain.grown": False,
    "baselines.use": ["zero", "var1"],
}


def coupled(rows: int, *, seed: int = 0) -> np.ndarray:
    """Two series of which the second follows the first by one row, shape `(rows, 2)`."""
    noise = np.random.default_rng(seed).normal(size=(rows + 1, 2))
    return np.stack([noise[1:, 0], 0.8 * noise[:-1, 0] + 0.6 * noise[1:, 1]], axis=1)


def coupled_frame(rows: int, *, seed: int = 0, first: str = "2020-01-01") -> pd.DataFrame:
    """The same on weekdays, in the columns `leads` and `follows`."""
    return pd.DataFrame(coupled(rows, seed=seed), pd.bdate_range(first, periods=rows), ["leads", "follows"])
