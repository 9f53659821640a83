"""Optimiser state across a morphism: surviving weights never notice, new ones start clean."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grownas import morphisms
from grownas.backbones.chain import Backbone
from grownas.ops import DEFAULT_OPS
from grownas.training.migrate import migrate
from grownas.training.recipe import AveragedSGD

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.95)),
    "adam, L2, amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "sgd, momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "sgd, nesterov, L2": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.01, t0=2),  # averages from the third step on
    "averaging": lambda p: averaging(p, 0.01),
}
OF_AVERAGES = ["asgd", "averaging"]
OF_GRADIENTS = [kind for kind in OPTIMIZERS if kind not in OF_AVERAGES]  # what they keep is made of gradients alone
TANH, SIGMOID, RELU, IDENTITY = (("add", name) for name in ("tanh", "sigmoid", "relu", "identity"))


def averaging(parameters, rate):
    """Our own SGD, which averages from the first step on."""
    optimizer = AveragedSGD(parameters, lr=rate)
    optimizer.set_averaging(True)
    return optimizer


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
    take_step(optimizer)


def take_step(optimizer):
    """Do one step, as the training loop does it."""
    optimizer.step()
    if isinstance(optimizer, AveragedSGD):
        optimizer.average()


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
    """Yield name, new part and old part (parameter, index), scale and stretch for every surviving weight."""
    old = dict(model.named_parameters())
    for name, parameter in grown.named_parameters():
        if not name.startswith("core."):
            yield name, (parameter, ...), (old[name], ...), 1.0, 1.0
        for piece in origins.get(name.removeprefix("core."), []) if name.startswith("core.") else []:
            yield name, (parameter, piece.into), (old[f"core.{piece.source}"], piece.index), piece.scale, piece.stretch


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
    for _, (new, into), (old, index), *_ in pairs(model, grown, origins):
        assert torch.equal(new[into], old[index])
        if kind in OF_AVERAGES:
            means = migrated.state[new]["ax"][into], optimizer.state[old]["ax"][index]
            torch.testing.assert_close(*means, rtol=0, atol=1e-15)  # a distance is carried, which rounds
        count += 1
    assert count == len(list(model.parameters()))


@pytest.mark.parametrize("kind", OF_GRADIENTS)
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
    steps = {"step", "averaged"}
    counts = {int(migrated.state[p][key]) for p in new for key in steps & set(migrated.state[p])}
    assert counts == (set() if kind.startswith("sgd") else {1})


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
    for _, (new, into), (old, index), *_ in pairs(model, grown, origins):
        torch.testing.assert_close(new[into], old[index], rtol=0, atol=1e-9)
        for key in ("exp_avg", "exp_avg_sq"):
            moments = migrated.state[new][key][into], optimizer.state[old][key][index]
            torch.testing.assert_close(*moments, rtol=1e-9, atol=1e-15)


def real_gradients(model, seed):
    """Backward of a loss on a batch of its own; the model's weights keep the gradient."""
    x = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    model.zero_grad()
    (model.readout(model.core(x)[0])[1:] - x[:-1]).square().mean().backward()


def silent(model, node, op):
    """Make an op constant: it varies nothing, so that whatever replaces it leaves all gradients as they were."""
    with torch.no_grad():
        for name in ("W_x", "W_h"):
            model.core.op_parameters(node, op)[name].zero_()
    return model


