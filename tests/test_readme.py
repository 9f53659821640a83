"""The README's example of the forecaster runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

README = Path(__file__).parent.parent / "README.md"


def test_five_lines_lead_from_a_data_frame_to_forecasts_with_intervals(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(import grownas, pandas\n.*?)```", README.read_text("utf-8"), flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 5
    steps = 0.01 * np.random.default_rng(1).standard_normal((400, 2))
    closes = pd.DataFrame(100 * np.exp(steps.cumsum(0)), pd.bdate_range("2020-01-01", periods=400), ["a", "b"])
    closes.iloc[::50, 0] = np.nan  # a market was shut
    closes.rename_axis("date").to_csv(tmp_path / "closes.csv")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    printed = capsys.readouterr().out
    assert all(date in printed for date in ("2021-07-14", "2021-07-15", "2021-07-20"))  # 1, 2 and 5 business days on
    assert "lower" in printed
    assert "upper" in printed
    assert [one.name for one in tmp_path.iterdir()] == ["closes.csv"]  # nothing is written
