"""Every row of the table is measured, on tiny settings, and the command does with them what it is told to."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from grownas import cli
from grownas.bench import settings, suite, timing
from grownas.bench.figures import Figure, Must
from grownas.bench.timing import Effort
from grownas.errors import DataError

SMALL = Effort(1e-9, 1, 1)


@pytest.fixture
def here(monkeypatch):
    """Work for a fresh process is done in this one, which leaves malloc as it is."""
    monkeypatch.setattr(suite.memory, "give_back_at_once", lambda: None)
    monkeypatch.setattr(suite, "in_process", lambda function, *arguments: function(*arguments))


def test_the_plan_has_every_row_of_every_table():
    plan = list(suite.plan())
    tables = (settings.SPEED, settings.DAGS, settings.GROWTH, settings.THREADS, settings.FIRST, settings.GPU)
    assert len(plan) == sum(map(len, tables)) + 1
    assert [name.partition(",")[0] for name in plan if "," in name] == [
        *["growth of cost"] * 5, *["threads"] * 4, *["first call"] * 2, "peak memory",
    ]  # fmt: skip
    assert set(suite.plan(quick=True)) < set(plan)


def test_a_speed_row_times_all_peers_and_names_our_backend(tiny):
    setting = tiny["derived"]._replace(musts=(Must("nn.LSTM", 1.0), Must("floor", 2.0, "torch")))
    row = suite.speed("name", setting, SMALL)
    assert {"reference", "torch", "nn.LSTM", "nn.GRU", "floor"} <= set(row.figures)
    assert (row.name, row.base, row.operations) == ("name", "floor", setting.operations)
    assert [must.of for must in row.musts] == [suite.ours(setting), "torch"]
    assert row.musts[0].of in row.figures
    assert len(row.checks()) == 2


def test_a_row_of_a_dag_names_our_backend_too():
    setting = settings.SMALL_DAG._replace(T=2, B=3, H=5, N=2)
    row = suite.dag_speed("name", setting, SMALL)
    assert {"reference", "torch", "published", "floor"} <= set(row.figures)
    assert (row.name, row.base, row.operations) == ("name", "floor", setting.operations)
    assert [(must.of, must.against) for must in row.musts] == [
        (suite.our_dag(setting), "reference"),
        ("native", "published"),
    ]


def test_growth_is_of_each_size(tiny):
    row = suite.growth("name", tiny["derived"], SMALL)
    assert list(row.figures) == ["as it is", "2 T", "2 B", "2 nodes", "2 ops"]
    assert {(must.of, must.against, must.bar) for must in row.musts} == {
        (size, "as it is", 2.1) for size in ("2 T", "2 B", "2 nodes", "2 ops")
    }


def test_two_threads_are_two_threads(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(suite, "_ours", lambda setting: lambda: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(suite, "reason_against_two", lambda: None)
    monkeypatch.setattr(timing, "SAMPLE_S", 0.0)
    with timing.threads(1):
        row = suite.two_threads("name", tiny["derived"], Effort(1e-9, 2, 2))
        assert torch.get_num_threads() == 1
    assert seen[:4] == [1, 1, 2, 2]  # warm-up and first sample of each
    assert sorted(seen[4:]) == [1, 2]
    assert row.musts == (Must("1 thread", 1.03, "2 threads"),)


@pytest.mark.parametrize(
    ("gain", "reason"),
    [(1.9, None), (0.5, "the second processor is busy: a 512 x 512 matrix product is only 0.50 x as fast on two")],
)
def test_two_threads_need_a_second_processor_that_is_free(monkeypatch, gain, reason, tiny):
    times = {suite.ONE: Figure(gain, gain, gain, 1), suite.TWO: Figure(1.0, 1.0, 1.0, 1)}
    monkeypatch.setattr(suite.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(suite, "measure", lambda peers, effort, clock: times)
    assert suite.two_threads("name", tiny["derived"], SMALL).skipped == reason


def test_a_second_processor_that_gets_busy_meanwhile_spoils_the_row(monkeypatch, tiny):
    reasons = [None, "busy now"]
    monkeypatch.setattr(suite, "reason_against_two", lambda: reasons.pop(0))
    assert suite.two_threads("name", tiny["derived"], SMALL).skipped == "busy now"
    assert reasons == []


def test_one_processor_is_a_reason(monkeypatch, tiny):
    monkeypatch.setattr(suite.os, "cpu_count", lambda: 1)
    assert suite.two_threads("name", tiny["derived"], SMALL).skipped == "the machine has one processor only"


def test_first_calls_may_take_50_ms_more(tiny, monkeypatch):
    found = {"first": [61.0], "new": [11.0, 12.0, 13.0], "later": [10.0, 10.0, 10.0]}
    monkeypatch.setattr(suite, "in_process", lambda function, setting, backend: found)
    row = suite.first_call("name", tiny["derived"], 2)
    assert row.figures["later + 50 ms"].median == 60.0
    assert row.figures["first"].samples == 2
    assert row.base == ""  # what a first call does more varies too much to be compared over runs
    assert {check.must.of: check.holds for check in row.checks()} == {"first": False, "new": True}


@pytest.mark.skipif(suite.memory.reason_against() is not None, reason=str(suite.memory.reason_against()))
def test_memory_is_held_against_the_outputs_of_the_ops(here, tiny):
    setting = tiny["supernet"]._replace(T=40, B=60, H=40)  # 9 MiB
    row = suite.peak_memory("name", setting, 1)
    assert row.figures["T B J K H x 4 bytes"].median == pytest.approx(40 * 60 * 40 * 24 * 4 / 2**20)
    assert {"reference", "torch", "nn.LSTM"} < set(row.figures)
    assert row.musts == (Must("T B J K H x 4 bytes", 2.0, suite.ours(setting)),)
    assert row.figures["reference"].median > row.figures["T B J K H x 4 bytes"].median


def test_memory_that_cannot_be_measured_is_skipped(tiny, monkeypatch):
    monkeypatch.setattr(suite.memory, "reason_against", lambda: "another system")
    assert suite.peak_memory("name", tiny["supernet"], 1).skipped == "another system"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_rows_of_the_gpu_are_skipped_without_one():
    rows = list(suite.rows(quick=True, only="GPU"))
    assert [row.skipped for row in rows] == ["torch sees no GPU"] * 2


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["supernet", "derived"])
def test_rows_of_the_gpu_are_timed_on_one(tiny, kind):
    row = suite.speed("name", tiny[kind]._replace(device="cuda"), SMALL)
    assert {"reference", "torch", "nn.LSTM", "nn.GRU", "floor"} <= set(row.figures)
    assert all(figure.median > 0 for figure in row.figures.values())


def test_work_goes_to_a_fresh_process():
    import os

    assert suite.in_process(os.getpid) != os.getpid()


def test_rows_are_chosen_by_name_and_run_on_one_thread(monkeypatch, make_row):
    plan = {name: lambda name=name: make_row(f"{name} {torch.get_num_threads()}") for name in ("a", "ab", "b")}
    monkeypatch.setattr(suite, "plan", lambda quick=False: plan)
    with timing.threads(2):
        assert [row.name for row in suite.rows(only="a")] == ["a 1", "ab 1"]
        assert torch.get_num_threads() == 2
    with pytest.raises(DataError, match="no row of the benchmark has 'c' in its name; it has a; ab; b"):
        next(suite.rows(only="c"))


@pytest.fixture
def planned(monkeypatch, make_row, make_results):
    """One row, of the speed that is set, on a machine that never changes."""
    speed = {"torch": 2.0}
    monkeypatch.setattr(suite, "plan", lambda quick=False: {"a": lambda: make_row("a", **speed)})
    machine = dict(make_results().machine)
    monkeypatch.setattr(suite.results, "describe_machine", lambda: machine)
    return speed, machine


def bench(*arguments):
    return CliRunner().invoke(cli.cli, ["bench", *map(str, arguments)], catch_exceptions=False)


def test_the_command_prints_the_machine_and_every_row(planned):
    done = bench()
    machine, head, row, *lines = done.output.splitlines()
    assert machine.startswith("cpu: a cpu; ")
    assert head.split()[0] == "peer"
    assert row == "a: ms, base: floor"
    assert len(lines) == 5 + 2
    assert done.exit_code == 0


def test_the_command_writes_and_draws_and_then_compares(planned, tmp_path):
    speed, machine = planned
    stored, drawn = tmp_path / "a.json", tmp_path / "a.svg"
    assert bench("--json", stored, "--picture", drawn).exit_code == 0
    assert json.loads(stored.read_text("utf-8"))["rows"][0]["name"] == "a"
    assert drawn.read_text("utf-8").startswith("<?xml")
    same = bench("--against", stored)
    assert same.exit_code == 0
    assert "1 ratios compared, 0 worse by more than noise" in same.output
    speed["torch"] = 3.0
    worse = bench("--against", stored, "--json", stored)  # read before it is written
    assert worse.exit_code == 1
    assert "slower: a: torch / floor was 4, is 6; noise allows 4.8" in worse.output
    assert bench("--against", stored).exit_code == 0
    machine["cpu"] = "another"
    speed["torch"] = 9.0
    elsewhere = bench("--against", stored)
    assert elsewhere.exit_code == 0
    assert "the machines differ, so the ratios may differ too: cpu a cpu then, another now" in elsewhere.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "nothing.json"], "nothing.json: cannot be read"),
        (["--picture", "a.gif"], "a.gif: expected a picture with suffix .svg, .png, got .gif"),
        (["--only", "x"], "no row of the benchmark has 'x'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(planned, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(suite, "measure", None)
    monkeypatch.setattr("sys.argv", ["grownas", "bench", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_console_script_exits_with_1_if_something_is_slower(planned, monkeypatch, tmp_path):
    speed, _ = planned
    bench("--json", tmp_path / "a.json")
    speed["torch"] = 3.0
    monkeypatch.setattr("sys.argv", ["grownas", "bench", "--against", str(tmp_path / "a.json")])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
