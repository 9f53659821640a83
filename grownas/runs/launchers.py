"""Launchers on this machine (see `grownas.protocols.Launcher`): in this process, and in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Self

from grownas.errors import USER_ERROR, GrownasError, TrainingError
from grownas.protocols import Ended
from grownas.runs.rundir import RunDir

FAILURE, INTERRUPTED = 1, 130  # exit statuses, beside `USER_ERROR`
LOG = "log.txt"  # in a run folder: what the run printed


class InProcess:
    """Runs one run at a time in this process: no second interpreter starts. A run that hangs cannot be ended."""

    def __init__(self, resume: Callable[[Path], Any]) -> None:
        """Take the function that begins or continues the run of a folder."""
        self.resume = resume
        self.ended: list[Ended] = []

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: no run outlives `submit`."""

    def has_room(self) -> bool:
        """Return whether the last run was polled."""
        return not self.ended

    def submit(self, folder: Path) -> None:
        """Run a folder to its end.

        Raises:
            Interrupted: the user has interrupted the run.
        """
        with (folder / LOG).open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                self.resume(folder)
                status = 0
            except (GrownasError, TrainingError) as error:
                print(f"error: {error}", file=log)
                status = USER_ERROR if isinstance(error, GrownasError) else FAILURE
            except Exception:  # as an interpreter of its own would: one run's bug does not end the others
                traceback.print_exc(file=log)
                status = FAILURE
        self.ended.append(Ended(folder, status))

    def poll(self) -> list[Ended]:
        """Return the runs that have ended since the last call."""
        ended, self.ended = self.ended, []
        return ended

    def stop(self) -> None:
        """Do nothing: a run handles the signals itself and raises `Interrupted`."""


class Processes:
    """Runs each run in a process of its own, several at a time."""

    def __init__(self, workers: int | None, *, threads: int, timeout_s: float) -> None:
        """Set the limits.

        Args:
            workers: number of processes at a time; None: one per core.
            threads: threads of each process.
            timeout_s: a run whose folder shows no sign of life for so long is killed.
        """
        self.workers, self.threads, self.timeout_s = workers or cores(), threads, timeout_s
        self.running: dict[Path, tuple[subprocess.Popen[bytes], Watch]] = {}

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the runs that still run."""
        for process, _ in self.running.values():
            process.kill()

    def has_room(self) -> bool:
        """Return whether fewer processes run than there are workers."""
        return len(self.running) < self.workers

    def submit(self, folder: Path) -> None:
        """Start the process of a run."""
        self.running[folder] = start(folder, self.threads), Watch(folder, self.timeout_s)

    def poll(self) -> list[Ended]:
        """Return the runs that have ended since the last call."""
        ended = []
        for folder, (process, watch) in list(self.running.items()):
            status = process.poll()
            if status is None and watch.is_silent():
                process.kill()
                ended.append(Ended(folder, process.wait(), watch.words))
            elif status is not None:
                ended.append(Ended(folder, status))
        for one in ended:
            del self.running[one.folder]
        return ended

    def stop(self) -> None:
        """Interrupt all runs."""
        for folder, (process, _) in self.running.items():
            interrupt(process, folder)


class Watch:
    """Watches a run folder for signs of life: every file that a run writes there is one."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        """Begin to watch; `timeout_s` is the longest silence of a run that lives."""
        self.folder, self.timeout_s = folder, timeout_s
        self.words = f"killed: no sign of life in its folder for worker_timeout={timeout_s:g} s"
        self.newest, self.since = newest_change(folder), time.monotonic()
        self.looked = self.since

    def is_silent(self) -> bool:
        """Return whether no file has changed for too long. Only this machine's clock counts, not that of a file."""
        now = time.monotonic()
        if now - self.looked > min(self.timeout_s / 10, 10.0):  # a look at a shared folder is not free
            self.looked, newest = now, newest_change(self.folder)
            if newest != self.newest:
                self.newest, self.since = newest, now
        return now - self.since > self.timeout_s


def newest_change(folder: Path) -> float:
    """Return the time of the newest change of a file of a run, in seconds since 1970; 0 if there are no files.

    Hidden files do not count: whoever looks at a lock may change its file.
    """
    times = [0.0]
    for place in (folder, folder / "checkpoint"):
        try:
            times += [one.stat().st_mtime for one in os.scandir(place) if not one.name.startswith(".")]
        except FileNotFoundError:  # no checkpoint yet; or a file was replaced, which the next look sees
            continue
    return max(times)


def start(folder: Path, threads: int, *, command: str = "grownas", **options: Any) -> subprocess.Popen[bytes]:
    """Start a process that begins or continues the run of a folder; its output goes to `log.txt`.

    Args:
        folder: the run folder.
        threads: threads of NumPy's BLAS, which would take all cores in every process.
        command: the module to run, which has the arguments of `grownas`.
        options: further options of `subprocess.Popen`; by default standard input is empty.
    """
    with (folder / LOG).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", command, "resume", str(folder)],
            **{"stdin": subprocess.DEVNULL, **options},
            stdout=log,
            stderr=log,
            env=limited(threads),
            start_new_session=True,  # the terminal sends Ctrl-C only to this process, which forwards it once
        )


def interrupt(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Send SIGINT to a run that has locked its folder; kill one that has not, for it has nothing to save.

    While a process imports packages, a SIGINT may be lost: some of them catch every exception. The run would go on.
    """
    if RunDir(folder).is_locked():
        process.send_signal(signal.SIGINT)
    else:
        process.kill()


def limited(threads: int) -> dict[str, str]:
    """Return the environment of a process whose NumPy and PyTorch start so many threads."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**os.environ, **limits}


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
