"""The run folder: names, whole files, one writer, JSON that every reader takes."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from grownas.errors import RunError
from grownas.runs.rundir import MARK, JsonLines, LockedError, RunDir, whole_folder, write_file


@pytest.fixture
def rundir(tmp_path):
    return RunDir.create(tmp_path / "runs", "a", "search")


# ---- names


def test_a_new_folder_says_what_fills_it(tmp_path):
    made = RunDir.create(tmp_path / "deep" / "runs", "a", "train", what="gru")
    assert made.path == tmp_path / "deep" / "runs" / "a"
    assert (made.command, made.what) == ("train", "gru")
    assert RunDir.create(tmp_path, "b", "search").what is None


def test_a_name_that_is_taken_gets_a_number(tmp_path):
    (tmp_path / "a-3").mkdir()
    (tmp_path / "b").write_text("a file")
    assert [RunDir.create(tmp_path, "a", "search").path.name for _ in range(4)] == ["a", "a-2", "a-4", "a-5"]
    assert RunDir.create(tmp_path, "b", "search").path.name == "b-2"
    assert list((tmp_path / "a-3").iterdir()) == []  # what stood there is left alone


@pytest.mark.parametrize("parent", ["file", "file/inside"])
def test_a_place_where_no_folder_can_be_made_is_the_users_error(tmp_path, parent):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot create a run folder there: .*; choose another place with runs=DIR"):
        RunDir.create(tmp_path / parent, "a", "search")


def test_a_name_too_long_is_the_users_error(tmp_path):
    with pytest.raises(RunError, match="cannot create a run folder there"):
        RunDir.create(tmp_path, "x" * 300, "search")


def test_opening_takes_run_folders_only(tmp_path, rundir):
    (tmp_path / "other").mkdir()
    with pytest.raises(
        RunError, match=r"other: not a run folder: it has no run\.json and no config\.yaml; give the path"
    ):
        RunDir.open(tmp_path / "other")
    (tmp_path / "other" / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(RunError, match=r"other: not a run folder: it has no run\.json; give the path"):
        RunDir.open(tmp_path / "other")
    rundir.write_text("config.yaml", "seed: 1\n")
    assert RunDir.open(rundir.path).command == "search"
    with pytest.raises(RunError, match="nothing: no such folder; give the path of a run folder"):
        RunDir.open(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"config\.yaml: not a folder"):
        RunDir.open(rundir.path / "config.yaml")


def test_a_run_stopped_before_it_saved_anything_is_to_be_started_again(rundir):
    with pytest.raises(RunError, match=r"a: config\.yaml is missing: .* nothing can be resumed; start it again"):
        RunDir.open(rundir.path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"{}", b'{"command": "dance"}', b'{"command": ["search"]}', b"\xff\xfe"]
)
def test_a_damaged_mark_is_said(rundir, content):
    (rundir.path / MARK).write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json: damaged: "):
        _ = rundir.command
    with pytest.raises(RunError, match=r"run\.json: damaged: "):
        _ = rundir.what


# ---- whole or not at all


WRITES = {
    "text": lambda folder, new: folder.write_text("file", "new\n" if new else "old\n"),
    "json": lambda folder, new: folder.write_json("file", {"new": new}),
    "tensors": lambda folder, new: folder.write_tensors("file", {"x": torch.full((3,), float(new))}),
}


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_write_cut_off_leaves_the_old_file_whole(rundir, monkeypatch, kind, broken):
    WRITES[kind](rundir, False)
    before = (rundir.path / "file").read_bytes()

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with pytest.raises(RunError, match="file: cannot be written: No space left on device"):
            WRITES[kind](rundir, True)
    assert (rundir.path / "file").read_bytes() == before
    WRITES[kind](rundir, True)
    assert (rundir.path / "file").read_bytes() != before
    assert sorted(path.name for path in rundir.path.iterdir()) == ["file", MARK]  # nothing half-written stays


def test_the_content_is_on_the_disk_before_the_name_points_to_it(rundir, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append(("fsync", os.fstat(number).st_size)), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(("replace", a.read_text())), replace(a, b)))
    rundir.write_text("file", "content")
    assert order == [("fsync", 7), ("replace", "content")]


def test_what_json_cannot_hold_touches_no_file(rundir):
    rundir.write_json("file", {"a": 1})
    with pytest.raises(TypeError):
        rundir.write_json("file", {"a": object()})
    assert json.loads((rundir.path / "file").read_text()) == {"a": 1}


def test_text_is_utf_8_with_its_line_ends_as_given(rundir):
    rundir.write_text("file", "é\r\nα\n")
    assert (rundir.path / "file").read_bytes() == b"\xc3\xa9\r\n\xce\xb1\n"


def test_tensors_come_back_with_their_notes(rundir):
    x = torch.arange(6, dtype=torch.float64).view(2, 3)
    tensors = {"turned": x.T, "part": x[:, 1], "same": x, "leaf": x.float().requires_grad_()}
    rundir.write_tensors("file", tensors, {"names": '["A"]'})
    with safe_open(rundir.path / "file", "pt") as file:
        assert file.metadata() == {"names": '["A"]'}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(file.get_tensor(name), tensor.detach())
            assert file.get_tensor(name).dtype == tensor.dtype


def test_the_same_tensors_and_notes_are_the_same_bytes(rundir):
    """The library keeps notes in a hash map, so two equal files would differ by their order."""
    notes = {f"note {number}": "é" * number for number in range(12)}
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, dtype=torch.float64)}
    written = set()
    for _ in range(5):
        rundir.write_tensors("file", tensors, notes)
        written.add((rundir.path / "file").read_bytes())
    assert len(written) == 1
    with safe_open(rundir.path / "file", "pt") as file:
        assert file.metadata() == notes
        assert torch.equal(file.get_tensor("b"), tensors["b"])


# ---- JSON


def strict(text):
    """Parse as a reader that knows no NaN."""

    def refuse(word):
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


def test_a_figure_that_is_not_finite_becomes_null(rundir):
    tree = {"a": math.nan, "b": [math.inf, 1.5, {"c": (-math.inf, 2)}], "d": np.float64("nan"), 5: None, "é": True}
    rundir.write_json("file", tree)
    text = (rundir.path / "file").read_text("utf-8")
    assert strict(text) == {"a": None, "b": [None, 1.5, {"c": [None, 2]}], "d": None, "5": None, "é": True}
    assert "é" in text
    assert text.endswith("}\n")


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.é", max_size=3), inner, max_size=3),
    max_leaves=8,
)


def with_null(value):
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: with_null(one) for key, one in value.items()}
    return [with_null(one) for one in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text("ab\n", max_size=3), TREES, max_size=4))
def test_a_log_line_is_one_line_and_comes_back(tmp_path_factory, line):
    log = JsonLines(tmp_path_factory.getbasetemp() / "property.jsonl")
    log.truncate()
    log.append(line)
    log.append({"last": 1})
    first, second = log.path.read_text("utf-8").removesuffix("\n").split("\n")
    assert strict(first) == with_null(line)
    assert strict(second) == {"last": 1}


def test_a_log_is_added_to_and_cut(rundir):
    log = rundir.log("metrics.jsonl")
    assert not log.path.exists()  # naming it writes nothing
    log.truncate()
    assert log.path.read_bytes() == b""
    log.append({"a": 1})
    size = log.path.stat().st_size
    log.append({"a": 2})
    rundir.log("metrics.jsonl").append({"a": math.nan})  # another hand on the same log
    assert [strict(line)["a"] for line in log.path.read_text().splitlines()] == [1, 2, None]
    log.truncate(size)
    assert [strict(line)["a"] for line in log.path.read_text().splitlines()] == [1]
    log.append({"a": 4})  # goes on at the cut
    assert [strict(line)["a"] for line in log.path.read_text().splitlines()] == [1, 4]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device without space")
def test_a_log_on_a_full_disk_is_named():
    with pytest.raises(RunError, match="/dev/full: cannot be written: No space left on device"):
        JsonLines(Path("/dev/full")).append({"a": 1})


def test_a_log_of_which_only_a_part_is_written_is_named(rundir):
    resource = pytest.importorskip("resource", reason="limits the size of files on POSIX only")
    log, limits = rundir.log("log.jsonl"), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, limits[1]))
    try:
        with pytest.raises(RunError, match=r"log\.jsonl: cannot be written: No space left on device"):
            log.append({"a": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_line_that_json_cannot_hold_adds_nothing(rundir):
    log = rundir.log("metrics.jsonl")
    log.append({"a": 1})
    with pytest.raises(TypeError):
        log.append({"a": object()})
    assert log.path.read_text() == '{"a": 1}\n'


# ---- one writer

TRY = """
import sys
from pathlib import Path
from grownas.errors import RunError
from grownas.runs.rundir import RunDir
try:
    with RunDir(Path(sys.argv[1])).lock():
        print("locked", flush=True)
        if "hold" in sys.argv:
            sys.stdin.read()
