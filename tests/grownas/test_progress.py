"""Progress: plain lines where there is no terminal, one live line on a terminal, nothing if quiet."""

from __future__ import annotations

import io
import re

import pytest

from grownas import progress as module
from grownas.progress import PLAIN_EVERY_S, Progress, describe

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


def test_the_first_note_comes_at_once_and_the_next_when_it_is_time(clock):
    stream = io.StringIO()
    with Progress(stream=stream) as shown:
        for fold in range(1, 5):
            shown.note(f"choosing the linear start: fold {fold} of 4")
            clock[0] += PLAIN_EVERY_S / 2
        shown.update(**EPOCH)
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["choosing the linear start: fold 1 of 4", "choosing the linear start: fold 3 of 4"]
    assert lines[2].startswith("stage-1")


def test_a_note_stands_on_the_live_line(terminal):
    with Progress(stream=terminal) as shown:
        shown.note("choosing the linear start: fold 3 of 10")
        shown.bar.refresh()
    text = terminal.getvalue()
    assert "choosing the linear start" in text
    assert "fold 3 of 10" in text


@pytest.mark.parametrize("make", [io.StringIO, Terminal])
def test_quiet_shows_nothing(make):
    stream = make()
    with Progress(quiet=True, stream=stream) as shown:
        shown.note("fold 1 of 10")
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
