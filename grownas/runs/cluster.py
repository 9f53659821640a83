"""A launcher that runs whole runs on the workers of a dask cluster (see `grownas.protocols.Launcher`).

The state of a run is in its folder, which all machines must share; dask only says which worker takes which folder. A
worker starts a process for the run and watches it, so that the worker always answers its scheduler. The process ends
with its worker, however that ends. Client and worker exchange strings and numbers only; dask itself pickles what it
sends, so whoever can reach the scheduler can run code on workers and client: use TLS, or a network that you trust.

For TLS, give an address that begins with `tls://`, and tell dask the certificates on every machine, in
`~/.config/dask/distributed.yaml`:

    distributed:
      comm:
        require-encryption: true
        tls:
          ca-file: ca.pem
          scheduler: {cert: cert.pem, key: key.pem}
          worker: {cert: cert.pem, key: key.pem}
          client: {cert: cert.pem, key: key.pem}

or in environment variables such as `DASK_DISTRIBUTED__COMM__TLS__CA_FILE`. Then `dask scheduler --protocol tls` prints
the address, and `dask worker tls://scheduler:8786` joins it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from grownas import __version__
from grownas.errors import USER_ERROR, ConfigError, RunError
from grownas.protocols import Ended
from grownas.runs.launchers import FAILURE, INTERRUPTED, Watch, interrupt, start
from grownas.runs.rundir import RunDir

STOP = ".stop"  # a file in a run folder: the worker that runs it interrupts its process
LOOK_EVERY_S = 0.2


def connect(address: str, say: Callable[[str], None]) -> Any:
    """Return a client of a scheduler; show the number of workers and the link of the dashboard.

    Raises:
        ConfigError: dask.distributed is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise ConfigError(
            f"cluster={address} needs dask.distributed; install it with `pip install 'grownas[distributed]'`"
        ) from error
    try:
        make: Any = Client  # untyped
        client = make(address, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # the last two: an unknown protocol, TLS without its options
        raise ConfigError(
            f"cluster={address}: cannot connect: {error}; give the address that the scheduler prints when it starts, "
            "and for tls:// set dask's config distributed.comm.tls"
        ) from error
    count, link = len(client.nthreads()), client.dashboard_link
    say(f"cluster={address}: {count} workers{f'; dashboard: {link}' if link else ''}")
    return client


def sees_folder(folder: Path, config: str) -> str | None:
    """Return None if this machine sees a run folder with this config.yaml, otherwise words for the user."""
    try:
        same = (folder / "config.yaml").read_text("utf-8") == config
    except OSError:
        same = False
    host = socket.gethostname()
    return None if same else f"the worker on {host} does not see this folder: runs= must be a folder that all share"


class Dask:
    """Runs each run in a process of its own, which a worker of a dask cluster starts."""

    def __init__(
        self, address: str, workers: int | None, *, threads: int, timeout_s: float, say: Callable[[str], None]
    ) -> None:
        """Set the limits; `with` connects.

        Args:
            address: of the scheduler, such as `tcp://scheduler:8786`. Its TLS options are those of dask's own config.
            workers: number of runs at a time; None: one per thread of the cluster's workers.
            threads: threads of each process.
            timeout_s: a run whose folder shows no sign of life for so long is killed.
            say: shows a line.
        """
        self.address, self.workers, self.threads, self.timeout_s, self.say = address, workers, threads, timeout_s, say
        self.client: Any = None
        self.running: dict[Path, Any] = {}
        self.stops = 0

    def __enter__(self) -> Self:
        """Connect to the scheduler.

        Raises:
            ConfigError: dask.distributed is not installed, or no scheduler answers.
        """
        self.client = connect(self.address, self.say)
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the runs that still run and disconnect."""
        for folder in self.running:
            (folder / STOP).touch()
        self.client.close()

    def has_room(self) -> bool:
        """Return whether fewer runs run than there are workers."""
        most = self.workers or sum(self.client.nthreads().values()) if self._is_connected() else 0
        return len(self.running) < max(most, 1)

    def submit(self, folder: Path) -> None:
        """Hand a run folder to the cluster."""
        (folder / STOP).unlink(missing_ok=True)
        self.running[folder] = self.client.submit(
            run_folder,
            __version__,
            str(folder.absolute()),
            (folder / "config.yaml").read_text("utf-8"),
            os.getcwd(),
            self.threads,
            self.timeout_s,
            key=f"{folder.name}-{uuid.uuid4().hex}",  # never a result that dask remembers
            pure=False,
        )

    def poll(self) -> list[Ended]:
        """Return the runs that have ended since the last call.

        Raises:
            RunError: the scheduler is gone.
        """
        if not self._is_connected():
            raise RunError(
                f"cluster={self.address}: the connection to the scheduler is lost. The folders of the runs hold their "
                "state: when the scheduler is back, `grownas resume` on the comparison's folder goes on"
            )
        ended = [
            Ended(folder, *self._outcome(future))
            for folder, future in self.running.items()
            if future.status != "pending"
        ]
        for one in ended:
            del self.running[one.folder]
        return ended

    def stop(self) -> None:
        """Ask all runs to save their state and end, and withdraw those that no worker has begun; then give up waiting.

        The second call withdraws all: a run ends as soon as its worker sees that it was asked to.
        """
        self.stops += 1
        for folder in self.running:
            (folder / STOP).touch()
        waits = self.stops == 1 and self._is_connected()
        begun = {key for keys in self.client.processing().values() for key in keys} if waits else set()
        for future in self.running.values():
            if future.key not in begun:
                future.cancel()

    def _is_connected(self) -> bool:
        return bool(self.client.status == "running")

    def _outcome(self, future: Any) -> tuple[int, str]:
        """Return the exit status of a run, and words."""
        if future.status == "finished":
            status, words = future.result()
            return int(status), str(words)
        if future.status == "error":  # a worker that died too often, or one that cannot import this module
            error = future.exception()
            return FAILURE, f"dask: {type(error).__name__}: {error}"
        return (INTERRUPTED, "stopped") if self.stops else (FAILURE, f"dask: the run's task is {future.status}")


def run_folder(version: str, folder: str, config: str, place: str, threads: int, timeout_s: float) -> tuple[int, str]:
    """Begin or continue the run of a folder; a worker calls this.

    Args:
        version: the client's version of grownas.
        folder: absolute path of the run folder.
        config: content of the folder's config.yaml, as the client reads it.
        place: the client's working directory, from which relative paths in the config count.
        threads: threads of the process.
        timeout_s: a run whose folder shows no sign of life for so long is killed.

    Returns:
        The exit status of `grownas resume`, and words about the end.
    """
    path, host = Path(folder), socket.gethostname()
    if version != __version__:
        return USER_ERROR, f"the worker on {host} has grownas {__version__}, the client {version}: install the same"
    if (words := sees_folder(path, config)) is not None:
        return USER_ERROR, words
    watch = Watch(path, timeout_s)
    while RunDir(path).is_locked():  # by the run that a lost worker began
        if (path / STOP).exists():
            return INTERRUPTED, "stopped"
        if watch.is_silent():
            return FAILURE, f"another process holds this folder and is silent for worker_timeout={timeout_s:g} s"
        time.sleep(LOOK_EVERY_S)
    if (path / "summary.json").exists():
        return 0, ""
    with start(
        path,
        threads,
        command="grownas.runs.attended",
        stdin=subprocess.PIPE,  # closed when this worker ends, which ends the process
        cwd=place if os.path.isdir(place) else None,
    ) as process:
        try:
            status, words = _attend(process, path, watch)
        finally:
            process.kill()  # nothing if it has ended
    return status, words or f"on {host}"


def _attend(process: subprocess.Popen[bytes], folder: Path, watch: Watch) -> tuple[int, str]:
    """Wait for the process of a run; stop it if it is asked to stop, and kill it if it hangs."""
    asked = False
    while (status := process.poll()) is None:
        if not asked and (folder / STOP).exists():
            interrupt(process, folder)
            asked = True
        if watch.is_silent():
            process.kill()
            return process.wait(), watch.words
        time.sleep(LOOK_EVERY_S)
    return status, ""