except RunError as error:
    print(error)
"""


def attempt(rundir):
    done = subprocess.run([sys.executable, "-c", TRY, str(rundir.path)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_second_writer_is_refused_until_the_first_is_done(rundir):
    with rundir.lock():
        assert attempt(rundir) == (f"{rundir.path}: another process is writing to this run; wait for it or stop it")
        with pytest.raises(RunError, match="another process is writing"), RunDir(rundir.path).lock():
            pass
    assert attempt(rundir) == "locked"


def test_the_lock_falls_with_an_exception(rundir):
    with pytest.raises(ZeroDivisionError), rundir.lock():
        raise ZeroDivisionError
    assert attempt(rundir) == "locked"


def test_the_lock_falls_with_a_process_that_is_killed(rundir):
    command = [sys.executable, "-c", TRY, str(rundir.path), "hold"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match="another process is writing"), rundir.lock():
            pass
        holder.kill()
    with rundir.lock():
        pass


def test_a_folder_is_locked_while_another_process_writes_to_it(rundir):
    assert not rundir.is_locked()
    with rundir.lock():
        assert RunDir(rundir.path).is_locked()
    assert not rundir.is_locked()


def test_a_folder_that_cannot_be_written_to_is_not_taken_for_locked(rundir):
    (rundir.path / ".lock").mkdir()  # refuses every user, root too
    for ask in (rundir.is_locked, rundir.lock().__enter__):
        with pytest.raises(
            RunError, match=r"a: cannot be written to \(.*\.lock\); make the folder writable, or"
        ) as caught:
            ask()
        assert not isinstance(caught.value, LockedError)


def test_a_folder_is_whole_or_absent(tmp_path):
    with whole_folder(tmp_path / "deep" / "made") as folder:
        (folder / "file").write_text("all")
        assert not (tmp_path / "deep" / "made").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["made"]
    assert (tmp_path / "deep" / "made" / "file").read_text() == "all"
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "deep" / "cut"):
        raise ZeroDivisionError
    assert not (tmp_path / "deep" / "cut").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file: exists; give the path of a new folder"), whole_folder(tmp_path / "file"):
        pass
    words = "made: cannot be written: (File exists|Not a directory)"
    with pytest.raises(RunError, match=words), whole_folder(tmp_path / "file" / "made"):
        pass


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    write_file(tmp_path / "made", b"all")
    assert (tmp_path / "made").read_bytes() == b"all"
    with pytest.raises(RunError, match="made: cannot be written: No such file or directory"):
        write_file(tmp_path / "no" / "made", b"all")
