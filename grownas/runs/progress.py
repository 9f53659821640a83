"""Shows the progress of a run: a live line on a terminal or in a notebook, plain lines elsewhere, nothing if quiet.

A notebook shows a live line if `ipywidgets` is installed, which rich needs, and plain lines otherwise. Parallel runs in
several threads share one display, with one line each: two displays on one terminal would overwrite each other.
"""

from __future__ import annotations

import sys
import threading
import time
from importlib.util import find_spec
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_EVERY_S = 10.0  # least seconds between plain lines; several short fits may share a line


_displays: dict[int, tuple[RichProgress, int]] = {}  # id of the stream -> its display and the number of its users
_lock = threading.Lock()


class Progress:
    """Shows what a run is doing. Use it as a context manager, in any thread; several may be open at a time.

    Long work calls `say` once when it begins, or `show` repeatedly; training calls `update`.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        """Choose between a live line, plain lines and no output.

        Args:
            quiet: show nothing.
            stream: the output; standard error by default, so that standard output holds only results.
        """
        found = sys.stderr if stream is None else stream
        self.stream: TextIO = getattr(found, "rich_proxied_file", found)  # an open display replaces sys.stderr
        self.quiet = quiet
        self.live = not quiet and (self.stream.isatty() or (stream is None and _is_live_notebook()))
        self.bar: RichProgress | None = None
        self.line: TaskID | None = None
        self.shown = float("-inf")  # time of the last plain line

    def __enter__(self) -> Progress:
        """Start the live line."""
        if self.live:
            with _lock:
                bar, users = _displays.get(id(self.stream), (None, 0))
                if bar is None:
                    bar = _display(self.stream)
                    bar.start()
                _displays[id(self.stream)] = bar, users + 1
            self.bar, self.line = bar, bar.add_task("starting", total=1, words="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the live line."""
        if self.bar is None or self.line is None:
            return
        with _lock:
            _, users = _displays.pop(id(self.stream))
            if users > 1:
                _displays[id(self.stream)] = self.bar, users - 1
                self.bar.remove_task(self.line)
            else:
                self.bar.stop()

    def update(
        self,
        *,
        part: str,
        stage: int,
        nodes: int | None,
        epoch: int,
        epochs: int,
        best: float,
        left_s: float | None,
        speed: str = "",
    ) -> None:
        """Show an epoch of a fit.

        Args:
            part: name of the fit.
            stage: number of the growth stage; 0 if the fit is not a stage.
            nodes: number of nodes in the cell; None for a model without nodes.
            epoch: number of finished epochs.
            epochs: most epochs of the fit.
            best: lowest validation metric so far.
            speed: training speed as text; empty to show none.
            left_s: upper limit of the remaining seconds; None if not known yet.
        """
        words = describe(nodes=nodes, epoch=epoch, best=best, left_s=left_s, speed=speed)
        self.show(f"stage {stage}" if stage and self.bar is not None else part, words, done=epoch, total=epochs)

    def show(self, title: str, words: str = "", *, done: float = 0, total: float | None = None) -> None:
        """Show the progress of some work: a live line at once, a plain line at most every `PLAIN_EVERY_S` seconds.

        Args:
            title: name of the work.
            words: its progress as text.
            done: number of finished units, such as folds or epochs.
            total: number of all units; None if not known.
        """
        if self.quiet:
            return
        if self.bar is not None and self.line is not None:
            self.bar.update(self.line, description=title, total=total or 1, completed=done, words=words)
            return
        now = time.monotonic()
        if now - self.shown >= PLAIN_EVERY_S:
            self.shown = now
            self.say(f"{title}: {words}" if words else title)

    def say(self, text: str) -> None:
        """Print a permanent line."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)


def _display(stream: TextIO) -> RichProgress:
    """Return a display of live lines, which are erased at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[words]}", markup=False),
        console=Console(file=stream),
        transient=True,
    )


def _is_live_notebook() -> bool:
    """Return whether this is a notebook in which rich can show a live line."""
    if "IPython" not in sys.modules or find_spec("ipywidgets") is None:
        return False
    from rich.console import Console

    return Console().is_jupyter


def describe(**values: Any) -> str:
    """Return the progress of a fit as text."""
    nodes, left_s = values["nodes"], values["left_s"]
    words = [f"{nodes} node{'s' * (nodes > 1)}"] if nodes else []
    words += [f"epoch {values['epoch']}", f"best validation {values['best']:.5f}"]
    words += [values["speed"]] if values.get("speed") else []
    return ", ".join(words + ([] if left_s is None else [f"at most {left_s:.0f} s left"]))
