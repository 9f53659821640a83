"""The sections of a config, key by key, with meaning and unit (see `Config`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from grownas.config.schema import (
    Count,
    Distinct,
    Names,
    NonNegative,
    OneOrMore,
    Positive,
    Rate,
    Section,
    Share,
    WeightOptimizer,
    Whole,
    about,
)

WHERE_AND_HOW = (
    "runs",
    "name",
    "quiet",
    "workers",
    "checkpoint_seconds",
    "seeds",
    "panels",
    "strategies",
)  # do not change a result


Combine = Literal["add", "hadamard"]
Backend = Literal["auto", "native", "torch", "triton", "reference"]
BackboneKind = Literal["chain", "dag"]
OF_A_DAG = {"combine": [], "activation": ["none", "tanh", "relu", "sigmoid", "identity"]}  # instead of the defaults
Sizes = Annotated[tuple[Count, ...], OneOrMore, Field(min_length=1), Distinct]
Seeds = Annotated[tuple[Whole, ...], OneOrMore, Field(min_length=1), Distinct]


class Start(Section):
    """Where growth begins."""

    use: Annotated[Literal["var", "random"], about("a fitted VAR, or random weights")] = "var"
    rule: Annotated[
        Literal["combined", "single"],
        about("a sum of a VAR of order 1 or 2 and one with exponential averages, weighted by folds; or one VAR"),
    ] = "combined"
    nodes: Annotated[Count, about("of the start")] = 1
    carrier_share: Annotated[Share, about("of the identity op that carries the VAR in each node of the start")] = 0.5
    max_order: Annotated[Count, about("highest VAR order that blocked folds try for `single` and `var_robust`")] = 10


class Space(Section):
    """Which cells are allowed."""

    backbone: Annotated[BackboneKind, about("the chain of two-input nodes, or the DAG of DARTS' recurrent cell")] = (
        "chain"
    )
    combine: Annotated[tuple[Combine, ...], OneOrMore, Distinct, about("of a chain; a dag has none")] = (
        "add",
        "hadamard",
    )
    activation: Annotated[
        Names, Field(min_length=1), about("of a dag also `none`, by default none, tanh, relu, sigmoid, identity")
    ] = ("identity", "tanh", "sigmoid", "relu")
    hidden_size: Annotated[Count | Literal["auto"], about("units; auto: by the order of the start")] = "auto"
    highway: Annotated[bool, about("a gate around each node")] = False
    share_projection: Annotated[bool, about("ops of a node with the same combine share their projection")] = False
    norm: Annotated[bool, about("batch norm on the states of a dag's supernet; its derived cell has none")] = False

    @model_validator(mode="before")
    @classmethod
    def _with_a_dags_defaults(cls, given: Any) -> Any:
        is_dag = isinstance(given, Mapping) and given.get("backbone") == "dag"
        return {**OF_A_DAG, **given} if is_dag else given

    @field_validator("combine")
    @classmethod
    def _is_of_the_backbone(cls, combine: tuple[str, ...], known: ValidationInfo) -> tuple[str, ...]:
        if known.data.get("backbone") == "chain" and not combine:
            raise ValueError("expected at least 1 of them")
        return combine

    @field_validator("norm")
    @classmethod
    def _is_of_a_dag(cls, norm: bool, known: ValidationInfo) -> bool:
        if norm and known.data.get("backbone") == "chain":
            raise ValueError("expected false with space.backbone=chain, whose states are not normalised")
        return norm


class BudgetSection(Section):
    """What a search may spend; in `grownas compare` further strategies get the first one's steps if all are null."""

    steps: Annotated[Count | None, about("weight steps of all trainings of the search")] = None
    seconds: Annotated[Positive | None, about("of work; no new unit of work begins after it")] = None
    genotypes: Annotated[Count | None, about("that are trained")] = None


class Retrain(WeightOptimizer):
    """The budget of every model that is trained from random weights."""

    grown: Annotated[bool, about("train the cell found anew, too")] = True
    epochs: Annotated[Count, about("at most; far above what patience allows")] = 1000
    patience: Annotated[Count, about("epochs without a lower validation loss before training ends")] = 12


class Halving(Section):
    """Successive halving, which chooses a model's setting on validation (see `experiments.common.Halving`)."""

    first_epochs: Annotated[
        Count, about("that every size, loss and weight decay is trained for, with the highest rate")
    ] = 20
    reduction_factor: Annotated[
        Count, Field(ge=2), about("of these one in so many goes on, for as many times the epochs")
    ] = 3
    finalists: Annotated[Count, about("of these that are trained until patience runs out, with every rate")] = 1


class PlainBaselines(Section):
    """What the cell that was found is compared with."""

    use: Annotated[Names, about("of `grownas search`")] = ("lstm", "gru")
    compare: Annotated[Names, about("further ones of `grownas compare`")] = ()
    hidden_sizes: Annotated[Sizes, about("and the one that gives the grown cell's number of parameters")] = (8, 16, 32)
    rates: Annotated[
        tuple[Positive, ...], OneOrMore, Distinct, about("of the weights; an empty list: `retrain.rate`")
    ] = (0.001, 0.003, 0.01)
    weight_decays: Annotated[
        tuple[NonNegative, ...], OneOrMore, Distinct, about("an empty list: `retrain.weight_decay`")
    ] = (0.0, 1.0)
    halving: Halving = Halving()


