"""All protocols: what a task, a model, a strategy, a criterion, a journal and a launcher must implement.

A package adds a task by an entry point of the group `grownas.tasks`, and a strategy by `grownas.strategies`. Both are
classes. They may subclass the protocol here to inherit its defaults; they must implement the abstract methods.

    config, data -> Problem -> Strategy.search -> SearchResult -> scores

Axes everywhere: `T` time, `B` batch, `I` input, `H` hidden, `O` output, in the order `(T, B, H)`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, Self, TypeGuard, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    import pandas as pd
    import torch
    from torch import Generator, Tensor, nn

    from grownas.errors import TrainingError
    from grownas.genotype import AnyGenotype
    from grownas.space import SearchSpace
    from grownas.training.loop import Fit
    from grownas.training.recipe import Recipe

    Array = np.ndarray[Any, np.dtype[np.float64]]


# --- models ---


class Module(Protocol):
    """The methods of `nn.Module` that the engine uses; a protocol cannot extend the class itself."""

    training: bool

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield all parameters."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield all parameters with their names."""
        ...

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all buffers with their names."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Yield the module itself and all its submodules."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return parameters and buffers by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Load parameters and buffers."""
        ...

    def train(self) -> Self:
        """Set training mode for all submodules."""
        ...

    def eval(self) -> Self:
        """Set evaluation mode for all submodules."""
        ...

    def to(self, device: torch.device, /) -> Self:
        """Move parameters and buffers to a device."""
        ...

    def double(self) -> Self:
        """Convert parameters and buffers to float64."""
        ...


class Recurrent(Module, Protocol):
    """A recurrent `nn.Module` with time first: a supernet, a derived cell, `nn.LSTM` or `nn.GRU`."""

    input_size: int
    hidden_size: int

    def __call__(self, x: Tensor, h_0: Any = None) -> tuple[Tensor, Any]:
        """Map inputs `(T, B, I)` and a state to outputs `(T, B, H)` and the last state."""
        ...


@runtime_checkable
class Supernet(Recurrent, Protocol):
    """The interface of all supernets: `Backbone`, `DagBackbone` and `BlocksBackbone`.

    An `nn.Module` with T first. It has some mixtures of ops: one a node in the chain, one an edge elsewhere. Numbers
    of mixtures are those of `alpha`.

    Attributes:
        input_size: I.
        hidden_size: H.
    """

    input_size: int
    hidden_size: int

    def __call__(self, x: Tensor, h_0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map `(T, B, I)` and a state, zeros if None, to outputs `(T, B, H)` and the last state.

        A state is `(1, B, H)`, of blocks `(D, B, 2)`.
        """
        ...

    @property
    def alpha(self) -> list[nn.Parameter]:
        """One parameter `(K,)` a mixture, before the softmax."""
        ...

    @property
    def shares(self) -> list[Tensor]:
        """The weights that each mixture computes with, `(K,)`: softmax(alpha), or those of `set_shares`."""
        ...

    def set_shares(self, shares: Sequence[Tensor] | None) -> None:
        """Compute with these weights, `(K,)` a mixture, instead of softmax(alpha); None goes back to that.

        Gradients reach the given tensors. They are not saved.
        """
        ...

    def set_skip(self, beta: float) -> None:
        """Add beta times the state that is read to each mixture; 0 removes the skip. It is not saved."""
        ...

    @property
    def blend(self) -> list[float]:
        """How far each node is mixed in, in [0, 1]; 1 for a plain node. Assign a list, or one of its items."""
        ...

    @blend.setter
    def blend(self, values: Sequence[float]) -> None: ...

    def op_names(self, mixture: int, /) -> list[tuple[str, str]]:
        """Return a mixture's ops in the order of alpha.

        An op is `(combine, activation)`, in the DAG `("gated", activation)`, of blocks `("block", name)`.
        """
        ...

    def op_parameters(self, node: int, op: int) -> dict[str, Tensor]:
        """Return live views of an op's parameters; in the DAG of its node's, which all ops of the node share.

        Blocks number edges instead of nodes.
        """
        ...

    def load_op_parameters(self, node: int, op: int, values: Mapping[str, Tensor]) -> None:
        """Write some or all of an op's parameters."""
        ...

    def genotype(self, top_k: int | None = 1) -> AnyGenotype:
        """Read out the cell of largest shares: `top_k` ops a node, all if None; elsewhere one an edge."""
        ...

    def derive(self, top_k: int | None = None) -> Any:
        """Return the derived cell, a `GrownRNN` or `BlocksNetwork`, with the supernet's weights."""
        ...

    @property
    def chosen_backend(self) -> str:
        """Name of the backend for its present device and dtype."""
        ...


