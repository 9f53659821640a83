"""Every seam on one page: what a task, a model, a strategy, a criterion and a journal must offer.

A package adds a task by the entry-point group `grownas.tasks` and a strategy by `grownas.strategies`. Both are classes
that may subclass the protocol here and then inherit its defaults; abstract methods must be written.

    config, data -> Problem -> Strategy.search -> SearchResult -> scores

Axes everywhere: `T` time, `B` batch, `I` input, `H` hidden, `O` output, in the order `(T, B, H)`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from torch import Generator, Tensor, nn

    from grownas.genotype import AnyGenotype
    from grownas.space import SearchSpace
    from grownas.training.loop import Fit
    from grownas.training.recipe import Recipe

    Hidden = Tensor | tuple[Tensor, ...]  # one tensor, or h and c of an LSTM
    Array = np.ndarray[Any, np.dtype[np.float64]]


# --- models ---


class Recurrent(Protocol):
    """What reads a sequence: supernet, derived cell, `nn.LSTM`, `nn.GRU`. An `nn.Module` with T first."""

    input_size: int
    hidden_size: int

    def __call__(self, x: Tensor, h_0: Any = None) -> tuple[Tensor, Any]:
        """Map `(T, B, I)` and a state to `(T, B, H)` and the last state."""
        ...


class Model(Protocol):
    """A task's whole model around a `Recurrent`, its part `core`: an `nn.Module`. It reads the `x` of a `Window`."""

    core: nn.Module

    def encode(self, x: Tensor) -> Tensor:
        """Map what a window holds to what the core reads, `(T, B, I)` in the weights' dtype and on their device."""
        ...

    def states(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Return the core's output `(T, B, H)`, in training with what regularises it, and the last state."""
        ...

    def decode(self, out: Tensor) -> Tensor:
        """Map the core's output `(T, B, H)` to predictions `(T, B, O)`; logits where words are predicted."""
        ...

    def __call__(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Map what a window holds and a state to predictions `(T, B, O)` and the last state."""
        ...


class Window(NamedTuple):
    """One piece of training data, at most `bptt` steps long.

    Attributes:
        x: inputs, shape `(T, B, I)`, or ids of words, `(T, B)`.
        target: what comes one step later, shape `(T, B, O)`, or ids, `(T, B)`.
        weight: loss weight of each time step and stream, shape `(T, B, 1)`, or None for 1.
        fresh: the state starts at zero before this window.
        burn_in: the window only carries the state forward; nothing is learned from it.
        rate: factor on the learning rates of the step that is made from it.
        taught: predictions of another model, from which the loss measures a distance, see `training.distil`; shape
            `(T, B, O)`, or None.
    """

    x: Tensor
    target: Tensor
    weight: Tensor | None = None
    fresh: bool = False
    burn_in: bool = False
    rate: float = 1.0
    taught: Tensor | None = None

    def to(self, device: torch.device) -> Window:
        """Return the window on a device."""
        weight, taught = (None if one is None else one.to(device) for one in (self.weight, self.taught))
        return self._replace(x=self.x.to(device), target=self.target.to(device), weight=weight, taught=taught)


class Evaluation(NamedTuple):
    """A model's result on one part of the data.

    Attributes:
        metric: the task's figure of merit, lower is better (MSE, perplexity).
        losses: the training loss of each evaluated time step in time order, float64, shape `(n,)`.
        forecasts: the predictions, float64, shape `(n, O)`; None where they are too large to keep.
    """

    metric: float
    losses: np.ndarray
    forecasts: np.ndarray | None = None


# --- tasks ---


@runtime_checkable
class Task(Protocol):
    """Data, loss and score. Parts: `train` = `weights` + `architecture`, then `val`, then `test`.

    A task is a class; `load` makes it from its section of the config. It is immutable: the `with_` methods return a
    changed copy. It draws nothing but from the seeds and generators that it is given.

    Attributes:
        name: of the task, as the entry point has it.
        kind: of the protocol that it fulfils: `plain` (this one), `series` (`SeriesTask`) or `language` (`TextTask`).
        metric: what `Evaluation.metric` is, lower is better.
        section: the task's options: a frozen pydantic model, see `grownas.config.schema.Section`, with the field `use`.
        losses: training losses that `with_loss` takes; the first is the default.
        unit: what the speed of training counts, such as `words`; None where nobody asks.
        loss_name: the training loss.
        source: where the data came from, for messages.
        checksum: of the data as they were read.
        input_size: I, the number of inputs of a core; None where a core may read any number.
    """

    name: ClassVar[str]
    kind: ClassVar[str] = "plain"
    metric: ClassVar[str]
    section: ClassVar[type]
    losses: ClassVar[Sequence[str]] = ("loss",)
    unit: ClassVar[str | None] = None
    loss_name: str = "loss"

    @classmethod
    @abstractmethod
    def load(cls, options: Any, *, architecture_share: float = 0.2) -> Self:
        """Read the data.

        Args:
            options: an instance of `section`.
            architecture_share: share of the training part, its end, that is the part `architecture`.

        Raises:
            DataError: the data cannot be used; the message says where and why.
        """
        ...

    @property
    @abstractmethod
    def source(self) -> str:
        """Where the data came from, for messages."""
        ...

    @property
    @abstractmethod
    def checksum(self) -> str:
        """Of the data as they were read."""
        ...

    @property
    @abstractmethod
    def input_size(self) -> int | None:
        """Number of inputs of a core; None where a core may read any number."""
        ...

    @abstractmethod
    def model(self, *cores: nn.Module, generator: Generator | None = None) -> Any:
        """Build the task's `Model` around a core; new parameters are drawn from `generator`.

        A language task takes several cores, too, one layer on another.
        """
        ...

    @abstractmethod
    def windows(self, part: str, *, seed: int) -> Iterator[Window]:
        """Yield one epoch of a part in order; the same seed gives the same windows.

        Raises:
            DataError: the part is too short; raised by the call, before the first window.
        """
        ...

    @abstractmethod
    def loss(self, model: Any, out: Tensor, window: Window) -> Tensor:
        """Return a window's mean training loss from the core's output `(T, B, H)`, a scalar."""
        ...

    @abstractmethod
    def evaluate(self, model: Any, part: str) -> Evaluation:
        """Score a model on a part, the state carried in from the steps before it. No gradient."""
        ...

    def score(self, evaluation: Evaluation, part: str) -> dict[str, Any]:
        """Return further scores of an evaluation, plain values; none by default."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return what the report says about the data: plain values, `source` and `checksum` among them."""
        return {"source": self.source, "checksum": self.checksum}

    def predict(self, model: Any) -> pd.DataFrame:
        """Return forecasts of the validation and test part and of the next step, for `grownas predict`.

        Columns: `date` (or step), `series`, `forecast`, `actual` (missing for the next step).

        Raises:
            NotImplementedError: the task has nothing to forecast; the default.
        """
        raise NotImplementedError(f"{self.name} has nothing to forecast")

    def with_device(self, device: str) -> Self:
        """Return the same task, its models built on a device."""
        if device != "cpu":
            raise NotImplementedError(f"{self.name} runs on the CPU alone; set device=cpu")
        return self

    def with_loss(self, name: str) -> Self:
        """Return the same task with another training loss, one of `losses`."""
        return self

    def with_refit(self) -> Self:
        """Return the same task with the validation part joined to the training part."""
        raise NotImplementedError(f"{self.name} cannot be refitted; set refit=false")


@runtime_checkable
class SeriesTask(Task, Protocol):
    """A task that forecasts the next row of a table of series from the rows up to it.

    VARs and other linear models read `values` directly, are where a search begins, and are baselines.

    Attributes:
        names: of the series.
        values: all rows, standardised, float64, shape `(n, I)`.
        mean, sd: by which they were standardised, in the series' own units, shape `(I,)`.
    """

    kind: ClassVar[str] = "series"

    @property
    @abstractmethod
    def input_size(self) -> int:
        """Number of series I."""
        ...

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Of the series."""
        ...

    @property
    @abstractmethod
    def values(self) -> Array:
        """All rows, standardised, float64, shape `(n, I)`."""
        ...

    @property
    @abstractmethod
    def mean(self) -> Array:
        """Of each series over the training part, in its own units, shape `(I,)`."""
        ...

    @property
    @abstractmethod
    def sd(self) -> Array:
        """Standard deviations, likewise."""
        ...

    @abstractmethod
    def rows(self, part: str) -> slice:
        """Return the rows of a part that are forecast; the rows before them are read, too."""
        ...

    @abstractmethod
    def tensor(self, part: str) -> Tensor:
        """Return a part's standardised rows, float32, shape `(n, 1, I)`."""
        ...

    @abstractmethod
    def evaluate_forecasts(self, forecasts: Array, part: str) -> Evaluation:
        """Score forecasts of a part's rows, standardised, shape `(n, I)`, that a linear model made."""
        ...

    @abstractmethod
    def at_origin(self, number: int) -> Self:
        """Return the same data seen so many validation parts earlier.

        Raises:
            DataError: too few rows would be left.
        """
        ...


@runtime_checkable
class TextTask(Task, Protocol):
    """A task that predicts the next word of a text.

    Attributes:
        words: the vocabulary, in the order of ids.
    """

    kind: ClassVar[str] = "language"

    @property
    @abstractmethod
    def words(self) -> list[str]:
        """The vocabulary, in the order of ids."""
        ...

    @abstractmethod
    def with_options(self, values: Mapping[str, float]) -> Self:
        """Return the same task with other options of the model: `gain`, and `dropout` of input and output."""
        ...


KINDS: dict[str, Any] = {"plain": Task, "series": SeriesTask, "language": TextTask}  # by `Task.kind`


# --- runs ---


class Folder(Protocol):
    """Where a run writes its results: a run folder, or memory (`grownas.runs.memory`)."""

    def write_json(self, name: str, tree: Mapping[str, Any]) -> None:
        """Write plain values."""
        ...

    def write_text(self, name: str, text: str) -> None:
        """Write text."""
        ...

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
        """Write tensors by name, and texts that belong to them."""
        ...


# --- searches ---


class Verdict(NamedTuple):
    """A criterion's answer.

    Attributes:
        accepted: whether the figure is above the threshold.
        figure: what was compared.
        rule: name of the criterion.
        threshold: with what.
    """

    accepted: bool
    figure: float
    rule: str
    threshold: float


class AcceptanceCriterion(Protocol):
    """Whether a candidate replaces the best model so far (see `grownas.criteria.early_stop.ACCEPT`)."""

    def __call__(self, best: np.ndarray, candidate: np.ndarray, *, threshold: float) -> Verdict:
        """Compare validation losses, one for each time step, both of shape `(n,)`."""
        ...


class StoppingCriterion(Protocol):
    """When a training stops (see `grownas.criteria.early_stop.Patience`). It is told each epoch's validation loss."""

    @property
    def is_over(self) -> bool:
        """Whether training stops now."""
        ...

    def step(self, value: float) -> bool:
        """Take an epoch's value; say whether it is the lowest so far."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the state as plain values, from which `restore` goes on."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        ...


class Journal(Protocol):
    """Does all long work of a run and remembers it by key, so that a run can be repeated up to where it stopped.

    Two are shipped: `grownas.runs.journal.Journal.in_folder` and `Journal.in_memory`.

    Attributes:
        elapsed: seconds of all work so far.
        cpu_seconds: processor time of all fits so far.
    """

    elapsed: float
    cpu_seconds: float

    def fit(
        self,
        key: str,
        model: Any,
        task: Task,
        recipe: Recipe,
        *,
        seed: int,
        optimizers: list[torch.optim.Optimizer] | None = None,
        stage: int = 0,
        after: str | None = None,
        extendable: bool = False,
    ) -> Fit:
        """Train a copy of a model, or return the fit that was finished under this key.

        Raises:
            TrainingError: the loss is not finite.
            Interrupted: the user asked to stop; the state is saved.
        """
        ...

    def fit_in_pieces(
        self,
        key: str,
        model: Any,
        task: Task,
        recipe: Recipe,
        *,
        seed: int,
        every: int,
        optimizers: list[torch.optim.Optimizer] | None = None,
    ) -> Iterator[Fit]:
        """Train as `fit` does, so many epochs at a time; yield the fit so far after each piece.

        A piece is a unit of work: a search that is run again reads finished pieces back.
        """
        ...

    def remember(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do a piece of work, or return what was done under this key; a tree of tensors, arrays and plain values."""
        ...

    def note(self, words: str) -> None:
        """Show what is being done where there are no epochs, as `title: words`."""
        ...

    def log_morphism(self, line: Mapping[str, Any]) -> None:
        """Write one line of `growth.jsonl`."""
        ...


@dataclass(frozen=True)
class Budget:
    """What a search may spend; None is no limit. A search ends its present unit of work before it stops.

    Attributes:
        steps: weight steps of all its trainings.
        seconds: of all its work.
        genotypes: genotypes that it trains.
    """

    steps: int | None = None
    seconds: float | None = None
    genotypes: int | None = None

    def spent(self, *, steps: int, seconds: float, genotypes: int) -> str | None:
        """Return in words which limit is reached; None if none is."""
        used = {"steps": steps, "seconds": seconds, "genotypes": genotypes}
        for name, most in (("steps", self.steps), ("seconds", self.seconds), ("genotypes", self.genotypes)):
            if most is not None and used[name] >= most:
                return f"budget.{name} = {int(most) if most == int(most) else most} reached"
        return None


class Origin(NamedTuple):
    """An earlier point in time, at which a search may repeat a training to judge it by the rows that came next.

    Attributes:
        start: where the search would have begun then.
        task: the rows up to then as its training part, those after it as its validation part.
    """

    start: Any
    task: Task


def _no_origins(count: int) -> list[Origin]:
    return []


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a search is given.

    Attributes:
        task: data, loss and score; a search reads its training and validation parts only.
        space: the genotypes that may be found.
        build: builds a start: the task's model around a `Backbone` whose nodes have these ops, drawn for a purpose
            (equal purposes give equal weights).
        start: the model that the search begins with, built by `build`; the first candidate.
        budget: what may be spent.
        journal: does and remembers the fits.
        seed: fixes noise, random choices and data order.
        bf16: train under autocast in bfloat16.
        origins: returns up to so many earlier points in time; none where a task has no time.
    """

    task: Task
    space: SearchSpace
    build: Callable[[Sequence[Sequence[tuple[str, str]]], str], Any]
    start: Any
    journal: Journal
    budget: Budget = Budget()
    seed: int = 1
    bf16: bool = False
    origins: Callable[[int], Sequence[Origin]] = _no_origins


@dataclass(frozen=True, kw_only=True)
class Found:
    """A model that a search offers to be scored.

    Attributes:
        model: the task's model; its core has a genotype.
        seconds: of the work that led to it.
        settings: trainings that led to it.
        speed: positions learned from in a second of its training; None if nothing was trained.
        log: what the strategy needs to refit it.
    """

    model: Any
    seconds: float = 0.0
    settings: int = 0
    speed: float | None = None
    log: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search has found so far. The last one that a search yields is its result.

    Attributes:
        model: the best model so far; its core is a `Backbone` or a derived cell.
        evaluation: of the model on the validation part.
        is_start: the model is the start: nothing better was found.
        scores: one entry for each genotype that was trained: plain values, `genotype`, `val` and `steps` among them.
        params: numbers that the model learned, architecture weights included; baselines match it.
        steps: weight steps of all trainings so far.
        seconds: of all work so far.
        settings: trainings so far.
        reason: why the search stopped, in words; empty while it goes on.
        log: what the strategy keeps for the report and for `refit`: one dict of plain values for each training.
        others: further models to score, by the name of their row.
        chosen: settings of the model, plain values for the table.
        speed: see `Found`.
        capped: the training of the model ended at the most epochs allowed: it may have gone on improving.
    """

    model: Any
    evaluation: Evaluation
    is_start: bool
    params: int
    steps: int
    seconds: float
    settings: int
    reason: str = ""
    scores: Sequence[Mapping[str, Any]] = ()
    log: Sequence[dict[str, Any]] = ()
    others: Mapping[str, Found] = field(default_factory=dict)
    chosen: Mapping[str, Any] = field(default_factory=dict)
    speed: float | None = None
    capped: bool = False

    @property
    def genotype(self) -> AnyGenotype:
        """Of the model, with all ops of each node."""
        core = self.model.core
        genotype: AnyGenotype = core.genotype(top_k=None) if callable(core.genotype) else core.genotype
        return genotype


class Strategy(Protocol):
    """A way to search. A strategy holds options, never state: the state of a search lives in its iterator.

    Attributes:
        section: its options: a frozen pydantic model, see `grownas.config.schema.StrategySection`.
        options: an instance of `section`.
    """

    section: ClassVar[type]
    options: Any

    def __init__(self, options: Any) -> None:
        """Take the options.

        Raises:
            ConfigError: options contradict each other.
        """
        self.options = options

    @abstractmethod
    def recipe(self) -> Recipe:
        """Return how the search trains a supernet to its end; controls of a fixed size are trained alike."""
        ...

    def tuning_recipe(self) -> Recipe:
        """Return how the start is trained to choose settings before the search; by default `recipe`."""
        return self.recipe()

    def with_rate(self, rate: float) -> Self:
        """Return the same strategy with another learning rate of the weights; by default itself."""
        return self

    @abstractmethod
    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Search, one unit of work after the other; yield what is found so far after each.

        A unit is a training or a few that belong together. All trainings go through `problem.journal`, under keys that
        depend on the search alone, so that a search that is run again repeats what was done and then goes on. Between
        units the search asks `problem.budget` whether it may go on. It may spend a last unit on finishing the model.
        """
        ...

    def refit(self, problem: Problem, result: SearchResult) -> SearchResult:
        """Train what was found again on a problem whose training part is longer, without choosing anything anew."""
        raise NotImplementedError(f"{type(self).__name__} cannot refit what it found; set refit=false")
