"""Says how far a run is: a live line on a terminal or in a notebook, plain lines elsewhere, nothing if quiet.

A notebook shows a live line where `ipywidgets` is installed, as rich needs it, and plain lines otherwise. Several runs
at a time, one in each thread, have a line each in one display: two displays on one terminal would overwrite each other.
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

PLAIN_EVERY_S = 10.0  # between plain lines; short fits, such as a baseline's trials, share one


_displays: dict[int, tuple[RichProgress, int]] = {}  # by the stream's id: the display, and how many use it
_lock = threading.Lock()


class Progress:
    """Shows what a run is doing; use it in a `with`, in any thread, also while another is in use.

    Long work calls `say` once as it begins, or `show` again and again as it goes on; training calls `update`.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        """Choose the form.

        Args:
            quiet: show nothing.
            stream: where to; standard error by default, so that standard output holds results alone.
        """
        found = sys.stderr if stream is None else stream
        self.stream: TextIO = getattr(found, "rich_proxied_file", found)  # a display in use stands in for the stream
        self.quiet = quiet
        self.live = not quiet and (self.stream.isatty() or (stream is None and _is_live_notebook()))
        self.bar: RichProgress | None = None
        self.line: TaskID | None = None
        self.shown = float("-inf")  # when the last plain line was printed

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
        """Take the live line away."""
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
            part: the fit's name.
            stage: of growth; 0 for a fit that is no stage.
            nodes: of the cell; None for a model without nodes.
            epoch: done.
            epochs: at most.
            best: lowest validation metric so far.
            speed: of training, in words; empty if not to be shown.
            left_s: seconds that this fit takes at most from here; None if not known yet.
        """
        words = describe(nodes=nodes, epoch=epoch, best=best, left_s=left_s, speed=speed)
        self.show(f"stage {stage}" if stage and self.bar is not None else part, words, done=epoch, total=epochs)

    def show(self, title: str, words: str = "", *, done: float = 0, total: float | None = None) -> None:
        """Show how far some work is: at once on a live line, else at most every `PLAIN_EVERY_S` seconds.

        Args:
            title: what is being done.
            words: how far it is.
            done: of `total`, such as folds or epochs.
            total: all that is to be done; None if not known.
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
        """Print a line of its own."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)


def _display(stream: TextIO) -> RichProgress:
    """Return a display of live lines that go away at the end."""
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
    """Say whether this is a notebook in which rich can show a live line."""
    if "IPython" not in sys.modules or find_spec("ipywidgets") is None:
        return False
    from rich.console import Console

    return Console().is_jupyter


def describe(**values: Any) -> str:
    """Return an epoch in words."""
    nodes, left_s = values["nodes"], values["left_s"]
    words = [f"{nodes} node{'s' * (nodes > 1)}"] if nodes else []
    words += [f"epoch {values['epoch']}", f"best validation {values['best']:.5f}"]
    words += [values["speed"]] if values.get("speed") else []
    return ", ".join(words + ([] if left_s is None else [f"at most {left_s:.0f} s left"]))
