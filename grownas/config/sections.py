"""The sections of a config: every key with its meaning and unit (see `Config`)."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from grownas.blocks import DEFAULT_BLOCKS, FORMS, check_names
from grownas.config.schema import (
    Count,
    Distinct,
    Names,
    NonNegative,
    OneOrMore,
    Positive,
    Rate,
    Section,
    Several,
    Share,
    WeightOptimizer,
    Whole,
    about,
    distinct,
)
from grownas.errors import GenotypeError
from grownas.genotype_bits import FEWEST_BITS, MOST_BITS

WHERE_AND_HOW = (
    "runs",
    "name",
    "quiet",
    "workers",
    "cluster",
    "trial_workers",
    "worker_timeout",
    "checkpoint_seconds",
    "seeds",
    "panels",
    "strategies",
)  # keys that do not affect the result
PLACES = ("processes", "in_process")  # where a comparison runs, beside the address of a cluster
MOST_THREADS = 1024  # far more crash PyTorch
COMPUTING = ("device", "backend", "threads")  # keys that may change between machines; last digits may then differ


Combine = Literal["add", "hadamard"]
How = Literal["state", "continue", "grow", "refit"]
Backend = Literal["auto", "native", "torch", "triton", "reference"]
RecurrentKind = Literal["chain", "dag"]
DEFAULTS: dict[str, dict[str, Any]] = {  # backbone -> what it has instead of the defaults of `Space`
    "dag": {"combine": [], "activation": ["none", "tanh", "relu", "sigmoid", "identity"]},
    "blocks": {"combine": [], "activation": [], "hidden_size": 2, "blocks": list(DEFAULT_BLOCKS)},
}
Sizes = Annotated[tuple[Count, ...], OneOrMore, Field(min_length=1), Distinct]
Widths = Annotated[tuple[Annotated[int, Field(strict=True, ge=FEWEST_BITS, le=MOST_BITS)], ...], OneOrMore, Distinct]
Pair = tuple[Literal["sgd", "adam"], ...]
Rates = tuple[Positive, ...]
Panels = Annotated[tuple[str, ...], OneOrMore, Field(min_length=1)]
Seeds = Annotated[tuple[Whole, ...], OneOrMore, Field(min_length=1), Distinct]


class Start(Section):
    """The model from which growth starts."""

    use: Annotated[Literal["var", "random"], about("a fitted VAR, or random weights")] = "var"
    rule: Annotated[
        Literal["combined", "single"],
        about(
            "combined: the sum of a VAR of order 1 or 2 and a VAR with exponential averages, weighted by folds; "
            "single: one VAR"
        ),
    ] = "combined"
    nodes: Annotated[Count, about("number of nodes in the start")] = 1
    carrier_share: Annotated[
        Share, about("share of the identity op that computes the VAR, in each node of the start")
    ] = 0.5
    max_order: Annotated[
        Count, about("highest VAR order that blocked folds try for rule `single` and the baseline `var_robust`")
    ] = 10


class Space(Section):
    """The cells that the search may build."""

    backbone: Annotated[
        Literal["chain", "dag", "blocks"],
        about(
            "the chain of two-input nodes, the DAG of DARTS' recurrent cell, or feed-forward blocks on complex samples"
        ),
    ] = "chain"
    combine: Annotated[tuple[Combine, ...], OneOrMore, Distinct, about("of a chain; a dag has none")] = (
        "add",
        "hadamard",
    )
    activation: Annotated[
        Names, about("of blocks none; of a dag also `none`, by default none, tanh, relu, sigmoid, identity")
    ] = ("identity", "tanh", "sigmoid", "relu")
    hidden_size: Annotated[Count | Literal["auto"], about("hidden units; auto: set by the order of the start")] = "auto"
    highway: Annotated[bool, about("a gate around each node")] = False
    share_projection: Annotated[bool, about("ops of a node with the same combine share a projection matrix")] = False
    blocks: Annotated[
        Names,
        about(f"ops of blocks, by default {', '.join(DEFAULT_BLOCKS)}; parts in a row are joined by -: {FORMS}"),
    ] = ()
    cells: Annotated[Literal[1, 2, 3], about("cells of blocks in a row, all with the same nodes")] = 1
    norm: Annotated[bool, about("batch norm on the states of a dag's supernet; its derived cell has none")] = False
    edge_reduction: Annotated[
        Literal["mean", "sum"],
        about("how a node of a dag's supernet combines its edges; published: sum, with norm; without it many overflow"),
    ] = "mean"

    @model_validator(mode="before")
    @classmethod
    def _with_the_backbones_defaults(cls, given: Any) -> Any:
        return {**DEFAULTS.get(str(given.get("backbone")), {}), **given} if isinstance(given, Mapping) else given

    @field_validator("combine")
    @classmethod
    def _is_of_the_backbone(cls, combine: tuple[str, ...], known: ValidationInfo) -> tuple[str, ...]:
        if known.data.get("backbone") == "chain" and not combine:
            raise ValueError("expected at least 1 of them")
        return combine

    @field_validator("activation")
    @classmethod
    def _are_some(cls, activation: tuple[str, ...], known: ValidationInfo) -> tuple[str, ...]:
        if not activation and known.data.get("backbone") != "blocks":
            raise ValueError("expected at least 1 value(s)")
        return activation

    @field_validator("hidden_size")
    @classmethod
    def _are_i_and_q(cls, units: int | str, known: ValidationInfo) -> int | str:
        if units != 2 and known.data.get("backbone") == "blocks":
            raise ValueError("expected 2 with space.backbone=blocks: I and Q")
        return units

    @field_validator("blocks")
    @classmethod
    def _form_a_cell(cls, names: tuple[str, ...], known: ValidationInfo) -> tuple[str, ...]:
        if names or known.data.get("backbone") == "blocks":
            try:
                check_names(names)
            except GenotypeError as error:
                raise ValueError(str(error)) from error
        return names

    @field_validator("norm")
    @classmethod
    def _is_of_a_dag(cls, norm: bool, known: ValidationInfo) -> bool:
        if norm and (backbone := known.data.get("backbone", "dag")) != "dag":
            raise ValueError(f"expected false with space.backbone={backbone}, whose states are not normalised")
        return norm

    @field_validator("edge_reduction")
    @classmethod
    def _has_edges(cls, reduction: str, known: ValidationInfo) -> str:
        if reduction != "mean" and (backbone := known.data.get("backbone", "dag")) != "dag":
            why = {"chain": "which has no edges", "blocks": "whose nodes sum their edges"}[backbone]
            raise ValueError(f"expected mean with space.backbone={backbone}, {why}")
        return reduction


class BudgetSection(Section):
    """Limits of a search; if all are null, `grownas compare` gives further strategies the first strategy's steps."""

    steps: Annotated[Count | None, about("largest number of weight steps, over all trainings of the search")] = None
    seconds: Annotated[Positive | None, about("no new training starts after so many seconds of work")] = None
    cpu_seconds: Annotated[Positive | None, about("no new training starts after so many processor seconds of work")] = (
        None
    )
    genotypes: Annotated[Count | None, about("largest number of genotypes that are trained")] = None


