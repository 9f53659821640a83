"""What a backtest walks through, in rows: the rows of series, or 100 words each of a text."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from grownas.config.sections import Config
from grownas.errors import ConfigError, DataError
from grownas.protocols import Evaluation, Task

Array = np.ndarray[Any, np.dtype[np.float64]]

WORDS = 100  # of a row of a text
CONTEXT = 1000  # words that are read before a block of a text, so that its first words have a past


class Timeline(Protocol):
    """Data in the order of time."""

    @property
    def length(self) -> int:
        """Number of rows."""
        ...

    @property
    def source(self) -> str:
        """Where the data come from, for messages."""
        ...

    @property
    def checksum(self) -> str:
        """Checksum of all data."""
        ...

    @property
    def period(self) -> str:
        """What the means of a report are over, `year` or `text`."""
        ...

    def origin(self, config: Config) -> tuple[int, int]:
        """Return the first row of the first validation part, and the first row that is forecast.

        Raises:
            DataError: `backtest.origin` is not a row.
        """
        ...

    def until(self, train: int, val: int, end: int, *, since: int = 0) -> Any:
        """Return the task as it was after `end` rows; its three parts end at the rows `train`, `val` and `end`.

        The training part begins at the row `since`. Scaling or vocabulary are those of `read_as`; without it those of
        the training part.

        Raises:
            DataError: a part is too short.
        """
        ...

    def read_as(self, first: Any) -> Timeline:
        """Return the same data in the scaling or with the vocabulary of a task that `until` returned."""
        ...

    def losses(self, task: Any, evaluation: Evaluation, part: str, rows: int) -> Array:
        """Return the losses of a part's last rows, shape `(n,)`: squared errors, mean over series, or nats per word."""
        ...

    def errors(self, task: Any, evaluation: Evaluation, part: str, rows: int) -> Array | None:
        """Return actual minus forecast of a part's last rows, standardised, shape `(n, O)`; None for a text."""
        ...

    def score(self, loss: float) -> float:
        """Return the task's metric from a mean loss."""
        ...

    def labels(self, origin: int) -> tuple[list[str], list[str]]:
        """Return a label of each row from the origin on, and the period that it belongs to."""
        ...


@dataclass(frozen=True)
class SeriesTimeline:
    """The rows of a task on series that has `until`, `first_after` and `dates`."""

    task: Any

    period = "year"

    @property
    def length(self) -> int:
        """Number of rows."""
        return len(self.task.values)

    @property
    def source(self) -> str:
        """Where the data come from."""
        return str(self.task.source)

    @property
    def checksum(self) -> str:
        """Checksum of the series."""
        return str(self.task.checksum)

    def origin(self, config: Config) -> tuple[int, int]:
        """Return the rows that `Timeline` names; `backtest.origin` is a day, by default that of the test part."""
        train, known, day = self.task.rows("val").start, self.task.rows("test").start, config.backtest.origin
        if day is None:
            return train, known
        origin = self.task.first_after(day)
        if origin >= self.length:
            raise DataError(
                f"backtest.origin={day}: the last row of {self.source} is {self.task.dates('test')[-1]}; choose an "
                "earlier day"
            )
        return origin * train // known, origin

    def until(self, train: int, val: int, end: int, *, since: int = 0) -> Any:
        """See `Timeline`."""
        return self.task.until(train, val, end, since=since)

    def read_as(self, first: Any) -> SeriesTimeline:
        """See `Timeline`."""
        return SeriesTimeline(self.task.with_scaling(first.mean, first.sd, self.task.names))

    def losses(self, task: Any, evaluation: Evaluation, part: str, rows: int) -> Array:
        """See `Timeline`."""
        losses: Array = (self.errors(task, evaluation, part, rows) ** 2).mean(axis=1)
        return losses

    def errors(self, task: Any, evaluation: Evaluation, part: str, rows: int) -> Array:
        """See `Timeline`."""
        errors: Array = task.targets[task.rows(part)] - evaluation.forecasts
        return errors[-rows:]

    def score(self, loss: float) -> float:
        """Return the loss itself, a mean squared error."""
        return loss

    def labels(self, origin: int) -> tuple[list[str], list[str]]:
        """Return dates and years."""
        dates = [str(day) for day in self.task.dates("all")[origin - self.length :]]
        return dates, [day[:4] for day in dates]


