"""Optimiser state across a morphism: surviving weights never notice, new ones start clean."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grownas import morphisms
from grownas.backbone import Backbone
from grownas.migrate import migrate
from grownas.ops import DEFAULT_OPS

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95)),
    "adam, L2, amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "sgd, momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "sgd, nesterov, L2": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
}


class Model(nn.Module):
    """A core and a readout, as tasks make them."""

    def __init__(self, core):
        super().__init__()
        self.core, self.readout = core, nn.Linear(core.hidden_size, 2).to(core.alpha[0])


def groups_of(model, *, divided):
    """What an optimiser is made of: one group, or the second node in a group with a rate of its own."""
    named = list(model.named_parameters())
    second = [p for name, p in named if name.startswith("core.nodes.1.")]
    rest = [p for name, p in named if not name.startswith("core.nodes.1.")]
    return [{"params": rest}, {"params": second, "lr": 0.03}] if divided else [{"params": [*rest, *second]}]


def rates_of(model, optimizer):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"] if p.numel()}


def make(ops=(DEFAULT_OPS, DEFAULT_OPS[:3]), seed=0, **switches):
    generator = torch.Generator().manual_seed(seed)
    return Model(Backbone.from_ops(2, 3, [list(node) for node in ops], generator=generator, **switches).double())


def step(model, optimizer, gradients):
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    optimizer.step()


def random_gradients(model, generator):
    return {
        name: torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        for name, parameter in model.named_parameters()
    }


def carried_over(gradients, origins, model, generator, prefix="core."):
    """Gradients of the new model that say the same as the old model's; random where a weight is new."""
    found = random_gradients(model, generator)
    for name, gradient in found.items():
        if not name.startswith(prefix):
            gradient.copy_(gradients[name])
        for piece in origins.get(name.removeprefix(prefix), []) if name.startswith(prefix) else []:
            gradient[piece.into] = piece.scale * gradients[prefix + piece.source][piece.index]
    return found


def grow(model, morph):
    """Return the model with its core morphed, and the origins."""
    grown = copy.deepcopy(model)
    grown.core, origins = morph(model.core)
    return grown, origins


def pairs(model, grown, origins):
    """Yield name, new part and old part (parameter, index) for every surviving weight."""
    old = dict(model.named_parameters())
    for name, parameter in grown.named_parameters():
        if not name.startswith("core."):
            yield name, (parameter, ...), (old[name], ...), 1.0
        for piece in origins.get(name.removeprefix("core."), []) if name.startswith("core.") else []:
            yield name, (parameter, piece.into), (old[f"core.{piece.source}"], piece.index), piece.scale


def same_state(one, other):
    assert set(one) == set(other)
    return all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )


@pytest.mark.parametrize("kind", OPTIMIZERS)
@settings(deadline=None, max_examples=6)
@given(
    position=st.integers(0, 2), before=st.integers(0, 3), after=st.integers(1, 3), seed=st.integers(0, 99),
    switches=st.fixed_dictionaries({"highway": st.booleans(), "share_projection": st.booleans()}),
    divided=st.booleans(),
)  # fmt: skip
def test_surviving_weights_move_as_if_no_node_had_been_added(kind, position, before, after, seed, switches, divided):
    """Bit for bit, given equal gradients: nothing reads across parameters, and each keeps its group's rate."""
    generator = torch.Generator().manual_seed(seed)
    model = make(**switches, seed=seed)
    optimizer = OPTIMIZERS[kind](groups_of(model, divided=divided))
    for _ in range(before):
        step(model, optimizer, random_gradients(model, generator))
    grown, origins = grow(model, lambda core: morphisms.add_node(core, position, generator=generator))
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    for _ in range(after):
        gradients = random_gradients(model, generator)
        step(grown, migrated, carried_over(gradients, origins, grown, generator))
        step(model, optimizer, gradients)
    count = 0
    for _, (new, into), (old, index), _ in pairs(model, grown, origins):
        assert torch.equal(new[into], old[index])
        count += 1
    assert count == len(list(model.parameters()))


@pytest.mark.parametrize("kind", OPTIMIZERS)
@settings(deadline=None, max_examples=6)
@given(
    op=st.integers(0, 7), before=st.integers(1, 3), seed=st.integers(0, 99),
    switches=st.fixed_dictionaries({"highway": st.booleans(), "share_projection": st.booleans()}),
    divided=st.booleans(),
)  # fmt: skip
def test_moments_follow_every_op_that_a_pruning_keeps(kind, op, before, seed, switches, divided):
    """As an optimiser that saw the new gradients from the first step: theirs are `scale` times the old ones."""
    generator = torch.Generator().manual_seed(seed)
    model = make(**switches, seed=seed)
    optimizer = OPTIMIZERS[kind](groups_of(model, divided=divided))
    if any(group["weight_decay"] for group in optimizer.param_groups) and "L2" in kind:
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0  # L2 enters the moments by the weights' values, which a pruning changes
    grown, origins = grow(model, lambda core: morphisms.prune_op(core, 0, op))
    fresh = copy.deepcopy(grown)
    settings = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in optimizer.param_groups]
    parts = groups_of(fresh, divided=divided)
    witness = optimizer.__class__([{"lr": 0.01, **s, **part} for s, part in zip(settings, parts, strict=True)])
    for _ in range(before):
        gradients = random_gradients(model, generator)
        step(fresh, witness, carried_over(gradients, origins, fresh, generator))
        step(model, optimizer, gradients)
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    assert rates_of(grown, migrated) == rates_of(fresh, witness)
    for (name, a), b in zip(grown.named_parameters(), fresh.parameters(), strict=True):
        if a.numel() == 0:  # no Hadamard op is left: no b_h, and nothing to carry
            continue
        assert set(migrated.state[a]) == set(witness.state[b])
        for key, value in witness.state[b].items():
            if value is None:
                assert migrated.state[a][key] is None
            else:
                torch.testing.assert_close(
                    migrated.state[a][key], value, rtol=1e-12, atol=1e-15, msg=lambda m, n=name, k=key: f"{n} {k}: {m}"
                )


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_new_weights_start_clean(kind):
    generator = torch.Generator().manual_seed(0)
    model = make()
    optimizer = OPTIMIZERS[kind](model.parameters())
    step(model, optimizer, random_gradients(model, generator))
    grown, origins = grow(model, lambda core: morphisms.add_node(core, 1))
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    new = [parameter for name, parameter in grown.named_parameters() if name.startswith("core.nodes.1.")]
    assert len(new) == 5
    assert not any(migrated.state.get(parameter) for parameter in new)
    step(grown, migrated, random_gradients(grown, generator))
    alone = OPTIMIZERS[kind]([nn.Parameter(torch.zeros(1))])
    alone.param_groups[0]["params"][0].grad = torch.ones(1)
    alone.step()  # their first step is a first step
    counts = {int(migrated.state[parameter]["step"]) for parameter in new if "step" in migrated.state[parameter]}
    assert counts == ({1} if "adam" in kind else set())