class Retrain(WeightOptimizer):
    """How every model is trained that starts from random weights."""

    grown: Annotated[bool, about("also retrain the cell that the search found")] = True
    epochs: Annotated[Count, about("most epochs; patience usually stops training long before")] = 1000
    patience: Annotated[Count, about("training stops after so many epochs without a lower validation loss")] = 12


class Halving(Section):
    """Successive halving: chooses a model's setting on validation data (see `experiments.choosing.Halving`)."""

    first_epochs: Annotated[
        Count, about("epochs of the first round: every size, loss and weight decay, with the highest rate")
    ] = 20
    reduction_factor: Annotated[
        Count, Field(ge=2), about("each round keeps one setting in so many and multiplies the epochs by this factor")
    ] = 3
    finalists: Annotated[
        Count, about("number of settings that are trained until patience runs out, with every rate")
    ] = 1


class PlainBaselines(Section):
    """The baselines that the grown cell is compared with."""

    use: Annotated[Names, about("baselines of `grownas search`")] = ("lstm", "gru")
    compare: Annotated[Names, about("further baselines of `grownas compare`")] = ()
    hidden_sizes: Annotated[
        Sizes, about("sizes to try; the size that matches the grown cell's number of parameters is added")
    ] = (8, 16, 32)
    rates: Annotated[
        tuple[Positive, ...], OneOrMore, Distinct, about("learning rates to try; an empty list: `retrain.rate`")
    ] = (0.001, 0.003, 0.01)
    weight_decays: Annotated[
        tuple[NonNegative, ...],
        OneOrMore,
        Distinct,
        about("weight decays to try; an empty list: `retrain.weight_decay`"),
    ] = (0.0, 1.0)
    halving: Halving = Halving()