CHAIN = ([TANH, ("hadamard", "sigmoid"), IDENTITY, RELU], [("hadamard", "tanh"), TANH, IDENTITY])
KEEP_ALL = {  # morphisms after which every gradient is `scale` times what it was, where that is known
    "duplicate": lambda core: morphisms.duplicate_op(core, 0, 1),
    "duplicate the last": lambda core: morphisms.duplicate_op(core, 1, 2),
    "split without effect": lambda core: morphisms.split_op(core, 0, 0, (torch.ones(3), torch.ones(3, 6)), 0.1),
    "prune": lambda core: morphisms.prune_op(core, 0, 0),
    "replace": lambda core: morphisms.replace_op(core, 0, 0, ("hadamard", "tanh"), torch.Generator().manual_seed(0)),
    "replace, with a share": lambda core: morphisms.replace_op(core, 0, 0, SIGMOID, share=0.15),
    "add": lambda core: morphisms.add_node(core, 1, generator=torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("name", KEEP_ALL)
@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd, momentum"])
def test_state_after_a_morphism_is_what_the_new_models_own_gradients_would_have_made(kind, name, highway):
    """Gradients are computed on both sides of the morphism, on the same batches, at a rate of zero."""
    model = silent(make(CHAIN, highway=highway), 0, 0)
    grown, origins = grow(model, KEEP_ALL[name])
    optimizer, witness = (OPTIMIZERS[kind](each.parameters()) for each in (model, grown))
    for each in (optimizer, witness):
        each.param_groups[0].update(lr=0.0, weight_decay=0.0)
    for seed in range(4):
        for each, steps in ((model, optimizer), (grown, witness)):
            real_gradients(each, seed)
            steps.step()
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    parameters, compared = dict(grown.named_parameters()), 0
    inexact = {"core.nodes.0.alpha"} if name.startswith(("prune", "replace")) else set()  # the op's own value is gone
    for leaf, (new, into), *_ in pairs(model, grown, origins):
        assert new is parameters[leaf]
        for key, value in witness.state[new].items():
            if value is None or leaf in inexact:
                continue
            there = migrated.state[new][key]
            if value.dim():
                there, value = there[into], value[into]
            torch.testing.assert_close(there, value, rtol=1e-9, atol=1e-13, msg=f"{leaf} {key}")
            compared += 1
    assert compared > 10


@pytest.mark.parametrize("highway", [False, True])
@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 2)])
def test_adam_never_notices_a_copy(place, highway):
    """Its steps do not depend on the gradients' scale: the two copies go where the one would have gone."""
    model = make(CHAIN, highway=highway)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, eps=1e-30)
    for seed in range(3):
        real_gradients(model, seed)
        optimizer.step()
    grown, origins = grow(model, lambda core: morphisms.duplicate_op(core, *place))
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    x = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for seed in range(3, 8):
        for each, steps in ((model, optimizer), (grown, migrated)):
            real_gradients(each, seed)
            steps.step()
        torch.testing.assert_close(grown.core(x)[0], model.core(x)[0], rtol=0, atol=1e-10)


def averaged(model, optimizer):
    """A copy of a model whose weights are the averages that an optimiser keeps, where there are any yet."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for target, parameter in zip(result.parameters(), model.parameters(), strict=True):
            target.copy_(optimizer.state.get(parameter, {}).get("ax", parameter))
    return result


def trained(model, kind, steps=6):
    made = {"asgd": lambda p: torch.optim.ASGD(p, lr=0.3, t0=1), "averaging": lambda p: averaging(p, 0.3)}
    optimizer = made[kind](model.parameters())
    for seed in range(steps):
        real_gradients(model, seed)
        take_step(optimizer)
    return optimizer


@pytest.mark.parametrize("kind", OF_AVERAGES)
@pytest.mark.parametrize("switches", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("name", ["duplicate", "duplicate the last", "split without effect", "add"])
def test_the_function_at_the_averages_stays_too(name, switches, kind):
    model = make(CHAIN, highway=switches[0], share_projection=switches[1])
    optimizer = trained(model, kind)
    grown, origins = grow(model, KEEP_ALL[name])
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    x = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    at_averages = averaged(model, optimizer).core(x)[0]
    assert (at_averages - model.core(x)[0]).abs().max() > 1e-3  # else nothing is tested
    torch.testing.assert_close(averaged(grown, migrated).core(x)[0], at_averages, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", OF_AVERAGES)
@pytest.mark.parametrize("name", KEEP_ALL)
def test_averages_keep_their_distance_from_the_values_and_their_counts_go_on(name, kind):
    model = make(CHAIN)
    optimizer = trained(model, kind)
    grown, origins = grow(model, KEEP_ALL[name])
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    for leaf, (new, into), (old, index), *_, stretch in pairs(model, grown, origins):
        before, after = optimizer.state[old], migrated.state[new]
        wanted = stretch * (before["ax"] - old)[index]
        torch.testing.assert_close((after["ax"] - new)[into], wanted, rtol=0, atol=1e-14, msg=leaf)
        for key in {"asgd": ("step", "eta", "mu"), "averaging": ("averaged",)}[kind]:
            assert float(after[key]) == float(before[key])
    if name.startswith("replace"):  # what is new is its own average
        node = grown.core.mixed_nodes()[0]
        ax = migrated.state[node.W_x]["ax"][:, node.projection[0]]
        assert torch.equal(ax, node.op_parameters(0)["W_x"])
        assert migrated.state[node.alpha]["ax"][0] == node.alpha[0]
    stretched = {piece.stretch for pieces in origins.values() for piece in pieces}
    assert (stretched != {1.0}) == (name in ("prune", "replace, with a share"))


@pytest.mark.parametrize("name", ["duplicate", "duplicate the last", "add"])
def test_means_that_are_carried_go_on_as_means(name):
    """The new model's, from its own steps: those before the morphism count, in a copy as steps of the copy."""
    model = make(CHAIN)
    optimizer = trained(model, "averaging", steps=4)
    grown, origins = grow(model, KEEP_ALL[name])
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    begun = {p: (state["averaged"] * state["ax"], state["averaged"]) for p, state in migrated.state.items()}
    assert {count for _, count in begun.values()} == {4}
    seen = []
    for seed in range(4, 7):
        real_gradients(grown, seed)
        take_step(migrated)
        seen.append({p: p.detach().clone() for p in grown.parameters()})
    for p in grown.parameters():
        total, count = begun.get(p, (0.0, 0))
        mean = (total + sum(one[p] for one in seen)) / (count + 3)
        torch.testing.assert_close(migrated.state[p]["ax"], mean, rtol=0, atol=1e-14)
    assert len(begun) < len(list(grown.parameters())) or name != "add"


