"""What is timed of a DAG supernet does the same work, by whoever does it."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from grownas.bench import dag_peers
from grownas.bench.settings import DARTS_OPS, DagSetting

NORMS = ["none", "batch"]


@pytest.fixture(params=NORMS)
def setting(request):
    return DagSetting(3, 4, 2, 5, 3, DARTS_OPS, request.param)


def test_the_floor_does_the_products_and_no_others(setting):
    with FlopCounterMode(display=False) as counter:
        dag_peers.make_dag_peers(setting)["floor"]()
    assert counter.get_total_flops() == setting.operations
    assert setting.edges == 6


def test_every_peer_takes_the_gradients_of_one_function(setting):
    found = {}
    for name, call in dag_peers.make_dag_peers(setting).items():
        if name != "floor":
            found[name] = [one.shape for one in call()]
    assert {"reference", "torch", "published"} <= set(found)
    assert all(shapes == [(3, 4, 2), (2, 10), (4, 5, 10), (30,)] for shapes in found.values())


def test_the_published_codes_way_is_the_reference(setting):
    gradients = []
    plan = dag_peers._plan(setting)
    for run in (
        lambda *arguments: dag_peers._run("reference", plan, *arguments),
        lambda *arguments: dag_peers._published(setting, *arguments),
    ):
        torch.manual_seed(0)
        gradients.append(dag_peers._call(setting, run)())
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