class Baselines(PlainBaselines):
    """The baselines that the grown cell is compared with."""

    use: Annotated[Names, about("baselines of `grownas search`")] = (
        "zero",
        "var1",
        "var",
        "var_robust",
        "har",
        "lstm",
        "gru",
    )
    compare: Annotated[Names, about("further baselines of `grownas compare`")] = (
        "gru_var",
        "fixed_size_random",
        "sizes",
    )
    losses: Annotated[Names, Field(min_length=1), about("training losses to try")] = ("squared", "huber")


class RandomStart(Section):
    """The cell with random weights from which a search starts."""

    nodes: Annotated[Count, about("number of nodes in the start")] = 1


class PlainStart(RandomStart):
    """The model from which a search starts."""

    use: Annotated[str, about("random: random weights; or a start that the task offers")] = "random"


class Grid(Section):
    """Values to try for every kind of model, in all combinations; an empty list keeps the config's own value."""

    rate: Annotated[tuple[Positive, ...], OneOrMore, Distinct, about("learning rates of the weights")] = ()
    gain: Annotated[tuple[Positive, ...], OneOrMore, Distinct, about("values of `task.gain`")] = ()
    dropout: Annotated[
        tuple[Rate, ...],
        OneOrMore,
        Distinct,
        about("values of both `task.dropout_input` and `task.dropout_output`"),
    ] = ()


class LanguageBaselines(Section):
    """The baselines that a grown language model is compared with; all have its number of parameters."""

    use: Annotated[Names, about("baselines of `grownas search`")] = ("lstm", "gru")
    compare: Annotated[Names, about("further baselines of `grownas compare`")] = ()
    grid: Grid = Grid()


class LanguageRetrain(Retrain):
    """How every language model is trained that starts from random weights."""

    epochs: Annotated[Count, about("most epochs")] = 200
    layers: Annotated[
        Count, about("stacked layers of cells in the retrained cell and every baseline; a search has 1 layer")
    ] = 1


class Study(Section):
    """A study by `grownas compare`: of optimisers if `momentum` is set, of strategies on a table if `task.replay` is.

    A study of strategies repeats each search on a table of trained genotypes; only `repeats` matters to it. A study of
    optimisers trains each strategy with each pair of optimisers and each momentum.

    Both optimisers of a pair have the same momentum; sgd multiplies each rate by 1 - momentum, so that momentum does
    not lengthen its steps. `retrain` says how the derived cells are trained from random weights; `search_rates`,
    `baselines` and `refit` have no effect on a study.
    """

    momentum: Annotated[
        tuple[Rate, ...],
        OneOrMore,
        Distinct,
        about("momenta to compare (momentum of sgd, beta1 of adam); an empty list: compare strategies, not optimisers"),
    ] = ()
    weights: Annotated[Pair, OneOrMore, Field(min_length=1), Distinct, about("optimisers of the weights")] = (
        "sgd",
        "adam",
    )
    alpha: Annotated[Pair, OneOrMore, Field(min_length=1), Distinct, about("optimisers of alpha")] = ("sgd", "adam")
    backbones: Annotated[
        tuple[RecurrentKind, ...],
        OneOrMore,
        Field(min_length=1),
        Distinct,
        about("backbones to compare on; `space` gives the ops of `space.backbone`, the other has its default ops"),
    ] = ("chain", "dag")
    sgd_rates: Annotated[
        Rates, OneOrMore, Field(min_length=1), Distinct, about("rates of the weights; validation chooses for each pair")
    ] = (0.3, 1.0)
    adam_rates: Annotated[
        Rates, OneOrMore, Field(validate_default=True), Distinct, about("the same for adam, as many as for sgd")
    ] = (0.003, 0.01)
    repeats: Annotated[
        Several, about("searches of each strategy on the table of `task.replay`, with the seeds from 1 on")
    ] = 1000
    sgd_alpha_rate: Annotated[Positive, about("learning rate of alpha")] = 1.0
    adam_alpha_rate: Annotated[Positive, about("learning rate of alpha")] = 0.003

    @field_validator("adam_rates")
    @classmethod
    def _are_as_many(cls, rates: Rates, known: ValidationInfo) -> Rates:
        others = known.data.get("sgd_rates", rates)
        if len(rates) != len(others):
            raise ValueError(f"expected {len(others)} rates, as many as study.sgd_rates: the choice must be fair")
        return rates

    def rates_of(self, optimizer: str) -> Rates:
        """Return the rates to try for the weights."""
        return self.sgd_rates if optimizer == "sgd" else self.adam_rates

    def alpha_rate_of(self, optimizer: str) -> float:
        """Return the rate of alpha."""
        return self.sgd_alpha_rate if optimizer == "sgd" else self.adam_alpha_rate


