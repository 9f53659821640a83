"""What copies and measures a model leaves it as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from grownas.evaluation.scoring import evaluating
from grownas.modules import with_parameters
from grownas.strategies.cores import with_core
from grownas.strategies.growing.batches import Batches
from grownas.strategies.growing.options import Options
from grownas.strategies.growing.state import output_drift


class Uncopied(nn.Module):
    """A part that refuses to be copied, or that looks at its model meanwhile."""

    def __init__(self, look):
        super().__init__()
        self.look = look

    def __deepcopy__(self, memo):
        self.look()
        return self


def test_with_core_never_takes_the_core_away(copy_task, make_model):
    model, seen = make_model(copy_task()), []
    core = model.core
    model.extra = Uncopied(lambda: seen.append(model.core))
    other = make_model(copy_task(), seed=1).core
    copied = with_core(model, other)
    assert seen == [core]
    assert copied.core is other
    assert model.core is core
    assert torch.equal(copied.readout.weight, model.readout.weight)
    assert copied.readout.weight is not model.readout.weight

    def fail():
        raise RuntimeError("no copies")

    model.extra = Uncopied(fail)
    with pytest.raises(RuntimeError, match="no copies"):
        with_core(model, other)
    assert model.core is core


def test_drift_and_criteria_leave_the_mode(copy_task, make_model):
    task = copy_task(dropout=0.5)
    before, after = make_model(task).train(), make_model(task, seed=1).train()
    after.readout.eval()
    drift = output_drift(before, after, task)
    assert output_drift(before.eval(), after.eval(), task) == drift  # nothing is dropped
    before.train()
    assert list(Batches(before, task, "train"))
    assert before.training
    assert before.core.training


@pytest.mark.parametrize("broken", [False, True])
def test_evaluating_puts_each_part_back(copy_task, make_model, broken):
    model = make_model(copy_task()).train()
    model.readout.eval()
    modes = [part.training for part in model.modules()]
    try:
        with evaluating(model):
            assert not any(part.training for part in model.modules())
            if broken:
                raise KeyError
    except KeyError:
        assert broken
    assert [part.training for part in model.modules()] == modes


def test_a_module_with_other_parameters_is_a_shallow_copy():
    module = nn.Linear(2, 2)
    weight = torch.zeros(2, 2, requires_grad=True)
    twin = with_parameters(module, {"weight": weight})
    twin(torch.ones(1, 2)).sum().backward()
    assert torch.equal(weight.grad, torch.ones(2, 2))
    assert torch.equal(module.bias.grad, torch.ones(2))
    assert module.weight.grad is None


def test_an_unknown_way_to_replace_ops_is_refused():
    with pytest.raises(ValueError, match="unifrom"):
        Options(replace="unifrom")