def test_class_groups_and_settings_stay_and_new_weights_join_their_namesakes():
    model = make()
    alphas = list(model.core.alpha)
    weights = [p for name, p in model.named_parameters() if name.startswith("core") and not name.endswith("alpha")]
    optimizer = torch.optim.AdamW(
        [
            {"params": weights, "lr": 0.1, "weight_decay": 0.5},
            {"params": alphas, "lr": 0.2, "betas": (0.5, 0.9)},
            {"params": model.readout.parameters(), "eps": 1e-4},
        ]
    )
    step(model, optimizer, random_gradients(model, torch.Generator().manual_seed(0)))
    optimizer.param_groups[1]["lr"] = 0.15  # as a schedule leaves it
    grown, origins = grow(model, lambda core: morphisms.add_node(core))
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    assert type(migrated) is torch.optim.AdamW
    names = {parameter: name for name, parameter in grown.named_parameters()}
    for old, new in zip(optimizer.param_groups, migrated.param_groups, strict=True):
        assert {k: v for k, v in new.items() if k != "params"} == {k: v for k, v in old.items() if k != "params"}
    groups = [{names[parameter] for parameter in group["params"]} for group in migrated.param_groups]
    assert groups[1] == {f"core.nodes.{node}.alpha" for node in range(3)}
    assert groups[2] == {"readout.weight", "readout.bias"}
    assert groups[0] == set(names.values()) - groups[1] - groups[2]


def test_two_optimisers_keep_apart():
    """As bilevel training has them: neither takes up what is the other's."""
    model = make()
    of_alpha = torch.optim.Adam(model.core.alpha)
    of_weights = torch.optim.SGD([p for n, p in model.named_parameters() if not n.endswith("alpha")], momentum=0.9)
    grown, origins = grow(model, lambda core: morphisms.add_node(core, 0))
    migrated = [migrate(one, origins, model, grown, prefix="core.") for one in (of_alpha, of_weights)]
    names = {parameter: name for name, parameter in grown.named_parameters()}
    found = [{names[p] for p in one.param_groups[0]["params"]} for one in migrated]
    assert found[0] == {f"core.nodes.{node}.alpha" for node in range(3)}
    assert found[1] == set(names.values()) - found[0]


def test_a_backbone_alone_needs_no_prefix():
    backbone = make().core
    optimizer = torch.optim.Adam(backbone.parameters())
    generator = torch.Generator().manual_seed(0)
    step(backbone, optimizer, random_gradients(backbone, generator))
    grown, origins = morphisms.add_node(backbone, 0)
    migrated = migrate(optimizer, origins, backbone, grown)
    old, new = backbone.mixed_nodes()[1].W_x, grown.mixed_nodes()[2].W_x
    assert same_state(migrated.state[new], optimizer.state[old])


def test_the_old_optimiser_is_left_alone():
    generator = torch.Generator().manual_seed(0)
    model = make()
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer, random_gradients(model, generator))
    before = copy.deepcopy(optimizer.state_dict())
    grown, origins = grow(model, lambda core: morphisms.add_node(core))
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    step(grown, migrated, random_gradients(grown, generator))
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(same_state(after["state"][key], before["state"][key]) for key in before["state"])


def test_growth_in_the_midst_of_training_equals_no_growth_in_function_and_moments():
    """With real gradients: one step after a growth without noise, surviving moments agree to rounding."""
    model = make(ops=([("add", "tanh"), ("hadamard", "sigmoid"), ("add", "identity")],))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    x = torch.randn(8, 4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def train(model, optimizer):
        optimizer.zero_grad()
        loss = (model.readout(model.core(x)[0])[1:] - x[:-1]).square().mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    for _ in range(5):
        train(model, optimizer)
    grown, origins = grow(model, lambda core: morphisms.add_node(core, 0))
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    assert train(grown, migrated) == pytest.approx(train(model, optimizer), rel=1e-12)
    for _, (new, into), (old, index), _ in pairs(model, grown, origins):
        torch.testing.assert_close(new[into], old[index], rtol=0, atol=1e-9)
        for key in ("exp_avg", "exp_avg_sq"):
            moments = migrated.state[new][key][into], optimizer.state[old][key][index]
            torch.testing.assert_close(*moments, rtol=1e-9, atol=1e-15)
