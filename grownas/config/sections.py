"""The sections of a config, key by key, with meaning and unit (see `Config`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator

from grownas.config.schema import (
    Count,
    Distinct,
    NonNegative,
    Number,
    OneOrMore,
    Positive,
    Rate,
    Section,
    Share,
    Whole,
    about,
)

WHERE_AND_HOW = ("runs", "name", "quiet", "workers", "checkpoint_seconds", "seeds", "panels")  # do not change a result


Combine = Literal["add", "hadamard"]
Backend = Literal["auto", "native", "torch", "triton", "reference"]
Names = Annotated[tuple[str, ...], OneOrMore, Distinct]
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
    max_order: Annotated[Count, about("highest VAR order that blocked folds try for `single` and `var_robust`")] = 10


class Space(Section):
    """Which cells are allowed."""

    combine: Annotated[tuple[Combine, ...], OneOrMore, Field(min_length=1), Distinct] = ("add", "hadamard")
    activation: Annotated[Names, Field(min_length=1)] = ("identity", "tanh", "sigmoid", "relu")
    hidden_size: Annotated[Count | Literal["auto"], about("units; auto: by the order of the start")] = "auto"
    highway: Annotated[bool, about("a gate around each node")] = False
    share_projection: Annotated[bool, about("ops of a node with the same combine share their projection")] = False


class Optimizer(Section):
    """One optimiser."""

    optimizer: Annotated[
        Literal["adam", "sgd", "nt_asgd"],
        about("nt_asgd: SGD whose weights are averaged once validation stops falling"),
    ] = "adam"
    rate: Positive = 1e-3
    momentum: Annotated[Number, Field(ge=0, lt=1), about("of sgd")] = 0.9
    weight_decay: Annotated[NonNegative, about("decoupled for adam, else L2")] = 0.0


class WeightOptimizer(Optimizer):
    """The weights' optimiser."""

    clip: Annotated[Positive, about("largest gradient norm")] = 1.0
    warm_up: Annotated[Whole, about("steps over which the rates rise")] = 0
    decay: Annotated[Literal["none", "linear"], about("of the rates, to 0 over all epochs that are allowed")] = "none"
    average: Annotated[
        Number,
        Field(ge=0, lt=1),
        about("decay of a moving average of the weights, which is evaluated and kept; 0: none"),
    ] = 0.0
    non_monotone: Annotated[
        Count, about("of nt_asgd: epochs back, before which a lower validation loss begins the averaging")
    ] = 5


class GrowthOptimizer(WeightOptimizer):
    """The weights' optimiser in growth."""

    rate: Positive = 5e-3
    weight_decay: Annotated[NonNegative, about("decoupled for adam, else L2")] = 0.5


class Splitting(Section):
    """How ops are chosen to be split."""

    rule: Annotated[
        Literal["neg_sum", "neg_count"], about("largest predicted fall of the loss, or most units that gain")
    ] = "neg_sum"
    count: Annotated[Count, about("ops that are split at once")] = 1
    part: Annotated[Literal["train", "val"], about("data of which the loss is to fall")] = "train"
    curvature: Annotated[Literal["exact", "softplus"], about("of relu: none, or softplus's")] = "exact"