class Model(Module, Protocol):
    """A task's model: an `nn.Module` around a `Recurrent`, its attribute `core`. Its input is the `x` of a `Window`."""

    core: Recurrent

    def encode(self, x: Tensor) -> Tensor:
        """Map a window's `x` to the core's input, `(T, B, I)` in the dtype and on the device of the weights."""
        ...

    def states(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Return the core's output `(T, B, H)`, in training mode with dropout, and the last state."""
        ...

    def predictions(self, out: Tensor, x: Tensor) -> Tensor:
        """Map the core's output `(T, B, H)` and the `x` from which it comes to predictions `(T, B, O)`, or logits."""
        ...

    def __call__(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        """Map a window's `x` and a state to predictions `(T, B, O)` and the last state."""
        ...


AnyModel = TypeVar("AnyModel", bound=Model)


class Window(NamedTuple):
    """A window of training data, at most `bptt` time steps long.

    Attributes:
        x: inputs, shape `(T, B, I)`, or word ids, `(T, B)`.
        target: the values of the next time step, shape `(T, B, O)`, or word ids, `(T, B)`.
        weight: loss weight of each time step and stream, shape `(T, B, 1)`, or None for 1.
        fresh: the state is reset to zero before this window.
        burn_in: the window only updates the state; no weights are trained on it.
        rate: factor on the learning rates of this window's weight step.
        taught: predictions of another model, to which the loss measures a distance, see `training.distil`; shape
            `(T, B, O)`, or None.
    """

    x: Tensor
    target: Tensor
    weight: Tensor | None = None
    fresh: bool = False
    burn_in: bool = False
    rate: float = 1.0
    taught: Tensor | None = None

    def cut(self, begin: int, length: int) -> Window:
        """Return at most `length` of the time steps, from `begin` on, as views."""
        x, target, weight, fresh, burn_in, rate, taught = self
        steps = slice(begin, begin + length)
        weight, taught = None if weight is None else weight[steps], None if taught is None else taught[steps]
        return Window(x[steps], target[steps], weight, fresh, burn_in, rate, taught)

    def to(self, device: torch.device) -> Window:
        """Return the window on a device."""
        if self.x.device == device:  # all its tensors are on one device
            return self
        weight, taught = (None if one is None else one.to(device) for one in (self.weight, self.taught))
        return self._replace(x=self.x.to(device), target=self.target.to(device), weight=weight, taught=taught)


class Evaluation(NamedTuple):
    """A model's result on one part of the data.

    Attributes:
        metric: the task's figure of merit, lower is better (MSE, perplexity).
        losses: the training loss of each evaluated time step in time order, float64, shape `(n,)`.
        forecasts: the predictions, float64, shape `(n, O)`; None if they are too large to keep.
    """

    metric: float
    losses: np.ndarray
    forecasts: np.ndarray | None = None


# --- tasks ---


class Line(NamedTuple):
    """A line or a set of points in a `Figure`; a missing value, nan, breaks the line.

    Attributes:
        label: name in the legend.
        x, y: as many numbers each.
        is_points: draw points, not a line.
    """

    label: str
    x: Iterable[float]
    y: Iterable[float]
    is_points: bool = False


class Span(NamedTuple):
    """A marked interval of the horizontal axis of a `Figure`."""

    label: str
    low: float
    high: float


class Figure(NamedTuple):
    """A figure that a task adds to the report: numbers and words, which the report draws.

    Attributes:
        title: its heading.
        caption: what it shows, one or a few sentences.
        x_label, y_label: names of the axes, with units.
        lines: what is drawn; the colour of the first marks our own.
        spans: marked intervals of the horizontal axis.
        is_log: the horizontal axis is logarithmic.
    """

    title: str
    caption: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    spans: Sequence[Span] = ()
    is_log: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the figure as plain values."""
        lines = [{**one._asdict(), "x": [*map(float, one.x)], "y": [*map(float, one.y)]} for one in self.lines]
        return {**self._asdict(), "lines": lines, "spans": [one._asdict() for one in self.spans]}


class Joined(NamedTuple):
    """The data of an update: those of a finished run with the data that came since, or the new data in their place.

    A task that can be updated has a method `joined(options, *, frame, block)` that returns this; `options` is its
    section with the new data as `data`.

    Attributes:
        data: value of `task.data`: the file or folder among `files` that holds the data.
        files: text files by path in the run folder.
        options: further changes to the task's section, such as the sizes of the parts.
        frame: the same data as a data frame; None if the task reads no data frames.
    """

    data: str
    files: Mapping[str, str]
    options: Mapping[str, Any]
    frame: Any = None


FRAME = "frame"  # value of `task.data` if the data are a data frame given from Python


@runtime_checkable
class Task(Protocol):
    """Data, loss and score. Parts: `train` = `weights` + `architecture`, then `val`, then `test`.

    `load` constructs a task from its section of the config. A task is immutable: the `with_` methods return a changed
    copy. All its random numbers come from the seeds and generators passed to it.

    Attributes:
        name: name of the task, equal to the name of its entry point.
        kind: which protocol it implements: `plain` (this one), `series` (`SeriesTask`) or `language` (`TextTask`).
        metric: name of `Evaluation.metric`, lower is better.
        section: the task's options: a frozen pydantic model with the field `use`, see `grownas.config.schema.Section`.
        losses: names of training losses that `with_loss` accepts; the first is the default.
        unit: unit of the training speed, such as `words` per second; None: the speed is not logged.
        loss_name: name of the training loss.
        source: where the data come from, for messages.
        checksum: checksum of the data as read.
        input_size: I, the number of inputs of a core; None if a core may have any number.
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
            architecture_share: fraction of the training part, at its end, that becomes the part `architecture`.

        Raises:
            DataError: the data cannot be used; the message says where and why.
        """
        ...

    @property
    @abstractmethod
    def source(self) -> str:
        """Where the data come from, for messages."""
        ...

    @property
    @abstractmethod
    def checksum(self) -> str:
        """Checksum of the data as read."""
        ...

    @property
    @abstractmethod
    def input_size(self) -> int | None:
        """I, the number of inputs of a core; None if a core may have any number."""
        ...

    @abstractmethod
    def model(self, core: Recurrent, /, *, generator: Generator | None = None) -> Model:
        """Build the task's `Model` around a core; new parameters are drawn from `generator`."""
        ...

    @abstractmethod
    def windows(self, part: str, *, seed: int) -> Iterator[Window]:
        """Yield the windows of one epoch of a part, in order; the same seed gives the same windows.

        Raises:
            DataError: the part is too short. The call itself raises it, not the first `next`.
        """
        ...

    @abstractmethod
    def loss(self, model: Model, out: Tensor, window: Window) -> Tensor:
        """Return a window's mean training loss, a scalar, from the core's output `(T, B, H)`."""
        ...

    @abstractmethod
    def evaluate(self, model: Model, part: str) -> Evaluation:
        """Score a model on a part without gradients; its first state comes from the time steps before the part."""
        ...

    def score(self, evaluation: Evaluation, part: str) -> dict[str, Any]:
        """Return further scores of an evaluation as plain values; none by default."""
        return {}

    def describe(self) -> dict[str, Any]:
        """Return the report's facts about the data: plain values, with `source` and `checksum`."""
        return {"source": self.source, "checksum": self.checksum}

    def predict(self, model: Model) -> pd.DataFrame:
        """Return forecasts of the validation part, the test part and the next time step, for `grownas predict`.

        Columns: `date` (or step), `series`, `forecast`, `actual` (missing for the next step).

        Raises:
            NotImplementedError: the task makes no forecasts; the default.
        """
        raise NotImplementedError(f"{self.name} makes no forecasts")

    def with_device(self, device: str) -> Self:
        """Return a copy of the task that builds its models on a device."""
        if device != "cpu":
            raise NotImplementedError(f"{self.name} runs on the CPU only; set device=cpu")
        return self

    def with_loss(self, name: str) -> Self:
        """Return a copy of the task with another training loss, one of `losses`."""
        return self

    def with_refit(self) -> Self:
        """Return a copy of the task that trains on the training and the validation part."""
        raise NotImplementedError(f"{self.name} cannot be refitted; set refit=false")


@runtime_checkable
class Cautious(Protocol):
    """A task that says what its scores do not show."""

    @property
    def caution(self) -> str:
        """Sentences that follow the verdict of a run; empty: none."""
        ...


@runtime_checkable
class Illustrated(Protocol):
    """A task of any kind that adds figures to the report: it has this method beside those of its protocol."""

    def figures(self, model: Model, scores: Sequence[Mapping[str, Any]]) -> Sequence[Figure]:
        """Return the task's own figures.

        They are computed once, when a run that keeps a model ends, and written to `figures.json` in the run folder.

        Args:
            model: the model that the run keeps.
            scores: the entries of all models in `summary.json`, this model's first.
        """
        ...


@runtime_checkable
class Starting(Protocol):
    """A task of the kind `plain` that offers starts of its own; `STARTS` of its section names them.

    A model of such a start may hold more than a new model of the task, hence `rebuilt`.
    """

    def started(self, model: AnyModel, name: str) -> AnyModel:
        """Return a copy of a model with random weights that begins at the start of this name."""
        ...

    def rebuilt(self, core: Recurrent, tensors: Mapping[str, Tensor]) -> Model:
        """Build the model of a finished run around its core; the run's weights, `tensors`, are loaded into it then."""
        ...


@runtime_checkable
class Filtering(Protocol):
    """A task whose models filter a signal, for `Run.filter` and `grownas predict RUN input=FILE`."""

    def filtered(self, model: Model, signal: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the output of a model.

        Args:
            model: the model of a finished run.
            signal: the input in its own units, complex, shape `(n,)`.

        Raises:
            DataError: the signal cannot be used.
        """
        ...

    def filtered_file(self, model: Model, path: Path) -> str:
        """Return the output of a model, as the text of a CSV.

        Args:
            model: the model of a finished run.
            path: a CSV of the input, in its own units.

        Raises:
            DataError: the file cannot be read.
        """
        ...


class Formulas(NamedTuple):
    """How a model is written around its core in `equations.txt`. The core maps x_t to the state h_t.

    Attributes:
        title: what the model is, such as `Model of an amplifier`.
        step: what a time step is, such as `sample`.
        notation: lines of the notation that define the input and x_t.
        before: paragraphs that compute x_t.
        after: the paragraph that computes the output from h_t, with W_out and b_out of the linear readout.
        lines: explanation of `words` and `numbers`.
        words: lines `keyword value` for programs.
        numbers: vectors and matrices for programs, by name.
    """

    title: str
    step: str
    notation: str
    before: Sequence[str]
    after: str
    lines: str
    words: Sequence[str]
    numbers: Mapping[str, np.ndarray]


@runtime_checkable
class Written(Protocol):
    """A task of the kind `plain` whose runs have `equations.txt`. Its models have a linear `readout`."""

    def formulas(self, model: Model) -> Formulas:
        """Return how a model of the task is written around its core."""
        ...


@runtime_checkable
class OnSamples(Protocol):
    """A task on complex samples, whose cores may be networks of blocks.

    Attributes:
        reads_samples: with the present options a core reads I and Q of each sample and nothing else.
    """

    @property
    def reads_samples(self) -> bool:
        """See the class."""
        ...


@runtime_checkable
class SeriesTask(Task, Protocol):
    """A task that forecasts the next row of a table of series from all rows before it.

    VARs and other linear models are fitted on `values`. A search can start at a VAR; all of them are baselines.

    Some columns may be inputs only. They are the last ones: the first O of the I columns are forecast. By default all
    are.

    Attributes:
        names: names of the columns.
        values: all rows, standardised, float64, shape `(n, I)`.
        target_names: names of the series that are forecast, the first O of `names`.
        targets: the first O columns of `values`, shape `(n, O)`.
        zone: name of the time zone of the rows' dates; None if they have none.
        mean, sd: mean and standard deviation used to standardise, in the columns' own units, shape `(I,)`.
    """

    kind: ClassVar[str] = "series"

    @property
    @abstractmethod
    def input_size(self) -> int:
        """I, the number of columns."""
        ...

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the columns."""
        ...

    @property
    def target_names(self) -> list[str]:
        """Names of the series that are forecast."""
        return self.names

    @property
    def zone(self) -> str | None:
        """Name of the time zone of the rows' dates; None if they have none."""
        return None

    @property
    def targets(self) -> Array:
        """All rows of the series that are forecast, standardised, float64, shape `(n, O)`."""
        return self.values[:, : len(self.target_names)]

    @property
    @abstractmethod
    def values(self) -> Array:
        """All rows, standardised, float64, shape `(n, I)`."""
        ...

    @property
    @abstractmethod
    def mean(self) -> Array:
        """Mean of each series over the training part, in its own units, shape `(I,)`."""
        ...

    @property
    @abstractmethod
    def sd(self) -> Array:
        """Standard deviation of each series over the training part, in its own units, shape `(I,)`."""
        ...

    @abstractmethod
    def rows(self, part: str) -> slice:
        """Return the rows of a part that are forecast; models read the rows before them too."""
        ...

    @abstractmethod
    def tensor(self, part: str) -> Tensor:
        """Return a part's standardised rows, float32, shape `(n, 1, I)`."""
        ...

    @abstractmethod
    def evaluate_forecasts(self, forecasts: Array, part: str) -> Evaluation:
        """Score a linear model's forecasts of a part's rows, standardised, shape `(n, O)`."""
        ...

    @abstractmethod
    def at_origin(self, number: int) -> Self:
        """Return the task as it was `number` validation parts earlier: its training part ends that much earlier.

        Raises:
            DataError: too few rows remain.
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
    def model(self, *cores: Recurrent, generator: Generator | None = None) -> Model:
        """Build the task's `Model` around one core, or around several cores that are stacked as layers."""
        ...

    @abstractmethod
    def with_options(self, values: Mapping[str, float]) -> Self:
        """Return a copy of the task with other model options: `gain`, and `dropout` of input and output."""
        ...


KINDS: dict[str, Any] = {"plain": Task, "series": SeriesTask, "language": TextTask}  # key: `Task.kind`


def is_series(task: Task) -> TypeGuard[SeriesTask]:
    """Return whether a task is a `SeriesTask`, from its `kind`."""
    return task.kind == "series"


# --- runs ---


class Folder(Protocol):
    """Where a run writes its results: a run folder or memory (`grownas.runs.memory`)."""

    def write_json(self, name: str, tree: Mapping[str, Any]) -> None:
        """Write plain values as JSON."""
        ...

    def write_text(self, name: str, text: str) -> None:
        """Write text."""
        ...

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
        """Write tensors by name, and metadata texts by name."""
        ...


# --- searches ---


class Verdict(NamedTuple):
    """The result of a criterion.

    Attributes:
        accepted: whether the figure is above the threshold.
        figure: the figure that decided, such as a t statistic.
        rule: name of the criterion.
        threshold: the value that the figure was compared with.
    """

    accepted: bool
    figure: float
    rule: str
    threshold: float


class AcceptanceCriterion(Protocol):
    """Decides whether a candidate replaces the best model so far (see `grownas.criteria.early_stop.ACCEPT`)."""

    def __call__(self, best: np.ndarray, candidate: np.ndarray, *, threshold: float) -> Verdict:
        """Compare validation losses per time step, both of shape `(n,)`."""
        ...


@dataclass(frozen=True, kw_only=True)
class FitRequest:
    """The arguments of a `Journal.fit`, for `Journal.fit_all`.

    Attributes:
        key: name of the fit.
        model: the untrained model.
        task: data and loss: the task of the search's problem, or a `training.distil.Distilled` of it.
        recipe: how the model is trained.
        seed: of the data order and the model's random numbers.
        after: key of a shorter fit that this fit continues.
        extendable: save the end of the fit, so that a longer fit can continue from it.
    """

    key: str
    model: Model
    task: Task
    recipe: Recipe
    seed: int
    after: str | None = None
    extendable: bool = False


class Journal(Protocol):
    """Does all long work of a run and stores the results by key, so that a resumed run does not repeat finished work.

    Two implementations: `grownas.runs.journal.Journal.in_folder` and `Journal.in_memory`.

    Attributes:
        elapsed: time of all work so far, in seconds.
        cpu_seconds: processor time of the same work, in seconds.
        gradients: forward and backward passes on a window in the same work.
    """

    elapsed: float
    cpu_seconds: float
    gradients: int

    def fit(
        self,
        key: str,
        model: Model,
        task: Task,
        recipe: Recipe,
        *,
        seed: int,
        optimizers: list[torch.optim.Optimizer] | None = None,
        stage: int = 0,
        after: str | None = None,
        extendable: bool = False,
    ) -> Fit:
        """Train a copy of a model, or return the finished fit that is stored under this key.

        Raises:
            TrainingError: the loss is not finite.
            Interrupted: the user interrupted the run; its state is saved.
        """
        ...

    def fit_all(self, requests: Iterable[FitRequest]) -> Iterator[Fit | TrainingError]:
        """Do fits that do not depend on each other; yield their results in the order of the requests.

        The requests may be endless. They are read as the fits need them: one at a time, or some in advance where
        several fits run at once. The caller may stop in between; fits that were read in advance are then dropped. So
        the results do not depend on how many fits run at once.

        Yields:
            A fit, or the error with which `fit` ends.

        Raises:
            Interrupted: the user interrupted the run; its state is saved.
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
        """Train as `fit` does, but `every` epochs at a time; yield the fit so far after each piece.

        Each piece is a unit of work: a repeated search reads finished pieces back.
        """
        ...

    def of_model(self, name: str) -> AbstractContextManager[None]:
        """Log the fits within the context under the name of a model, as in tables."""
        ...

    def remember(self, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Call `work`, or return the result stored under this key: a tree of tensors, arrays and plain values.

        Its entry `gradients`, if there is one, is the number of forward and backward passes that the work took.
        """
        ...

    def branch(self, name: str, *, logs: bool) -> Journal:
        """Return a journal for one of several searches: its own keys; what it counts starts at 0."""
        ...

    def mark(self) -> Sequence[int]:
        """Return how far the logs are written, for `rewind`."""
        ...

    def rewind(self, mark: Sequence[int]) -> None:
        """Take back what was logged since `mark` was called; saved work stays."""
        ...

    def forget(self) -> None:
        """Delete all saved work of a branch, once what is needed of it is saved elsewhere."""
        ...

    def note(self, words: str) -> None:
        """Show the current work as progress, for work without epochs; `words` reads `title: words`."""
        ...

    def log_morphism(self, line: Mapping[str, Any]) -> None:
        """Write one line of `growth.jsonl`."""
        ...

    def log_trial(self, line: Mapping[str, Any]) -> None:
        """Write one line of `trials.jsonl`: a genotype that was trained on its own."""
        ...


@dataclass(frozen=True)
class Budget:
    """Limits of a search; None means no limit. A search finishes its current unit of work before it stops.

    Attributes:
        steps: weight steps of all fits.
        seconds: time of all work, in seconds.
        cpu_seconds: processor time of all work, in seconds: what other programs take of the machine does not count.
        genotypes: number of genotypes trained.
    """

    steps: int | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    genotypes: int | None = None

    def spent(self, *, steps: float, seconds: float, cpu_seconds: float, genotypes: int) -> str | None:
        """Return a message that names the limit reached; None if no limit is reached."""
        used = {"steps": steps, "seconds": seconds, "cpu_seconds": cpu_seconds, "genotypes": genotypes}
        for name, amount in used.items():
            most = getattr(self, name)
            if most is not None and amount >= most:
                return f"budget.{name} = {int(most) if most == int(most) else most} reached"
        return None


class Origin(NamedTuple):
    """An earlier point in time at which a search repeats a fit, to validate it on the rows that follow.

    Attributes:
        start: the start of a search at that time.
        task: the task whose training part ends at that time; the rows that follow are its validation part.
    """

    start: Model
    task: Task


def _no_origins(count: int) -> list[Origin]:
    return []


def _no_cell(genotype: AnyGenotype, purpose: str) -> Any:
    raise NotImplementedError("this problem builds no derived cells; give it build_cell")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """The input of a search.

    Attributes:
        task: data, loss and score; a search reads its training and validation parts only.
        space: the allowed genotypes.
        build: builds a start from each node's ops and a text that seeds its weights (the same text gives the same
            weights): the task's model around a supernet of the space's kind (in a DAG all edges
            of a node have the node's ops).
        start: the model with which the search begins, made by `build`; the first candidate.
        budget: limits of the search.
        journal: runs and stores the fits.
        seed: seed of noise, random choices and data order.
        bf16: train under autocast in bfloat16.
        origins: returns at most that many earlier points in time; none for a task without time.
        build_cell: builds the task's model around the derived cell of a genotype, from the genotype and a text that
            seeds its weights.
    """

    task: Task
    space: SearchSpace
    build: Callable[[Sequence[Sequence[tuple[str, str]]], str], Model]
    start: Model
    journal: Journal
    budget: Budget = Budget()
    seed: int = 1
    bf16: bool = False
    origins: Callable[[int], Sequence[Origin]] = _no_origins
    build_cell: Callable[[AnyGenotype, str], Any] = _no_cell


@dataclass(frozen=True, kw_only=True)
class Found:
    """A further model of a search to be scored.

    Attributes:
        model: the task's model; its core has a genotype.
        seconds: time of the work that led to it, in seconds.
        settings: number of fits that led to it.
        speed: targets (time steps x streams) trained on per second; None if nothing was trained.
        log: the strategy's data for refitting it.
    """

    model: Model
    seconds: float = 0.0
    settings: int = 0
    speed: float | None = None
    log: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The best model of a search so far. The last `SearchResult` that a search yields is its result.

    Attributes:
        model: the best model so far; its core is a `Supernet` or a derived cell.
        evaluation: the model's evaluation on the validation part.
        is_start: the model is the start: the search found nothing better.
        scores: one entry of plain values per genotype that was trained or read out, with the keys `genotype`, `val`,
            `steps` (of its training) and `seconds` (since the search began), and `accepted` if the search sets it.
        params: number of trained parameters, architecture weights included; baselines match it.
        steps: weight steps of all fits so far.
        seconds: time of all work so far, in seconds.
        settings: number of fits so far.
        reason: why the search stopped; empty while it runs.
        log: the strategy's data for the report and for `refit`: one dict of plain values per fit.
        others: further models to score, by the name of their row.
        chosen: settings of the model, plain values for the table.
        speed: see `Found`.
        capped: training reached the maximum number of epochs, so the model might still have improved.
        moments: state of the optimiser of the model's weights by name, see `training.moments`; empty if the model was
            not trained, or if the strategy does not keep it.
    """

    model: Model
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
    moments: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def genotype(self) -> AnyGenotype:
        """The model's genotype, with all ops of each node."""
        core: Any = self.model.core  # a supernet has a method `genotype`, a derived cell an attribute
        genotype: AnyGenotype = core.genotype(top_k=None) if callable(core.genotype) else core.genotype
        return genotype


class Strategy(Protocol):
    """A search method. A strategy stores options only: the state of a search is in the iterator.

    It may have a method `check_space(space)` that raises ConfigError before work begins if its options do not fit a
    `SearchSpace`.

    Attributes:
        section: type of its options: a frozen pydantic model, see `grownas.config.schema.StrategySection`.
        options: an instance of `section`.
        backbones: which kinds of `space.backbone` it searches; a strategy that does not say searches chains.
    """

    section: ClassVar[type]
    backbones: ClassVar[Sequence[str]] = ("chain",)
    options: Any

    def __init__(self, options: Any) -> None:
        """Store the options.

        Raises:
            ConfigError: options contradict each other.
        """
        self.options = options

    @abstractmethod
    def recipe(self) -> Recipe:
        """Return the recipe for a full fit of a supernet; baselines of fixed size use it too."""
        ...

    def tuning_recipe(self) -> Recipe:
        """Return the recipe for the start when settings are chosen before the search; by default `recipe`."""
        return self.recipe()

    def with_rate(self, rate: float) -> Self:
        """Return a copy of the strategy with another learning rate of the weights; by default the strategy itself."""
        return self

    @abstractmethod
    def search(self, problem: Problem) -> Iterator[SearchResult]:
        """Search unit by unit; yield the best result so far after each unit.

        A unit is one fit or a few that belong together. All fits use `problem.journal`, with keys that depend on the
        search only: a restarted search then reads finished fits from the journal and continues. Before each unit the
        search checks `problem.budget`. After the limit it may use one more unit to finish the model.
        """
        ...

    def refit(self, problem: Problem, result: SearchResult) -> SearchResult:
        """Train the model of a result again on a problem with a longer training part; with the same choices."""
        raise NotImplementedError(f"{type(self).__name__} cannot refit its result; set refit=false")


# --- launchers ---


class Ended(NamedTuple):
    """A run that a launcher no longer runs.

    Attributes:
        folder: the run folder.
        status: exit status of `grownas resume` on the folder; 0: finished. Negative: killed by this signal.
        words: what is known beyond the status; may be empty.
    """

    folder: Path
    status: int
    words: str = ""


class Launcher(Protocol):
    """Runs whole runs somewhere: in this process, in local processes, or on a cluster. It is a context manager.

    A run is its folder, which holds the config and the whole state: what a launcher does with a folder is
    `grownas resume FOLDER`, so the place and the order of runs cannot change a result, and a run that was killed in one
    place goes on in another. At the end of the block a launcher ends all runs that still run.
    """

    def __enter__(self) -> Self:
        """Connect to the place where runs run."""
        ...

    def __exit__(self, *error: object) -> None:
        """End all runs that still run."""
        ...

    def has_room(self) -> bool:
        """Return whether one more run may be submitted now."""
        ...

    def submit(self, folder: Path) -> None:
        """Begin or continue the run of a folder."""
        ...

    def poll(self) -> list[Ended]:
        """Return the runs that have ended since the last call.

        Raises:
            RunError: the place where runs run is gone.
        """
        ...

    def stop(self) -> None:
        """Ask all runs to save their state and end; a second call asks them to end at once."""
        ...
