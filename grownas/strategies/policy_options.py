"""The options of strategies that sample genotypes by a policy. The module imports no heavy package."""

from __future__ import annotations

from typing import Annotated, Literal

from grownas.config.schema import Count, NonNegative, Positive, Rate, Section, about
from grownas.strategies.sampling_options import SamplingSection
from grownas.strategies.shared_options import SharedSection


class PolicySection(Section):
    """The policy and how it learns, as published for ENAS but for the rate."""

    units: Annotated[Count, about("units of the policy's LSTM")] = 64
    init: Annotated[Positive, about("largest weight of the policy at the start")] = 0.01
    temperature: Annotated[Positive, about("logits are divided by it before the tanh")] = 5.0
    tanh_constant: Annotated[Positive, about("largest size of a logit: the factor on the tanh")] = 2.25
    rate: Annotated[Positive, about("learning rate of Adam")] = 1e-3
    entropy: Annotated[NonNegative, about("weight of the policy's entropy in the reward")] = 1e-5
    baseline_decay: Annotated[Rate, about("decay of the moving average of rewards that is subtracted")] = 0.999


class EnasOptions(SharedSection):
    """The options of ENAS."""

    use: Literal["enas"] = "enas"
    policy: PolicySection = PolicySection()
    policy_updates: Annotated[Count, about("updates of the policy in each unit, after the weights' epochs")] = 25
    policy_samples: Annotated[Count, about("genotypes per update of the policy")] = 10


class NasRlPolicy(PolicySection):
    """The policy of NAS-RL: few children, so that it learns faster from each."""

    rate: Annotated[Positive, about("learning rate of Adam")] = 1e-2
    entropy: Annotated[NonNegative, about("weight of the policy's entropy in the reward")] = 1e-3
    baseline_decay: Annotated[Rate, about("decay of the moving average of rewards that is subtracted")] = 0.9


class NasRlOptions(SamplingSection):
    """The options of NAS-RL."""

    use: Literal["nas_rl"] = "nas_rl"
    policy: NasRlPolicy = NasRlPolicy()
    batch: Annotated[Count, about("children per update of the policy, which may be trained at once")] = 1