def test_new_parts_of_an_old_parameter_take_no_long_steps():
    """They share its step count, so Adam would not correct moments of zero: steps of 3 to 6 times the rate."""
    generator = torch.Generator().manual_seed(0)
    model = make(CHAIN)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(200):
        step(model, optimizer, random_gradients(model, generator))
    grown, origins = grow(model, lambda core: morphisms.replace_op(core, 0, 1, TANH))
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    node, old = grown.core.mixed_nodes()[0], optimizer.state[model.core.mixed_nodes()[0].W_x]
    state, new = migrated.state[node.W_x], node.projection[1]
    others = [column for column in range(4) if column != new]
    assert (state["exp_avg"][:, new] == 0).all()
    assert torch.equal(state["exp_avg"][:, others], old["exp_avg"][:, [0, 2, 3]])
    torch.testing.assert_close(state["exp_avg_sq"][:, new], old["exp_avg_sq"][:, [0, 2, 3]].mean().expand(2, 3))
    for _ in range(30):
        before = node.op_parameters(1)["W_x"].clone()
        step(grown, migrated, random_gradients(grown, generator))
        assert (node.op_parameters(1)["W_x"] - before).abs().max() < 0.015


def test_what_leaves_a_shared_projection_takes_no_momentum_along():
    """The gradient of a shared projection is a sum over its ops, which does not tell what was one op's part."""
    model = make(([TANH, SIGMOID, RELU],), share_projection=True)
    optimizer = torch.optim.Adam(model.parameters())
    step(model, optimizer, random_gradients(model, torch.Generator().manual_seed(0)))
    old = optimizer.state[model.core.mixed_nodes()[0].W_h]
    for morph, gone in (
        (lambda core: morphisms.duplicate_op(core, 0, 1), [1]),
        (lambda core: morphisms.split_op(core, 0, 1, (torch.ones(3), torch.ones(3, 6)), 0.1), [1, 2]),
    ):
        grown, origins = grow(model, morph)
        node = grown.core.mixed_nodes()[0]
        state = migrate(optimizer, origins, model, grown, prefix="core.").state[node.W_h]
        assert node.W_h.shape[1] == 1 + len(gone)
        assert torch.equal(state["exp_avg"][:, :1], old["exp_avg"])
        assert (state["exp_avg"][:, gone] == 0).all()
        torch.testing.assert_close(
            state["exp_avg_sq"][:, gone], old["exp_avg_sq"].mean().expand(3, len(gone), 3), rtol=1e-12, atol=0
        )


def test_a_bias_that_a_node_gets_anew_joins_the_nodes_group():
    """A node without Hadamard ops has an empty b_h, whose group it is when a candidate needs one."""
    model = make((DEFAULT_OPS, [TANH, IDENTITY]))
    optimizer = torch.optim.Adam(groups_of(model, divided=True), lr=0.01)
    step(model, optimizer, random_gradients(model, torch.Generator().manual_seed(0)))
    grown, origins = grow(model, lambda core: morphisms.replace_op(core, 1, 0, ("hadamard", "tanh")))
    migrated = migrate(optimizer, origins, model, grown, prefix="core.")
    rates = rates_of(grown, migrated)
    assert rates["core.nodes.1.b_h"] == rates["core.nodes.1.b_x"] == 0.03
    assert rates["core.nodes.0.b_h"] == 0.01
    assert not migrated.state.get(grown.core.mixed_nodes()[1].b_h)


def test_state_of_an_unknown_kind_is_quoted():
    model = make()
    optimizer = torch.optim.RMSprop(model.parameters())
    step(model, optimizer, random_gradients(model, torch.Generator().manual_seed(0)))
    grown, origins = grow(model, lambda core: morphisms.duplicate_op(core, 0, 0))
    with pytest.raises(ValueError, match=r"optimiser state 'square_avg'; only exp_avg, .*, ax can be migrated"):
        migrate(optimizer, origins, model, grown, prefix="core.")