class Growing(Section):
    """Growth (see `strategies.stage.Growth`)."""

    use: Literal["growing"] = "growing"
    max_epochs: Annotated[Count, about("of a stage")] = 200
    first_epochs: Annotated[
        Count | None, about("of the first stage, before a node is added; null: until its patience ends")
    ] = 10
    later_epochs: Annotated[
        Count | None, about("of every stage but the first, which share a decay with it; null: as many")
    ] = None
    patience: Annotated[Count, about("epochs without a lower validation loss before a stage ends")] = 8
    mode: Annotated[
        Literal["nodes", "ops_duplicate", "ops_split", "nodes_and_ops"], about("what a stage may begin with")
    ] = "nodes"
    choice: Annotated[
        Literal["criteria", "random"], about("how the move is chosen; random: the control for the criteria")
    ] = "criteria"
    trial_epochs: Annotated[Count, about("each kind of move is tried for, where there are several")] = 5
    bilevel: Annotated[Literal["joint", "first", "second"], about("how alpha learns")] = "joint"
    architecture_share: Annotated[Share, about("of the training part, for alpha, unless joint")] = 0.2
    weights: GrowthOptimizer = GrowthOptimizer()
    alpha: Optimizer = Optimizer()
    pull: Annotated[
        tuple[NonNegative, ...], OneOrMore, Field(min_length=1), Distinct, about("towards the start; tried in order")
    ] = (0.0,)
    judge: Annotated[Literal["significant", "better"], about("of a stage, by its validation losses")] = "significant"
    threshold: Annotated[NonNegative, about("least t of `significant`")] = 1.645
    origins: Annotated[
        Literal[1, 3, 5],
        about("validation blocks that judge the first stage; above 1 it is repeated at earlier points in time"),
    ] = 3
    guard: Annotated[bool, about("accept only what does not raise the mean training loss either")] = True
    outer_patience: Annotated[
        Count, about("moves of a kind that are not accepted before it is given up; growth ends when all kinds are")
    ] = 1
    max_nodes: Count = 3
    max_ops: Annotated[Count | None, about("of a node")] = 16
    max_params: Count | None = None
    max_seconds: Annotated[Positive | None, about("no new stage begins after it")] = None
    nodes_at_once: Annotated[Count, about("that a stage adds, one behind the other")] = 2
    birth: Annotated[
        Literal["blend", "drawn", "carrier"],
        about("of a node: mixed in from 0 to 1, put in at once, or with an identity that stays"),
    ] = "blend"
    blend_steps: Annotated[Whole, about("weight steps in which a node is mixed in")] = 90
    candidates: Annotated[
        Count, Field(le=8), about("nodes drawn at each position, the steepest of which is blended in")
    ] = 1
    carrier_share: Annotated[Share, about("of a carrier")] = 0.5
    noise: Annotated[
        NonNegative,
        about("sd on new weights: a node's, a copy's, the start's silent ops'; in units of 1 / sqrt(hidden size)"),
    ] = 0.4
    new_rate: Annotated[Positive, about("factor on `weights.rate` for a new node's weights")] = 1.0
    old_rate: Annotated[Positive, about("and for all others in a stage with a new node; alpha keeps its own")] = 1.0
    position: Annotated[
        Literal["first", "middle", "last", "best"], about("where a node is inserted; best: by first-order gain")
    ] = "last"
    splitting: Splitting = Splitting()
    grow_threshold: Annotated[
        Number, Field(gt=0, le=1), about("ops with a larger share are duplicated, in the modes that do so")
    ] = 0.2
    prune: Annotated[Literal["none", "each_stage", "at_end"], about("when small ops are removed")] = "at_end"
    prune_threshold: Annotated[Number, Field(ge=0, lt=1), about("ops with a smaller share go")] = 0.05
    smoothing: Annotated[
        Number, Field(gt=0, le=1), about("weight of an epoch's shares in the smoothed ones; 1: none is smoothed")
    ] = 0.3
    hysteresis: Annotated[
        Number, Field(ge=0, lt=1), about("part of a threshold by which a share must come back to count as within")
    ] = 0.2
    min_age: Annotated[Whole, about("epochs that an op is trained before it is duplicated or pruned")] = 5
    top_k: Annotated[Count | None, about("ops a node keeps at most, where there is pruning")] = None
    readout: Annotated[
        Literal["share", "ablation"], about("which ops `top_k` keeps: the largest, or those most missed on validation")
    ] = "share"
    replace: Annotated[
        Literal["none", "uniform", "missing"],
        about("what takes a pruned op's place: nothing, or one drawn from all ops or from those the node lacks"),
    ] = "none"
    restarts: Annotated[
        Whole,
        about(
            "stages at the end, each with every node's smallest op drawn anew (from all ops, unless `replace`: missing)"
        ),
    ] = 0
    fine_tune_epochs: Annotated[Count, about("after a pruning, at most")] = 50


class Retrain(WeightOptimizer):
    """The budget of every model that is trained from random weights."""

    grown: Annotated[bool, about("train the cell found anew, too")] = True
    epochs: Annotated[Count, about("at most; far above what patience allows")] = 1000
    patience: Annotated[Count, about("epochs without a lower validation loss before training ends")] = 12


class Halving(Section):
    """Successive halving, which chooses a model's setting on validation (see `contests.common.Halving`)."""

    first_epochs: Annotated[
        Count, about("that every size, loss and weight decay is trained for, with the highest rate")
    ] = 20
    reduction_factor: Annotated[
        Count, Field(ge=2), about("of these one in so many goes on, for as many times the epochs")
    ] = 3
    finalists: Annotated[Count, about("of these that are trained until patience runs out, with every rate")] = 1


class Baselines(Section):
    """What the grown cell is compared with."""

    use: Annotated[Names, about("of `grownas search`")] = ("zero", "var1", "var", "var_robust", "har", "lstm", "gru")
    compare: Annotated[Names, about("further ones of `grownas compare`")] = (
        "gru_var",
        "random",
        "fixed_size_random",
        "sizes",
    )
    hidden_sizes: Annotated[Sizes, about("and the one that gives the grown cell's number of parameters")] = (8, 16, 32)
    losses: Annotated[Names, Field(min_length=1)] = ("squared", "huber")
    rates: Annotated[
        tuple[Positive, ...], OneOrMore, Distinct, about("of the weights; an empty list: `retrain.rate`")
    ] = (0.001, 0.003, 0.01)
    weight_decays: Annotated[
        tuple[NonNegative, ...], OneOrMore, Distinct, about("an empty list: `retrain.weight_decay`")
    ] = (0.0, 1.0)
    halving: Halving = Halving()


class LanguageStart(Section):
    """Where growth of a language model begins: at random weights."""

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
    compare: Annotated[Names, about("further ones of `grownas compare`")] = ("random",)
    grid: Grid = Grid()


class LanguageRetrain(Retrain):
    """The budget of every language model that is trained from random weights."""

    epochs: Annotated[Count, about("at most")] = 200
    layers: Annotated[
        Count, about("of cells one on another, for the cell trained anew and every baseline but `random`; growth has 1")
    ] = 1


SECTIONS: dict[str, dict[str, type[Section]]] = {  # by a task's kind, instead of the config's own
    "series": {},
    "language": {"start": LanguageStart, "retrain": LanguageRetrain, "baselines": LanguageBaselines},
}


class Config(Section):
    """A whole run. `task` holds the task's own options, `use` among them."""

    task: Any
    start: Start = Start()
    space: Space = Space()
    strategy: Growing = Growing()
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
