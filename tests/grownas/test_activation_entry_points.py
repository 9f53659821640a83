"""Activations of other packages, found by entry points of the group `grownas.activations`; nothing is installed."""

from __future__ import annotations

from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from grownas import ops
from grownas.cells import backends
from grownas.cells.cell import GrownRNN
from grownas.config.loading import load
from grownas.errors import ConfigError, GenotypeError
from grownas.genotype import Genotype, Node, Op
from grownas.ops import ACTIVATION, BUILT_IN, Activation, Activations
from grownas.space import SearchSpace

SINE = Activation(torch.sin, lambda y, z: torch.cos(z), lambda y, z: -y, "sin(z)")


class Entry:
    """An entry point as far as it is read, with the package that has it."""

    def __init__(self, name, target, package="waves", value=None):
        self.name, self.target, self.value, self.loaded = name, target, value or f"{package}.activations:{name}", 0
        self.dist = SimpleNamespace(name=package)

    def load(self):
        self.loaded += 1
        if isinstance(self.target, Exception):
            raise self.target
        return self.target


@pytest.fixture
def offer(monkeypatch):
    """Return what puts entry points where packages have them, and the table with nothing loaded yet."""

    installed = metadata.entry_points

    def put(*entries):
        monkeypatch.setattr(
            metadata, "entry_points", lambda group: entries if group == ops.GROUP else installed(group=group)
        )
        ops._entry_points.cache_clear()
        return Activations(BUILT_IN)

    yield put
    monkeypatch.undo()
    ops._entry_points.cache_clear()
    backends._choose.cache_clear()
    for name in set(ACTIVATION) - set(BUILT_IN):
        del ACTIVATION[name]


def test_it_is_in_the_table_by_its_name_and_loaded_when_it_is_asked_for(offer):
    entry = Entry("sine", SINE)
    table = offer(entry)
    assert "sine" in table
    assert "cosine" not in table
    assert list(table) == [*BUILT_IN, "sine"]
    assert len(table) == len(BUILT_IN) + 1
    assert entry.loaded == 0
    assert table["sine"] is table["sine"] is SINE
    assert entry.loaded == 1
    assert list(table) == [*BUILT_IN, "sine"]
    with pytest.raises(KeyError):
        table["cosine"]


def test_built_in_names_are_found_without_a_look_at_packages(monkeypatch):
    monkeypatch.setattr(metadata, "entry_points", lambda group: pytest.fail("looked"))
    ops._entry_points.cache_clear()
    assert "tanh" in Activations(BUILT_IN)
    assert Activations(BUILT_IN)["tanh"] is BUILT_IN["tanh"]


def test_a_whole_cell_runs_on_the_torch_backend_and_says_so(offer):
    offer(Entry("sine", SINE))
    genotype = Genotype((Node((Op("add", "sine", 0.5), Op("hadamard", "sine", 0.5))),))
    cell, x = GrownRNN(genotype, 3, 4).double(), torch.randn(5, 2, 3, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"'native' cannot run this chain: it has no kernel for sine; 'torch' runs it"):
        assert cell.chosen_backend == "torch"
    plain = GrownRNN(genotype, 3, 4, backend="reference").double()
    plain.load_state_dict(cell.state_dict())
    found, truth = (
        [out, *torch.autograd.grad(out.sum(), one.parameters())] for one in (cell, plain) for out, _ in [one(x)]
    )
    torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-12)
    with pytest.raises(RuntimeError, match="'native' cannot run this chain: it has no kernel for sine"):
        GrownRNN(genotype, 3, 4, backend="native")(x.float())


def test_config_space_and_genotype_take_its_name(offer, tmp_path):
    offer(Entry("sine", SINE))
    config = load("index_returns/growing", ["space.activation=[sine,identity]"])
    assert config.space.activation == ("sine", "identity")
    assert ("hadamard", "sine") in SearchSpace(("add", "hadamard"), ("sine", "identity")).ops
    genotype = Genotype((Node((Op("add", "sine"),)),))
    genotype.save(tmp_path / "genotype.json")
    assert Genotype.load(tmp_path / "genotype.json") == genotype
    with pytest.raises(
        ConfigError, match=r"space\.activation: unknown 'sinee', expected some of .*; did you mean sine"
    ):
        load("index_returns/growing", ["space.activation=[sinee]"])
    with pytest.raises(GenotypeError, match=r"unknown 'sinee', expected one of .*sine; did you mean 'sine'"):
        Genotype((Node((Op("add", "sinee"),)),))


WRONG = [
    (
        [Entry("tanh", SINE)],
        r"'tanh' \(waves\.activations:tanh\) of the package waves: the name 'tanh' is built in",
    ),
    (
        [Entry("sine", SINE), Entry("sine", SINE, "tides")],
        r"of the package tides: the activation 'sine' .* of the package waves has the same name 'sine'; un",
    ),
    ([Entry("a b", SINE)], "the name 'a b' is not an identifier"),
    (
        [Entry("sine", ImportError("no module named scipy"))],
        "'sine' .*waves cannot be loaded: ImportError: no module na",
    ),
    ([Entry("sine", torch.sin)], r"'sine' .* is a builtin_function_or_method, expected a grownas\.ops\.Activation"),
    ([Entry("sine", SINE._replace(code=1))], "'sine' .*waves has code 1, expected None: only built-ins have kernels"),
]


@pytest.mark.parametrize(("entries", "message"), WRONG, ids=[message[:30] for _, message in WRONG])
def test_what_cannot_be_taken_is_refused_by_name(offer, entries, message):
    table = offer(*entries)
    with pytest.raises(GenotypeError, match=message):
        table["sine"]


def test_the_same_entry_found_twice_is_one(offer):
    """As an editable install and its metadata on the path are read."""
    assert offer(Entry("sine", SINE), Entry("sine", SINE))["sine"] is SINE