class Baselines(PlainBaselines):
    """What the cell that was found is compared with."""

    use: Annotated[Names, about("of `grownas search`")] = ("zero", "var1", "var", "var_robust", "har", "lstm", "gru")
    compare: Annotated[Names, about("further ones of `grownas compare`")] = (
        "gru_var",
        "fixed_size_random",
        "sizes",
    )
    losses: Annotated[Names, Field(min_length=1)] = ("squared", "huber")


class RandomStart(Section):
    """Where a search begins: at random weights."""

    nodes: Annotated[Count, about("of the start")] = 1


class Grid(Section):
    """Settings that every kind of model is tried with, all combinations; an empty list: as the config says."""

    rate: Annotated[tuple[Positive, ...], OneOrMore, Distinct, about("of the weights")] = ()
    gain: Annotated[tuple[Positive, ...], OneOrMore, Distinct, about("`task.gain`")] = ()
    dropout: Annotated[
        tuple[Rate, ...], OneOrMore, Distinct, about("`task.dropout_input` and `task.dropout_output`")
    ] = ()


class LanguageBaselines(Section):
    """What a grown language model is compared with; all have its number of parameters."""

    use: Annotated[Names, about("of `grownas search`")] = ("lstm", "gru")
    compare: Annotated[Names, about("further ones of `grownas compare`")] = ()
    grid: Grid = Grid()


class LanguageRetrain(Retrain):
    """The budget of every language model that is trained from random weights."""

    epochs: Annotated[Count, about("at most")] = 200
    layers: Annotated[
        Count, about("of cells one on another, for the cell trained anew and every baseline; a search has 1")
    ] = 1


SECTIONS: dict[str, dict[str, type[Section]]] = {  # by a task's kind, instead of the config's own
    "series": {},
    "plain": {"start": RandomStart, "baselines": PlainBaselines},
    "language": {"start": RandomStart, "retrain": LanguageRetrain, "baselines": LanguageBaselines},
}


class Config(Section):
    """A whole run. `task` holds the task's own options, `use` among them."""

    task: Any
    start: Start = Start()
    space: Space = Space()
    strategy: Any
    strategies: Annotated[
        tuple[Any, ...],
        OneOrMore,
        about("of `grownas compare`: names, or sections with `use`; the first is `strategy`; each has its budget"),
    ] = ()
    budget: BudgetSection = BudgetSection()
    retrain: Retrain = Retrain()
    baselines: Baselines = Baselines()
    refit: Annotated[bool, about("fit all models on training + validation data before the test part is read")] = False
    seed: Annotated[Whole, about("of weights, noise and data order")] = 1
    seeds: Annotated[Seeds, about("of `grownas compare`")] = (1, 2, 3, 4, 5)
    panels: Annotated[
        Count | None, about("sub-panels of `grownas compare`, each a run with `seed`; null: compare over `seeds`")
    ] = None
    workers: Annotated[Count | None, about("processes of `grownas compare`; null: one a core")] = None
    threads: Annotated[Count, about("of torch, in each process; last digits may change with them")] = 1
    device: Annotated[Literal["cpu", "cuda"], about("where models are trained")] = "cpu"
    bf16: Annotated[bool, about("train under autocast in bfloat16, but for alpha's own steps")] = False
    backend: Annotated[Backend, about("what runs the cells; auto: the fastest that can")] = "auto"
    runs: Annotated[str, about("where run folders go")] = "runs"
    name: Annotated[str | None, about("of the run folder; null: task, what is done, and seed")] = None
    quiet: Annotated[bool, about("show no progress and print no results")] = False
    checkpoint_seconds: Annotated[NonNegative, about("between snapshots of a fit")] = 30.0

    @field_validator("name")
    @classmethod
    def _is_one_folder(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip(". ") or Path(name).name != name or "\0" in name):
            raise ValueError("expected the name of one folder (runs=DIR sets the place)")
        return name

    def folder_name(self, command: str, what: str | None = None) -> str:
        """Return the name of the run folder; by default it says which command made it, and from what.

        Args:
            command: `search`, `compare` or `train`.
            what: the baseline that `train` trains; None for a cell.
        """
        task, strategy = self.task.use, self.strategy.use
        names = {
            "search": f"{task}-{strategy}-{self.seed}",
            "compare": f"{task}-{strategy}-compare",
            "train": f"{task}-train-{what or 'cell'}-{self.seed}",
        }
        return self.name or names[command]

    def dump(self, notes: Mapping[str, Any]) -> str:
        """Return YAML with every default written out, and notes such as versions at its end."""
        tree = json.loads(self.model_dump_json())
        return yaml.safe_dump({**tree, **notes}, sort_keys=False, width=120)

    def fingerprint(self) -> str:
        """Return a checksum of all that fixes the result: where it is written and how fast it runs do not."""
        tree = json.loads(self.model_dump_json(exclude=set(WHERE_AND_HOW)))
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
