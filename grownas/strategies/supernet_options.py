"""The options of the strategies that train a supernet by gradients. The module imports no heavy package."""

from __future__ import annotations

from typing import Annotated, Literal

from grownas.config.schema import (
    Count,
    NonNegative,
    OneOrMore,
    Optimizer,
    Positive,
    Rate,
    SearchWeights,
    StrategySection,
    Whole,
    about,
)

BACK = 4  # epochs between the two eigenvalues that R-DARTS compares; also how far its search goes back


class Alpha(Optimizer):
    """The optimiser of alpha, with the published defaults of DARTS."""

    rate: Positive = 3e-3
    weight_decay: Annotated[NonNegative, about("decoupled for adam, else L2")] = 1e-3


class SupernetSection(StrategySection):
    """The common options of these strategies."""

    max_epochs: Annotated[Count, about("most epochs of the supernet's training")] = 200
    patience: Annotated[
        Count | None,
        about("epochs without a lower validation loss before training stops; null: train all epochs and use the last"),
    ] = 8
    unit_epochs: Annotated[Count, about("epochs per unit of work; the budget is checked after each unit")] = 5
    weights: SearchWeights = SearchWeights()
    alpha: Alpha = Alpha()
    alpha_sd: Annotated[NonNegative, about("standard deviation of the initial alpha")] = 1e-3
    top_k: Annotated[Count, about("ops kept per node of a chain; a node of a DAG keeps one edge with one op")] = 1
    readout: Annotated[
        Literal["share", "ablation"],
        about("ops to keep: largest shares, or largest validation loss without the op, with tuning after each removal"),
    ] = "share"
    tune_epochs: Annotated[Count, about("epochs of the supernet after each removal, with readout=ablation")] = 1
    fine_tune_epochs: Annotated[Whole, about("epochs of the derived cell, starting from the supernet's weights")] = 50
    follow_hessian_windows: Annotated[
        Whole,
        about(
            "after each unit also compute the dominant eigenvalue of the Hessian in alpha, over so many windows of "
            "alpha's data, outside the budget; 0: do not"
        ),
    ] = 0
    follow_cell_epochs: Annotated[
        Whole,
        about("after each unit also read out a cell and train it for so many epochs, outside the budget; 0: do not"),
    ] = 0


class ScheduledSection(SupernetSection):
    """The options of strategies with a schedule over all epochs: none stops it early."""

    max_epochs: Annotated[Count, about("epochs of the supernet's training, over which the schedule runs")] = 60
    patience: Annotated[
        Count | None,
        about("epochs without a lower validation loss before training stops; null: train all epochs and use the last"),
    ] = None


class DartsOptions(SupernetSection):
    """The options of DARTS."""

    use: Literal["darts"] = "darts"
    order: Annotated[
        Literal["first", "second"], about("order of alpha's gradient; second: through one step of the weights")
    ] = "first"


class GaeaOptions(SupernetSection):
    """The options of GAEA. The section `alpha` is not used."""

    use: Literal["gaea"] = "gaea"
    share_rate: Annotated[Positive, about("learning rate of the shares")] = 0.1
    alpha_sd: Annotated[NonNegative, about("standard deviation of alpha at the start; 0: uniform shares")] = 0.0


class PerturbedSection(ScheduledSection):
    """The options of both kinds of SDARTS."""

    perturb_from: Annotated[NonNegative, about("largest change of a share in the first step")] = 0.03
    perturb_to: Annotated[NonNegative, about("largest change of a share after `max_epochs`; linear in between")] = 0.3


class SdartsRandomOptions(PerturbedSection):
    """The options of SDARTS-RS."""

    use: Literal["sdarts_rs"] = "sdarts_rs"


class SdartsAdversarialOptions(PerturbedSection):
    """The options of SDARTS-ADV."""

    use: Literal["sdarts_adv"] = "sdarts_adv"


class MinusAlpha(Alpha):
    """The optimiser of alpha with the published defaults, except that Adam's betas are the defaults of PyTorch.

    Published: beta1 0.5 (`momentum: 0.5`), beta2 0.999.
    """

    rate: Positive = 3e-4


class DartsMinusOptions(ScheduledSection):
    """The options of DARTS-."""

    use: Literal["darts_minus"] = "darts_minus"
    skip: Annotated[NonNegative, about("first factor on the input that is added to each mixture")] = 0.5
    alpha: MinusAlpha = MinusAlpha()


class StrongerWeights(SearchWeights):
    """The weights' optimiser; its weight decay is twice that of the other strategies."""

    weight_decay: Annotated[NonNegative, about("decoupled for adam, else L2")] = 1.0


class RDartsOptions(SupernetSection):
    """The options of R-DARTS."""

    use: Literal["rdarts"] = "rdarts"
    weights: StrongerWeights = StrongerWeights()
    unit_epochs: Annotated[Literal[1], about("the eigenvalue is computed after each epoch")] = 1
    ratio: Annotated[Positive, about(f"rise of the eigenvalue within {BACK} epochs that stops the search")] = 1.3
    first_epoch: Annotated[Count, about("first epoch after which the search may stop; published: 10 of 50")] = 40
    hessian_windows: Annotated[Count, about("windows of alpha's data over which the Hessian is averaged")] = 4


class SlowAlpha(Alpha):
    """The optimiser of alpha as published for P-DARTS and CDARTS, except that Adam's betas are those of PyTorch."""

    rate: Positive = 6e-4


class PDartsOptions(SupernetSection):
    """The options of P-DARTS."""

    use: Literal["pdarts"] = "pdarts"
    kept_ops: Annotated[
        tuple[Count, ...],
        OneOrMore,
        about("of each node in each stage; in proportion where the space has another number than the first of them"),
    ] = (8, 5, 3)
    dropouts: Annotated[
        tuple[Rate, ...],
        OneOrMore,
        about("probability in each stage that a step of the weights is without an identity op; it falls to 0"),
    ] = (0.0, 0.4, 0.7)
    stage_nodes: Annotated[
        tuple[Count, ...] | None, about("nodes of each stage's supernet; null: in equal steps to `max_nodes`")
    ] = None
    max_epochs: Annotated[Count, about("of each stage's training")] = 60
    patience: Annotated[
        Count | None, about("epochs without a lower validation loss before a stage ends; null: all epochs")
    ] = None
    frozen: Annotated[Rate, about("part of a stage's epochs, its first, in which alpha does not learn")] = 0.4
    alpha: SlowAlpha = SlowAlpha()


class CDartsOptions(SupernetSection):
    """The options of CDARTS."""

    use: Literal["cdarts"] = "cdarts"
    unit_epochs: Annotated[Count, about("of the supernet in each round, after which the cell is read out")] = 5
    evaluation_epochs: Annotated[Count, about("of the cell that is read out, in each round")] = 5
    alpha: SlowAlpha = SlowAlpha()
    distillation: Annotated[NonNegative, about("weight of the distance between the predictions of the two")] = 1.0
    temperature: Annotated[Positive, about("by which logits are divided in that distance; of texts")] = 2.0