@dataclass(frozen=True)
class TextTimeline:
    """The words of one text or several, one after the other, in rows of `WORDS` words; a last shorter row is left out.

    Attributes:
        task: builds the tasks; has the method `of_words`.
        words: all words.
        starts: number of words before each text, by its name.
        source: where the texts come from.
        checksum: checksum of all texts.
        vocabulary: the words that all models know; None: those of the training part.
    """

    task: Any
    words: Sequence[str]
    starts: Mapping[str, int]
    source: str
    checksum: str
    vocabulary: tuple[str, ...] | None = None

    period = "text"

    @property
    def length(self) -> int:
        """Number of rows."""
        return len(self.words) // WORDS

    def origin(self, config: Config) -> tuple[int, int]:
        """Return the rows that `Timeline` names; `backtest.origin` is a number of rows, by default half of them.

        The first validation part has `backtest.holdout` rows.
        """
        given: Any = config.backtest.origin  # a number in the section of a text
        origin = self.length // 2 if given is None else given
        if origin >= self.length:
            raise DataError(
                f"backtest.origin={origin}: {self.source} has {self.length} rows of {WORDS} words; choose a lower one"
            )
        return origin - config.backtest.holdout, origin

    def until(self, train: int, val: int, end: int, *, since: int = 0) -> Any:
        """See `Timeline`. The test part begins with the `CONTEXT` words before it, which `losses` leaves out."""
        if not since < train < val <= end:
            raise DataError(
                f"{self.source}: rows {since}, {train}, {val}, {end} leave a part empty; choose a later origin"
            )
        parts = ((since * WORDS, train * WORDS), (train * WORDS, val * WORDS), (val * WORDS - CONTEXT, end * WORDS))
        cut = [self.words[max(0, first) : stop] for first, stop in parts]
        return self.task.of_words(*cut, self.vocabulary)

    def read_as(self, first: Any) -> TextTimeline:
        """See `Timeline`."""
        return replace(self, vocabulary=tuple(first.words))

    def losses(self, task: Any, evaluation: Evaluation, part: str, rows: int) -> Array:
        """See `Timeline`; the first word of a part has no loss, so a part without context has one row less."""
        each = evaluation.losses[-rows * WORDS :]
        means: Array = each[len(each) % WORDS :].reshape(-1, WORDS).mean(axis=1)
        return means

    def errors(self, task: Any, evaluation: Evaluation, part: str, rows: int) -> None:
        """Return None: a forecast of a text is a distribution."""

    def score(self, loss: float) -> float:
        """Return the perplexity."""
        return math.exp(loss)

    def labels(self, origin: int) -> tuple[list[str], list[str]]:
        """Return the number of words before each row, and the name of its text."""
        words = [row * WORDS for row in range(origin, self.length)]
        return [str(word) for word in words], [self._text_at(word) for word in words]

    def _text_at(self, word: int) -> str:
        return [name for name, start in self.starts.items() if start <= word][-1]


def timeline_of(config: Config, task: Task) -> Timeline:
    """Return the timeline of a task.

    Raises:
        ConfigError: the task has no rows in time.
        DataError: the further text cannot be read.
    """
    made = TIMELINES.get(task.kind)
    if made is None or not hasattr(task, "until" if task.kind == "series" else "of_words"):
        raise ConfigError(f"backtest: {task.name} has no rows to walk through; use a task on series or a text")
    return made(config, task)


def _of_text(config: Config, task: Any) -> TextTimeline:
    words, starts, source, checksum = list(task.text), {task.corpus.name: 0}, task.source, task.checksum
    if then := config.backtest.then:  # type: ignore[attr-defined]  # the section of a text has it
        name, further = task.further(then)
        starts[then if name in starts else name], source = len(words), f"{source}, then {then}"
        words.extend(further)
        checksum = f"sha256:{hashlib.sha256(' '.join([checksum, *further]).encode()).hexdigest()}"
    return TextTimeline(task, words, starts, source, checksum)


TIMELINES: dict[str, Callable[[Config, Any], Timeline]] = {  # kind of task -> what makes its timeline
    "series": lambda config, task: SeriesTimeline(task),
    "language": _of_text,
}
