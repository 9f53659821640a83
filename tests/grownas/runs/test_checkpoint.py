"""Trees come back as they were; a file that is not right is refused, and the good one before it is used."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from grownas.runs import checkpoint

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip
NUMPY_DTYPES = [np.dtype(code) for code in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "u2", "u4", "u8", "?")]
FOLDER_IS_REUSED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    values = torch.randn(shape, generator=generator, dtype=torch.float64) * 50
    return values.to(draw(st.sampled_from(DTYPES)))


arrays = st.sampled_from(NUMPY_DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0))
)
scalars = st.sampled_from(NUMPY_DTYPES).flatmap(lambda dtype: hnp.from_dtype(dtype))
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
trees = st.recursive(
    plain | tensors() | arrays | scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)
SMALL = {"weights": [torch.arange(3.0)], 0: ("adam", float("inf"), None)}


@given(tree=trees)
@FOLDER_IS_REUSED
def test_a_tree_comes_back_as_it_was(tmp_path, tree, assert_equal):
    path = tmp_path / "a.done"
    checkpoint.save(path, tree, "me")
    assert_equal(checkpoint.load(path, "me"), tree)
    checkpoint.remove(path)
    assert list(tmp_path.iterdir()) == []


def test_int_keys_stay_apart_from_their_text(tmp_path):
    tree = {1: "number", "1": "text"}
    checkpoint.save(tmp_path / "a", tree, "me")
    assert checkpoint.load(tmp_path / "a", "me") == tree


def test_the_state_of_an_optimizer_comes_back(tmp_path, assert_equal):
    weight = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "a", optimizer.state_dict(), "me")
    state = checkpoint.load(tmp_path / "a", "me")
    assert_equal(state, optimizer.state_dict())
    again = torch.optim.AdamW([weight], lr=0.5)
    again.load_state_dict(state)
    assert again.param_groups[0]["lr"] == 0.1


def test_views_aliases_and_parameters_are_saved_by_copy(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    parameter = torch.nn.Parameter(torch.ones(2))
    checkpoint.save(tmp_path / "a", [base, base, base.t(), base[:, 1], base.expand(2, 3, 4), parameter], "me")
    first, second, turned, column, expanded, weight = checkpoint.load(tmp_path / "a", "me")
    assert torch.equal(turned, base.t())
    assert torch.equal(column, base[:, 1])
    assert torch.equal(expanded, base.expand(2, 3, 4))
    assert type(weight) is torch.Tensor
    first += 1
    assert torch.equal(second, base)
    assert torch.equal(base, torch.arange(12.0).reshape(3, 4))


def test_what_is_loaded_can_be_written_to(tmp_path):
    checkpoint.save(tmp_path / "a", {"t": torch.zeros(2), "n": np.zeros(2)}, "me")
    tree = checkpoint.load(tmp_path / "a", "me")
    tree["t"] += 1
    tree["n"] += 1
    assert tree["t"].tolist() == tree["n"].tolist() == [1, 1]


def test_same_tree_same_bytes(tmp_path):
    for name in "ab":
        tree = {"x": torch.ones(2), "y": np.arange(3), "z": [torch.zeros((), dtype=torch.bool), 1.5]}
        checkpoint.save(tmp_path / name, tree, "me")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_first_line_gives_the_checksum_of_the_rest(tmp_path):
    checkpoint.save(tmp_path / "a", SMALL, "me")
    line, rest = (tmp_path / "a").read_bytes().split(b"\n", 1)
    assert line.decode() == f"grownas.checkpoint 3 {hashlib.sha256(rest).hexdigest()}"


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("thing", "kind"),
    [({1, 2}, "set"), (object(), "object"), (Text("a"), "Text"), (b"a", "bytes"), ({None: 1}, "dict")],
)
def test_what_cannot_be_saved_is_named_with_its_place(tmp_path, thing, kind):
    with pytest.raises(TypeError, match=rf"tree\['a'\]\[1\]: a {kind} cannot be saved"):
        checkpoint.save(tmp_path / "a", {"a": [0, thing]}, "me")
    assert list(tmp_path.iterdir()) == []


def test_nothing_there_is_none_without_a_word(tmp_path):
    assert checkpoint.load(tmp_path / "a", "me") is None
    checkpoint.remove(tmp_path / "a")


def test_any_damaged_byte_is_refused_and_the_old_one_used(tmp_path):
    path = tmp_path / "a.part"
    checkpoint.save(path, {"n": 1}, "me")
    checkpoint.save(path, {"n": 2, "t": torch.ones(1)}, "me")
    good = path.read_bytes()
    assert checkpoint.load(path, "me")["n"] == 2
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << place % 8)]) + good[place + 1 :])
        with pytest.warns(UserWarning, match=r"a\.part: checkpoint refused: .*; a\.part\.old is used instead"):
            assert checkpoint.load(path, "me") == {"n": 1}


@pytest.mark.parametrize("extra", [-1, 1])
def test_a_file_cut_off_or_lengthened_is_refused(tmp_path, extra):
    path = tmp_path / "a"
    checkpoint.save(path, SMALL, "me")
    good = path.read_bytes()
    wrong = [good[:size] for size in range(len(good))] if extra < 0 else [good + b"x", good + b"\n", good + good]
    for content in wrong:
        path.write_bytes(content)
        with pytest.warns(
            UserWarning, match="checkpoint refused: (it does not|its checksum).*; there is no other valid checkpoint"
        ):
            assert checkpoint.load(path, "me") is None


@given(content=st.binary(max_size=200))
@FOLDER_IS_REUSED
def test_garbage_is_refused(tmp_path, content):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="does not begin with 'grownas.checkpoint'"):
        assert checkpoint.load(path, "me") is None


def test_another_identity_or_version_is_refused_by_name(tmp_path):
    path = tmp_path / "a"
    checkpoint.save(path, SMALL, "their config")
    with pytest.warns(UserWarning, match="it belongs to 'their config', not to 'my config'; there is no other valid"):
        assert checkpoint.load(path, "my config") is None
    path.write_bytes(path.read_bytes().replace(b"checkpoint 3 ", b"checkpoint 4 ", 1))
    with pytest.warns(UserWarning, match="it has version 4, this program reads version 3"):
        assert checkpoint.load(path, "their config") is None


def test_each_refused_file_is_named(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"junk")
    (tmp_path / "a.old").mkdir()
    with pytest.warns(UserWarning, match="refused") as caught:
        assert checkpoint.load(path, "me") is None
    words = [str(warning.message) for warning in caught]
    assert [word.split(": ")[0] for word in words] == [str(path), str(tmp_path / "a.old")]
    assert "cannot be read" in words[1]


def test_two_files_are_kept_and_a_damaged_one_never_pushes_out_a_good_one(tmp_path):
    path = tmp_path / "a"
    for number in range(3):
        checkpoint.save(path, number, "me")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "a.old"]
    assert checkpoint.load(tmp_path / "a.old", "me") == 1
    path.write_bytes(b"junk")
    checkpoint.save(path, 3, "me")
    assert checkpoint.load(path, "me") == 3
    assert checkpoint.load(tmp_path / "a.old", "me") == 1


STEPS = ["open", "write", "flush", "fsync", "to_old", "replace"]


@pytest.mark.parametrize("step", STEPS)
def test_an_interrupt_between_any_steps_leaves_a_good_file_and_no_rest(tmp_path, monkeypatch, step):
    path = tmp_path / "a"
    checkpoint.save(path, "first", "me")
    _stop_at(step, monkeypatch.setattr, _interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, "second", "me")
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.load(path, "me") == "first"
    assert not (tmp_path / "a.tmp").exists()


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_between_any_steps_leaves_a_good_file(tmp_path, step):
    path = tmp_path / "a"
    checkpoint.save(path, "first", "me")
    process = multiprocessing.get_context("fork").Process(target=_save_and_die, args=(path, step))
    process.start()
    process.join(30)
    assert process.exitcode == 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.load(path, "me") == "first"
    checkpoint.save(path, "third", "me")
    assert checkpoint.load(path, "me") == "third"
    checkpoint.remove(path)
    assert list(tmp_path.iterdir()) == []


def _save_and_die(path, step):
    _stop_at(step, setattr, lambda: os._exit(9))
    checkpoint.save(path, "second", "me")


def _interrupt():
    raise KeyboardInterrupt


def _stop_at(step, patch, stop):
    """Let `save` stop just before one of its steps."""
    real_open, real_replace = Path.open, Path.replace

    class File:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, content):
            if step == "write":
                self.file.write(content[: len(content) // 2])  # half of it is on disk
                self.file.flush()
                stop()
            self.file.write(content)

        def flush(self):
            if step == "flush":
                stop()
            self.file.flush()

        def fileno(self):
            return self.file.fileno()

    def open_(self, mode="r", *rest):
        if mode != "wb":
            return real_open(self, mode, *rest)
        if step == "open":
            stop()
        return File(real_open(self, mode, *rest))

    def replace(self, target):
        if step == ("to_old" if str(target).endswith(".old") else "replace"):
            stop()
        return real_replace(self, target)

    patch(Path, "open", open_)
    patch(Path, "replace", replace)
    if step == "fsync":
        patch(os, "fsync", lambda number: stop())
