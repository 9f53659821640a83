"""Progress: plain lines where there is no terminal, one live line on a terminal, nothing if quiet."""

from __future__ import annotations

import builtins
import io
import re
import sys
import threading
import types

import pytest

from grownas.runs import progress as module
from grownas.runs.progress import PLAIN_EVERY_S, Progress, describe

EPOCH = {
    "part": "stage-1-pull-100",
    "stage": 1,
    "nodes": 2,
    "epoch": 3,
    "epochs": 200,
    "best": 0.51234567,
    "left_s": 41.6,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return Terminal()


def test_an_epoch_in_words():
    assert describe(nodes=2, epoch=3, best=0.51234567, left_s=41.6) == (
        "2 nodes, epoch 3, best validation 0.51235, at most 42 s left"
    )
    assert describe(nodes=1, epoch=1, best=1.0, left_s=None) == "1 node, epoch 1, best validation 1.00000"
    assert describe(nodes=None, epoch=1, best=float("inf"), left_s=0.0) == (
        "epoch 1, best validation inf, at most 0 s left"
    )


def test_lines_are_plain_where_there_is_no_terminal(clock):
    stream = io.StringIO()
    with Progress(stream=stream) as shown:
        shown.update(**EPOCH)
        shown.say("growth ended")
    assert stream.getvalue() == (
        "stage-1-pull-100: 2 nodes, epoch 3, best validation 0.51235, at most 42 s left\ngrowth ended\n"
    )


def test_plain_lines_come_now_and_then_also_where_fits_are_short(clock):
    trial = {**EPOCH, "stage": 0, "nodes": None}
    stream = io.StringIO()
    with Progress(stream=stream) as shown:
        for epoch in range(1, 4):
            shown.update(**{**EPOCH, "epoch": epoch})
        clock[0] += PLAIN_EVERY_S
        shown.update(**{**EPOCH, "epoch": 4})
        clock[0] += PLAIN_EVERY_S / 2
        shown.update(**{**EPOCH, "epoch": 5})
        shown.update(**{**trial, "part": "gru-8-squared", "epoch": 1})
        clock[0] += PLAIN_EVERY_S / 2
        shown.update(**{**trial, "part": "gru-8-huber", "epoch": 1})
    assert [re.search(r"^(\S+):.*epoch (\d+)", line).groups() for line in stream.getvalue().splitlines()] == [
        ("stage-1-pull-100", "1"),
        ("stage-1-pull-100", "4"),
        ("gru-8-huber", "1"),
    ]


@pytest.mark.parametrize("make", [io.StringIO, Terminal])
def test_quiet_shows_nothing(make):
    stream = make()
    with Progress(quiet=True, stream=stream) as shown:
        shown.update(**EPOCH)
        shown.say("growth ended")
    assert stream.getvalue() == ""


def test_a_terminal_gets_one_live_line_that_goes_away(terminal):
    with Progress(stream=terminal) as shown:
        shown.update(**EPOCH)
        shown.bar.refresh()  # else a thread does, ten times a second
        shown.say("seed-1: started [bold]as it is[/bold]")
        shown.update(**{**EPOCH, "part": "gru-8-huber", "stage": 0, "nodes": None, "epoch": 7})
        shown.bar.refresh()
    text = terminal.getvalue()
    assert "\x1b[" in text  # moves the cursor
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "stage 1" in plain  # a stage of growth is called by its number
    assert "gru-8-huber" in plain  # any other fit by its name
    assert "2 nodes, epoch 3, best validation 0.51235, at most 42 s left" in plain
    assert "epoch 7, best validation" in plain
    assert "seed-1: started [bold]as it is[/bold]\n" in plain.replace("\r", "")  # a name is no markup
    assert text.endswith(("\x1b[2K", "\x1b[?25h"))  # the line is wiped, the cursor shown again
    assert "\x1b[?25h" in text


def test_the_live_line_goes_away_after_an_error(terminal):
    with pytest.raises(ZeroDivisionError), Progress(stream=terminal) as shown:
        shown.update(**{**EPOCH, "best": 1 / 0})
    assert "\x1b[?25h" in terminal.getvalue()
    assert shown.bar.finished or not shown.bar.live.is_started


def test_results_go_to_standard_output_progress_does_not(capsys):
    with Progress() as shown:
        shown.say("seed-1: started")
    assert capsys.readouterr() == ("", "seed-1: started\n")


# ---- several at a time


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


def test_one_after_the_other_works(terminal):
    for number in (1, 2):
        with Progress(stream=terminal) as shown:
            shown.say(f"run {number}")
    assert "run 1\n" in plain(terminal.getvalue())
    assert "run 2\n" in plain(terminal.getvalue())
    assert module._displays == {}


def test_one_within_another_has_a_line_of_its_own(terminal):
    with Progress(stream=terminal) as outer:
        outer.show("comparison")
        with Progress(stream=terminal) as inner:
            inner.show("folds", "3 of 5", done=3, total=5)
            assert inner.bar is outer.bar
            assert [task.description for task in inner.bar.tasks] == ["comparison", "folds"]
        assert [task.description for task in outer.bar.tasks] == ["comparison"]
        assert outer.bar.live.is_started
    assert not outer.bar.live.is_started
    assert module._displays == {}


def test_the_error_stream_that_a_display_stands_in_for_is_found(terminal, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress() as outer, Progress() as inner:  # rich has put its own stream in place of the outer one's
        assert inner.stream is terminal
        assert inner.bar is outer.bar


def test_it_works_in_threads_at_the_same_time(terminal):
    ready = threading.Barrier(2, timeout=30)
    errors = []

    def run(number):
        try:
            with Progress(stream=terminal) as shown:
                ready.wait()
                shown.update(**{**EPOCH, "stage": number})
                shown.say(f"run {number} is done")
                ready.wait()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all(f"run {number} is done\n" in plain(terminal.getvalue()) for number in (1, 2))
    assert module._displays == {}


# ---- work that is no fit


def test_any_work_can_show_how_far_it_is(clock):
    stream = io.StringIO()
    with Progress(stream=stream) as shown:
        shown.say("reading the data")
        for fold in range(1, 6):
            shown.show("linear start", f"fold {fold} of 5", done=fold, total=5)
            clock[0] += PLAIN_EVERY_S / 2
        shown.show("growth")
    assert stream.getvalue().splitlines() == [
        "reading the data",
        "linear start: fold 1 of 5",
        "linear start: fold 3 of 5",
        "linear start: fold 5 of 5",
    ]


def test_a_live_line_shows_any_work_at_once(terminal):
    with Progress(stream=terminal) as shown:
        shown.show("linear start [of 3]", "fold 3 of 5", done=3, total=5)
        task = shown.bar.tasks[0]
        assert (task.description, task.completed, task.total) == ("linear start [of 3]", 3, 5)
        shown.show("reading the data")  # nobody knows how long
        assert (shown.bar.tasks[0].completed, shown.bar.tasks[0].total) == (0, 1)
        shown.show("linear start [of 3]", "fold 4 of 5", done=4, total=5)
        shown.bar.refresh()
    assert re.search(r"linear start \[of 3\] [━╸╺]+ fold 4 of 5", plain(terminal.getvalue()))


# ---- notebooks


class ZMQInteractiveShell:
    """What rich takes a notebook by: the name of the shell's class."""


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_has_a_live_line_where_widgets_are_installed(monkeypatch, widgets):
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setattr("rich.console.get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setattr(module, "find_spec", lambda name: widgets or None)
    monkeypatch.setattr("sys.stderr", io.StringIO())  # as the kernel's, which is no terminal
    assert Progress().live is widgets
    assert Progress(quiet=True).live is False
    assert Progress(stream=io.StringIO()).live is False
