"""Many runs at once: started, waited for and stopped; each run is a stand-in that ends at once."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading

import pytest

from grownas.config import loading as configs
from grownas.errors import RunError
from grownas.runs import launchers, sweep
from grownas.runs.progress import Progress
from grownas.runs.rundir import RunDir


@pytest.fixture
def comparison(tmp_path, monkeypatch):
    """Return a function that runs a comparison over two seeds whose runs only write `summary.json`."""
    place = "cluster=tcp://scheduler:8786"
    overrides = [f"runs={tmp_path}", "seeds=[1,2]", "workers=2", "strategies=[growing]", place]
    config = configs.load("index_returns/growing", overrides)
    rundir = RunDir.create(tmp_path, "compared", "compare")
    rundir.write_text("config.yaml", config.dump({}))

    def begin(folder, threads):
        code = "import sys; open(sys.argv[1], 'w').write('{}')"
        return subprocess.Popen([sys.executable, "-c", code, str(folder / "summary.json")])

    monkeypatch.setattr(launchers, "start", begin)
    return lambda: sweep.run_all(
        config, rundir, Progress(stream=io.StringIO()), launchers.Processes(2, threads=1, timeout_s=60)
    )


def test_every_run_is_started_and_waited_for(comparison):
    folders = comparison()
    assert [folder.name for folder in folders] == ["seed-1", "seed-2"]
    assert all((folder / "summary.json").read_text() == "{}" for folder in folders)


def test_the_trials_of_a_run_are_trained_where_the_run_is(comparison):
    assert [configs.load(folder / "config.yaml").cluster for folder in comparison()] == ["processes"] * 2


def test_a_comparison_works_in_a_thread_and_leaves_the_signals_alone(comparison):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    found = []
    thread = threading.Thread(target=lambda: found.extend(comparison()))
    thread.start()
    thread.join()
    assert [folder.name for folder in found] == ["seed-1", "seed-2"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.timeout(60)
def test_a_run_whose_folder_cannot_be_written_to_is_told_before_any_starts(comparison, tmp_path):
    folder = tmp_path / "compared" / "seed-2"
    comparison()
    for seed in (1, 2):
        (tmp_path / "compared" / f"seed-{seed}" / "summary.json").unlink()
    (folder / ".lock").unlink(missing_ok=True)
    (folder / ".lock").mkdir()
    with pytest.raises(RunError, match=r"seed-2: cannot be written to \(.*; make the folder writable"):
        comparison()
    assert not (tmp_path / "compared" / "seed-1" / "summary.json").exists()
