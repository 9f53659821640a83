"""What must hold of this machine's times however noisy it is. `make bench` runs it and shows the table."""

from __future__ import annotations

import pytest

from grownas import bench


@pytest.mark.slow
def test_the_engine_is_faster_than_plain_autograd_on_the_supernet(monkeypatch):
    """Measured on a busy machine: 0.1 to 0.5 of its time."""
    measured = {}

    def measure(setting, *, repeats):
        measured[setting] = timed(setting, repeats=repeats)
        return measured[setting]

    timed = bench.measure
    monkeypatch.setattr(bench, "measure", measure)
    print()
    for line in bench.run(quick=True):
        print(line, flush=True)
    supernets = [setting for setting in measured if setting.ops == bench.SUPERNET]
    assert len(supernets) == 2
    assert all(measured[setting]["torch"] < measured[setting]["reference"] for setting in supernets)
    assert all(ms > 0 for times in measured.values() for ms in times.values())