class Update(Section):
    """How `grownas update` learns from new data."""

    how: Annotated[
        How,
        about(
            "state: no weight changes; continue: train on from the present weights; grow: continue, then try to grow "
            "and prune; refit: search and fit anew"
        ),
    ] = "continue"
    epochs: Annotated[Count, about("epochs of `continue`, all of them trained")] = 5
    l2_sp: Annotated[
        Rate,
        about(
            "L2-SP of `continue`: share of the distance from the weights before the update that each step takes back"
        ),
    ] = 0.03
    block: Annotated[
        Several | None,
        about(
            "rows of the validation part and of the test part, which are the last rows of a series; null: a quarter of "
            "the new rows, or 60 if the model has not learned from the last 120 rows before them"
        ),
    ] = None
    parent: Annotated[
        str | None, about("set by `grownas update`: the folder of the run before; null: not an update")
    ] = None


BacktestModel = Literal["grown", "zero", "var1", "var_robust", "har", "lstm", "gru", "fixed_size_random"]


class BacktestSection(Section):
    """How `grownas backtest` walks through the rows: block by block, each forecast first and learned then."""

    every: Annotated[Count, about("rows of a block; models are trained between two blocks")] = 21
    origin: Annotated[
        str | None, about("day of the first row that is forecast, ISO; null: the first row of the test part")
    ] = None
    models: Annotated[
        tuple[BacktestModel, ...],
        OneOrMore,
        Field(min_length=1),
        Distinct,
        about("models to compare; grown: the cell that the search finds on the rows before the first block"),
    ] = ("grown", "zero", "var1", "var_robust", "har", "lstm", "gru")
    how: Annotated[
        tuple[How, ...],
        OneOrMore,
        Field(min_length=1),
        Distinct,
        about("how the grown cell learns a block, see `update.how`; several: a model for each"),
    ] = ("continue",)
    when: Annotated[
        Literal["always", "drift"],
        about("learn after each block, or only if the losses have risen; applies to all models but the linear ones"),
    ] = "always"
    detector: Annotated[Literal["page_hinkley", "adwin"], about("finds rises of the losses, see criteria/drift.py")] = (
        "page_hinkley"
    )
    recurrent: Annotated[
        Literal["continue", "refit"],
        about(
            "how lstm, gru and fixed_size_random learn: train on, or train the first setting again from random weights"
        ),
    ] = "continue"
    holdout: Annotated[
        Several,
        about("latest rows, which judge what all models but linear ones have learned and are learned later"),
    ] = 60
    evidence: Annotated[
        Several,
        about("latest rows, forecast before they are learned, on which a model that learns is compared with one kept"),
    ] = 250
    refit_every: Annotated[Count | None, about("rows between two fits of a linear model; null: `every`")] = None
    window: Annotated[
        Several | None,
        about("latest rows that models learn from, not counting those held out; null: all rows before"),
    ] = None
    continue_window: Annotated[
        Several | None,
        about("`window` of how=continue and how=grow, whose weights remember earlier rows; null: `window`"),
    ] = None
    coverage: Annotated[
        float, Field(gt=0, lt=1), about("nominal coverage of the prediction intervals, per series and joint")
    ] = 0.9


TextModel = Literal["grown", "lstm", "gru"]


class LanguageBacktest(BacktestSection):
    """How `grownas backtest` walks through a text, in rows of 100 words."""

    every: Annotated[Count, about("rows of 100 words in a block; models are trained between two blocks")] = 500
    origin: Annotated[Count | None, about("number of the first row that is forecast; null: half of the rows")] = None  # type: ignore[assignment]  # a text has no days
    then: Annotated[
        str | None, about("a further text to walk through after that of `task.data`: a folder or a file; null: none")
    ] = None
    models: Annotated[
        tuple[TextModel, ...],
        OneOrMore,
        Field(min_length=1),
        Distinct,
        about("models to compare; grown: the cell that the search finds in the rows before the first block"),
    ] = ("grown", "lstm", "gru")
    holdout: Annotated[Several, about("latest rows, on which moves of growth are judged and new fits are stopped")] = (
        200
    )
    evidence: Annotated[
        Several,
        about("latest rows, forecast before they are learned, on which a model that learns is compared with one kept"),
    ] = 1000

    @field_validator("then")
    @classmethod
    def _from_any_folder(cls, value: str | None) -> str | None:
        """Make a path absolute, so that a backtest can be resumed from another working folder."""
        return None if value is None else os.path.abspath(os.path.expanduser(value))


