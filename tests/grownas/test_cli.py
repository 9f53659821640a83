"""The command line: what is parsed reaches the right function, and every end has its exit status and its words."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import grownas
from grownas import cli
from grownas.errors import ConfigError, DataError, GenotypeError, GrownasError, Interrupted, RunError, TrainingError

AHEAD = {f"S{number}": 0.1 + number for number in range(22)}
COMMANDS = (
    "backtest",
    "bench",
    "compare",
    "completion",
    "evaluate",
    "export",
    "predict",
    "report",
    "resume",
    "search",
    "show",
    "status",
    "tabulate",
    "train",
    "update",
)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line in this process: `call("search", ...)` gives (status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["grownas", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return run


@pytest.fixture
def calls(monkeypatch):
    """Stand in for the functions behind the commands; what they were given is kept."""
    from grownas.report import page
    from grownas.runs import commands as run
    from grownas.runs import exporting, reload
    from grownas.runs.exporting import Exported
    from grownas.runs.reload import Written

    kept = []

    def stand_in(name, answer=None):
        def take(*arguments, **named):
            kept.append((name, *arguments, *([named] if named else [])))
            return answer

        return take

    for module, name, answer in [
        (run, "search", None),
        (run, "compare", None),
        (run, "train", None),
        (run, "resume", None),
        (
            reload,
            "write_forecasts",
            Written(Path("x/forecasts.csv"), "prices", "2024-01-08", "Monday to Friday", AHEAD),
        ),
        (
            exporting,
            "export",
            Exported(Path("m.onnx"), ["x float32 (B, 2)", "state float32 (1, B, 4)"], ["y float32 (B)"]),
        ),
        (reload, "show", "1 node(s)"),
        (page, "write_report", Path("x/report.html")),
        (
            reload,
            "evaluate",
            {"val": {"mse": 0.1 + 0.2, "mae": 0.5, "r2": None, "hit_rate": 0.25, "count": 12}},
        ),
    ]:
        monkeypatch.setattr(module, name, stand_in(name, answer))
    return kept


# ---- what is parsed reaches its function


@pytest.mark.parametrize("command", ["search", "compare"])
def test_config_and_overrides_reach_search_and_compare(call, calls, command):
    assert call(command, "index_returns/growing", "seed=3", "strategy.patience=5") == (0, "", "")
    ((name, config),) = calls
    assert (name, config.seed, config.strategy.patience) == (command, 3, 5)


@pytest.mark.parametrize("what", ["gru", "some/genotype.json", "a=b.json"])
def test_train_takes_the_genotype_from_among_the_overrides(call, calls, what):
    assert call("train", "index_returns/growing", "seed=3", f"genotype={what}", "quiet=true")[0] == 0
    ((name, config, given),) = calls
    assert (name, config.seed, config.quiet, given) == ("train", 3, True, what)


@pytest.mark.parametrize(
    ("count", "arguments"),
    [(0, ()), (1, ("genotype=",)), (2, ("genotype=gru", "genotype=lstm")), (0, ("genotyp=gru",))],
)
def test_train_needs_one_genotype(call, calls, count, arguments):
    status, out, err = call("train", "index_returns/growing", *arguments)
    assert (status, out, calls) == (2, "", [])
    assert err == (
        f"error: train needs genotype= exactly once, got {count}; give the path of a genotype.json, a "
        "published cell such as genotype=darts_v2, or a baseline such as genotype=gru\n"
    )


def test_resume_takes_a_run_and_overrides(call, calls):
    assert call("resume", "runs/a", "quiet=true") == (0, "", "")
    assert calls == [("resume", Path("runs/a"), ("quiet=true",))]


def test_predict_takes_a_run_and_overrides_and_prints_where_and_the_next_step(call, calls):
    status, out, err = call("predict", "runs/a", "task.data=b.csv", "out=c.csv", "task.units=prices")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[:4] == ["x/forecasts.csv", "units: prices", "next step: 2024-01-08 (Monday to Friday)", "  S0 0.1"]
    assert lines[-2:] == ["  S19 19.1", "  and 2 more series in the file"]
    assert call("predict", "runs/a")[0] == 0
    assert calls == [
        ("write_forecasts", Path("runs/a"), ("task.data=b.csv", "task.units=prices"), {"out": Path("c.csv")}),
        ("write_forecasts", Path("runs/a"), (), {"out": None}),
    ]


@pytest.mark.parametrize("arguments", [("since=",), ("since=2020-01-01", "since=2021-01-01")])
def test_an_argument_is_given_once_and_not_empty(call, calls, arguments):
    status, _, err = call("evaluate", "runs/a", *arguments)
    assert (status, calls) == (2, [])
    assert "since= needs one value" in err


def test_evaluate_prints_every_digit(call, calls):
    status, out, _ = call("evaluate", "runs/a")
    assert status == 0
    assert out == "val mse 0.30000000000000004\n  mae 0.5, hit_rate 0.25, 12 forecasts\n"
    assert float(out.split()[2]) == 0.1 + 0.2
    assert calls == [("evaluate", Path("runs/a"), (), {"since": None})]


def test_evaluate_takes_a_date(call, calls):
    assert call("evaluate", "runs/a", "task.data=b.csv", "since=2020-01-01")[0] == 0
    assert calls == [("evaluate", Path("runs/a"), ("task.data=b.csv",), {"since": "2020-01-01"})]


def test_export_takes_a_run_a_file_and_a_form_and_prints_inputs_and_outputs(call, calls):
    assert call("export", "runs/a", "m.onnx", "form=step", "device=cpu") == (
        0,
        "m.onnx\ninputs: x float32 (B, 2), state float32 (1, B, 4)\noutputs: y float32 (B)\n",
        "",
    )
    assert call("export", "runs/a", "m.onnx")[0] == 0
    assert calls == [
        ("export", Path("runs/a"), Path("m.onnx"), ("device=cpu",), {"form": "step"}),
        ("export", Path("runs/a"), Path("m.onnx"), ()),
    ]


def test_report_takes_one_or_several_runs(call, calls):
    assert call("report", "a") == (0, "x/report.html\n", "")
    assert call("report", "a", "b")[0] == 0
    assert calls == [("write_report", (Path("a"),)), ("write_report", (Path("a"), Path("b")))]


@pytest.mark.parametrize("what", ["runs/a", "a/genotype.json", "genotype"])
def test_show_prints_the_cell_of_a_run_or_genotype(call, calls, what):
    assert call("show", what) == (0, "1 node(s)\n", "")
    assert calls == [("show", Path(what))]


def test_show_prints_a_config_with_its_overrides(call, calls, tmp_path):
    (tmp_path / "own.yaml").write_text("strategy: {patience: 3}")
    for what in ("index_returns/growing", tmp_path / "own.yaml"):
        status, out, err = call("show", what, "seed=9", "strategy.max_nodes=2")
        assert (status, err, calls) == (0, "", [])
        shown = yaml.safe_load(out)
        assert (shown["seed"], shown["strategy"]["max_nodes"]) == (9, 2)
    assert shown["strategy"]["patience"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["index_returns/growin"], "index_returns/growin: no such file, and no shipped config; did you mean "),
        (["index_returns/growing", "sed=3"], "sed: unknown key; did you mean seed?"),
        (["own.yaml"], "own.yaml: no such file, and no shipped config; shipped: "),
        (["runs/a", "seed=3"], "seed=3: key=value needs a config, but runs/a is a run or a genotype"),
    ],
)
def test_show_says_what_is_wrong(call, calls, arguments, words):
    status, out, err = call("show", *arguments)
    assert (status, out, calls) == (2, "", [])
    assert words in err


@pytest.mark.parametrize("command", ["search", "compare", "train"])
def test_the_help_says_how_to_see_all_keys_and_loads_nothing_heavy(command):
    code = f"""if True:
        import sys
        sys.argv = ["grownas", "{command}", "--help"]
        from grownas import cli
        try:
            cli.main()
        finally:
            print([name for name in ("torch", "numpy", "pydantic", "yaml") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *words, heavy = done.stdout.splitlines()
    assert "`grownas show CONFIG` prints every key" in " ".join(" ".join(words).split())
    assert heavy == "[]"


# ---- how it ends


@pytest.mark.parametrize("error", [GrownasError, ConfigError, DataError, GenotypeError, RunError])
def test_the_users_errors_end_with_2_and_a_message_alone(call, monkeypatch, error):
    def fail(*_):
        raise error("closes.csv, row 3: no number")

    monkeypatch.setattr("grownas.runs.commands.search", fail)
    assert call("search", "index_returns/growing") == (2, "", "error: closes.csv, row 3: no number\n")


def test_training_that_fails_ends_with_1(call, monkeypatch):
    def fail(*_):
        raise TrainingError("stage 1, step 7: the loss is nan")

    monkeypatch.setattr("grownas.runs.commands.search", fail)
    assert call("search", "index_returns/growing") == (
        1,
        "",
        "error: training stopped: stage 1, step 7: the loss is nan\n",
    )


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(call, monkeypatch):
    def stop(*_):
        raise Interrupted(Path("runs/a"))

    monkeypatch.setattr("grownas.runs.commands.search", stop)
    status, out, err = call("search", "index_returns/growing")
    assert (status, out) == (130, "")
    assert err.strip() == "interrupted; `grownas resume runs/a` continues the run"


def test_an_interrupt_before_there_is_a_run_says_that_nothing_can_be_resumed(call, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("grownas.runs.commands.search", stop)
    status, _, err = call("search", "index_returns/growing")
    assert (status, err.strip()) == (130, "interrupted before anything was saved; start the command again")


@pytest.mark.parametrize("error", [KeyboardInterrupt("runs/a"), KeyboardInterrupt()])
def test_an_interrupt_outside_click_is_told_alike(error, capsys):
    def stop(standalone_mode):
        raise error

    assert cli._status(stop) == 130
    assert capsys.readouterr().err.startswith("interrupted")


def test_our_own_mistakes_are_not_hidden(monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr("grownas.runs.commands.search", fail)
    monkeypatch.setattr(sys, "argv", ["grownas", "search", "index_returns/growing"])
    with pytest.raises(ZeroDivisionError):  # Python then prints the traceback and exits with 1
        cli.main()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serch"], "Did you mean 'search'?"),
        (["evalute", "x"], "Did you mean 'evaluate'?"),
        (["zzz"], "No such command 'zzz'."),
        (["search"], "Missing argument 'CONFIG'."),
        (["report"], "Missing argument 'RUN [RUN]...'."),
        (["search", "--fast", "x"], "No such option"),
    ],
)
def test_wrong_usage_ends_with_2_and_a_hint(call, arguments, words):
    status, out, err = call(*arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert "Usage:" in err
    assert "Traceback" not in err
    assert err.count("Did you mean") <= 1


def test_a_wrong_config_ends_with_2(call):
    status, out, err = call("search", "index_returns/growing", "strategy.patienc=3", "seed=x")
    assert (status, out) == (2, "")
    assert err == (
        "error: index_returns/growing: 2 problems\n"
        "  strategy.patienc: unknown key; did you mean strategy.patience?\n"
        "  seed: expected a valid integer, got 'x'\n"
    )


@pytest.mark.parametrize("command", ["resume", "evaluate", "predict", "report", "show"])
def test_a_folder_that_is_not_there_ends_with_2(call, tmp_path, command):
    status, out, err = call(command, tmp_path / "nothing")
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {tmp_path / 'nothing'}: ")
    assert err.count("\n") == 1


def test_version_and_help(call):
    assert call("--version")[:2] == (0, f"grownas, version {grownas.__version__}\n")
    status, out, _ = call("--help")
    assert status == 0
    assert re.findall(r"^  (\w+)  ", out, re.MULTILINE) == list(COMMANDS)
    for name in COMMANDS:
        status, text, _ = call(name, "-h")
        assert status == 0
        assert cli.cli.commands[name].get_short_help_str(200).split(".")[0].split(",")[0][:30] in " ".join(text.split())


def test_every_command_has_a_help_that_is_not_cut_in_the_list(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listed = call("--help")[1].partition("Commands:")[2].splitlines()
    assert len([line for line in listed if line.strip()]) == len(COMMANDS)  # one line each
    assert not [line for line in listed if line.endswith("...")]


def test_the_console_script_and_the_module_are_the_same(tmp_path):
    """In a process of its own: a message on stderr, nothing else, status 2."""
    done = subprocess.run(
        [sys.executable, "-m", "grownas", "search", "nowhere.yaml"], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nowhere.yaml: no such file, and no shipped config")
    assert list(tmp_path.iterdir()) == []
