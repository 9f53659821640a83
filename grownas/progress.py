"""Says how far a run is: one live line on a terminal, a plain line now and then elsewhere, nothing if quiet."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_EVERY_S = 10.0  # between plain lines; short fits, such as a baseline's trials, share one


class Progress:
    """Shows the present fit; use it in a `with`."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        """Choose the form.

        Args:
            quiet: show nothing.
            stream: where to; standard error by default, so that standard output holds results alone.
        """
        self.stream = sys.stderr if stream is None else stream
        self.quiet, self.live = quiet, not quiet and self.stream.isatty()
        self.bar: RichProgress | None = None
        self.shown = float("-inf")  # when the last plain line was printed

    def __enter__(self) -> Progress:
        """Start the live line."""
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            self.bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[words]}"),
                console=Console(file=self.stream),
                transient=True,
            )
            self.bar.start()
            self.line = self.bar.add_task("starting", total=1, words="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the live line away."""
        if self.bar is not None:
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
        if self.quiet:
            return
        if self.bar is not None:
            words = describe(nodes=nodes, epoch=epoch, best=best, left_s=left_s, speed=speed)
            title = f"stage {stage}" if stage else part
            self.bar.update(self.line, description=title, total=epochs, completed=epoch, words=words)
            return
        now = time.monotonic()
        if now - self.shown >= PLAIN_EVERY_S:
            self.shown = now
            self.say(f"{part}: {describe(nodes=nodes, epoch=epoch, best=best, left_s=left_s, speed=speed)}")

    def note(self, words: str) -> None:
        """Show what is being done where there are no epochs, such as `choosing the linear start: fold 3 of 10`."""
        if self.quiet:
            return
        if self.bar is not None:
            what, _, rest = words.partition(": ")
            self.bar.update(self.line, description=what, completed=0, words=rest)
            return
        now = time.monotonic()
        if now - self.shown >= PLAIN_EVERY_S:
            self.shown = now
            self.say(words)

    def say(self, text: str) -> None:
        """Print a line of its own."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self.stream, flush=True)


def describe(**values: Any) -> str:
    """Return an epoch in words."""
    nodes, left_s = values["nodes"], values["left_s"]
    words = [f"{nodes} node{'s' * (nodes > 1)}"] if nodes else []
    words += [f"epoch {values['epoch']}", f"best validation {values['best']:.5f}"]
    words += [values["speed"]] if values.get("speed") else []
    return ", ".join(words + ([] if left_s is None else [f"at most {left_s:.0f} s left"]))