class Quantise(Section):
    """Bit widths for the chosen cell, searched after it; the result is then the chosen model."""

    widths: Annotated[
        Widths,
        about("widths in bits to choose among, such as [2,3,4,6,8,12,16]; empty: no quantisation"),
    ] = ()
    per: Annotated[
        Literal["op", "node"],
        about(
            "what has widths of its own: an op, of blocks a FIR or polynomial; or a node. A node of a dag has one op"
        ),
    ] = "op"
    tie: Annotated[bool, about("the inputs of a product have the width of its weights; false: their own")] = True
    scale: Annotated[
        Literal["learnt", "percentile"],
        about("step sizes: trained with the weights (LSQ), or the percentile of least squared error throughout"),
    ] = "learnt"
    eta: Annotated[
        tuple[NonNegative, ...],
        OneOrMore,
        Field(min_length=1),
        Distinct,
        about("price on the loss of all bit operations at the largest width; several: a search for each"),
    ] = (0.03,)
    mu: Annotated[
        NonNegative, about("price on the loss of the mean entropy of the shares in nats; it rises from 0 to this")
    ] = 0.003
    epochs: Annotated[Count, about("epochs of the search")] = 30
    fine_tune_epochs: Annotated[Count, about("epochs at the widths found, and at uniform widths after `epochs`")] = 20
    rate: Annotated[Positive, about("learning rate of weights and step sizes, by adam")] = 1e-3
    alpha_rate: Annotated[Positive, about("learning rate of the architecture weights of the shares, by adam")] = 0.02
    uniform: Annotated[Widths, about("uniform widths in bits to compare with")] = (4, 6, 8, 16)
    tolerance: Annotated[
        NonNegative,
        about(
            "with several prices, the cheapest cell is chosen whose validation error is at most this share above that "
            "of the cell in real numbers; the best one if there is none. Of a metric in dB: 0.07 is 0.3 dB"
        ),
    ] = 0.01

    @field_validator("widths")
    @classmethod
    def _ascend(cls, widths: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(sorted(widths))


SECTIONS: dict[str, dict[str, type[Section]]] = {  # kind of task -> sections that replace those of `Config`
    "series": {},
    "plain": {"start": PlainStart, "baselines": PlainBaselines},
    "language": {
        "start": RandomStart,
        "retrain": LanguageRetrain,
        "baselines": LanguageBaselines,
        "backtest": LanguageBacktest,
    },
}


def with_data(task: Any, data: str) -> Any:
    """Return a task's section with other data."""
    return type(task)(**{**task.model_dump(), "data": data})


def panel_name(data: str) -> str:
    """Return the name of a panel in folders and tables: the word, or the name of the file without its ending."""
    return Path(data).stem


class Config(Section):
    """The config of a run. `task` and `strategy` hold the options of the task and strategy that their `use` names."""

    task: Any  # `config_class` makes a subclass in which this field has the section of the chosen task
    start: Start = Start()
    space: Space = Space()
    strategy: Any
    strategies: Annotated[
        tuple[Any, ...],
        OneOrMore,
        about(
            "strategies of `grownas compare`: names, or sections with `use`, and with `name` where two have the same "
            "`use`; the first is `strategy`; each has its own budget"
        ),
    ] = ()
    study: Study = Study()
    budget: BudgetSection = BudgetSection()
    search_rates: Annotated[
        tuple[Positive, ...],
        OneOrMore,
        Distinct,
        about("learning rates; the search is repeated with each, validation chooses; empty: the rate of the strategy"),
    ] = ()
    retrain: Retrain = Retrain()
    baselines: Baselines = Baselines()
    quantise: Quantise = Quantise()
    update: Update = Update()
    backtest: BacktestSection = BacktestSection()
    refit: Annotated[
        bool, about("refit all models on training + validation data before they are scored on the test part")
    ] = False
    seed: Annotated[Whole, about("seed of weights, noise and data order")] = 1
    seeds: Annotated[Seeds, about("seeds of `grownas compare`, one run each")] = (1, 2, 3, 4, 5)
    panels: Annotated[
        Count | Panels | None,
        about(
            "number of sub-panels of `grownas compare`, one run each with `seed`; or a list of values of `task.data`, "
            "one run each for each of `seeds`; null: compare over `seeds`"
        ),
    ] = None
    workers: Annotated[
        Count | None,
        about(
            "parallel runs of `grownas compare`, null: one per core, or per thread of dask's workers; models that "
            "`grownas backtest` walks with at the same time, each in a process, null: one after the other in this one"
        ),
    ] = None
    cluster: Annotated[
        str,
        about(
            "where `grownas compare` runs, and the `trial_workers` of a search: processes, in_process (one after "
            "another), or the address of a dask scheduler such as tcp://scheduler:8786 (tls://: with the certificates "
            "of dask's own config, distributed.comm.tls)"
        ),
    ] = "processes"
    trial_workers: Annotated[
        Count | None,
        about(
            "processes that train genotypes of one search at once, where a strategy trains each on its own; on the "
            "workers of `cluster` if it is an address; 1: the search trains them itself; null: one per core, or per "
            "thread of dask's workers"
        ),
    ] = 1
    worker_timeout: Annotated[
        Positive,
        about(
            "a run whose folder shows no sign of life for so many seconds, or a trial that ends no epoch, is killed "
            "and tried again"
        ),
    ] = 3600.0
    threads: Annotated[
        Count,
        Field(le=MOST_THREADS),
        about("PyTorch threads per process; they may change the last digits of results"),
    ] = 1
    device: Annotated[Literal["cpu", "cuda"], about("device on which models are trained")] = "cpu"
    bf16: Annotated[bool, about("train under autocast in bfloat16, except for the steps of alpha")] = False
    backend: Annotated[
        Backend, about("implementation that runs the cells; auto: the fastest that supports cell and device")
    ] = "auto"
    runs: Annotated[str, about("folder in which run folders are created")] = "runs"
    name: Annotated[str | None, about("name of the run folder; null: task, command or strategy, and seed")] = None
    quiet: Annotated[bool, about("show no progress and print no results")] = False
    checkpoint_seconds: Annotated[NonNegative, about("seconds between two snapshots of a training")] = 30.0

    @field_validator("panels")
    @classmethod
    def _are_data_of_the_task(cls, panels: int | Panels | None, known: ValidationInfo) -> int | Panels | None:
        """Read each panel of a list as `task.data`, which makes paths absolute."""
        task = known.data.get("task")
        if task is None or not isinstance(panels, tuple):
            return panels
        if task.KIND != "series" or "data" not in type(task).model_fields:
            raise ValueError(f"{task.use} has no panels; set panels=null")
        try:
            data = tuple(with_data(task, one).data for one in panels)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"task.{first['loc'][0]} {first['msg'].removeprefix('Value error, ')}") from error
        distinct(tuple(map(panel_name, data)))  # they name folders
        return data

    @field_validator("cluster")
    @classmethod
    def _is_a_place(cls, cluster: str) -> str:
        if cluster not in PLACES and not re.fullmatch(r"[a-z]+://\S+", cluster):
            raise ValueError(f"expected {', '.join(PLACES)}, or an address such as tcp://scheduler:8786")
        return cluster

    @field_validator("name")
    @classmethod
    def _is_one_folder(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip(". ") or Path(name).name != name or "\0" in name):
            raise ValueError("expected the name of a single folder (runs=DIR sets its parent)")
        return name

    @property
    def is_study(self) -> bool:
        """Whether `grownas compare` makes a study."""
        return bool(self.study.momentum) or self.task.table is not None

    def folder_name(self, command: str, what: str | None = None) -> str:
        """Return the name of the run folder; by default it is made of task, strategy, command and seed.

        Args:
            command: `search`, `compare`, `train`, `update` or `backtest`.
            what: the baseline that `train` trains; None for a cell.
        """
        task, strategy = self.task.use, self.strategy.row
        names = {
            "search": f"{task}-{strategy}-{self.seed}",
            "compare": f"{task}-{strategy}-compare",
            "train": f"{task}-train-{what or 'cell'}-{self.seed}",
            "update": f"{task}-{self.update.how}-{self.seed}",
            "backtest": f"{task}-{strategy}-backtest-{self.seed}",
        }
        return self.name or names[command]

    def dump(self, notes: Mapping[str, Any]) -> str:
        """Return YAML with every key, defaults included, followed by notes such as versions."""
        tree = json.loads(self.model_dump_json())
        return yaml.safe_dump({**tree, **notes}, sort_keys=False, width=120)

    def fingerprint(self) -> str:
        """Return a checksum of all keys that affect the result, so not of output folders or speed."""
        tree = json.loads(self.model_dump_json(exclude=set(WHERE_AND_HOW)))
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
