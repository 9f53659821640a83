"""Shell completion: what is offered at each place, in the words of each shell, and without heavy imports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class

from grownas import cli, completion
from grownas.baselines.table import names
from grownas.config.shipped import shipped


def offered(*words: str) -> list[str]:
    """Return what is offered for the last word after those before it."""
    *before, incomplete = words
    return [item.value for item in completion.Zsh(cli.cli, {}, "grownas", "X").get_completions(before, incomplete)]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a config, a table, and two run folders, one of them in `runs`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("seed: 3\n")
    (tmp_path / "closes.csv").write_text("")
    for name in ("runs/first", "elsewhere/second"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
        (tmp_path / name / "config.yaml").write_text("task: {use: penn_treebank}\n")
    return tmp_path


SEARCH = ("search", "index_returns/growing")


def test_commands_and_shells_are_offered():
    assert offered("re") == ["report", "resume"]
    assert offered("completion", "") == list(cli.SHELLS)


def test_configs_are_offered_by_name_and_by_path(folder):
    assert offered("search", "penn") == [name for name in shipped() if name.startswith("penn")]
    assert offered("compare", "") == [*shipped(), "elsewhere/", "own.yaml", "runs/"]
    assert offered("search", "elsewhere/sec") == ["elsewhere/second/"]


@pytest.mark.parametrize("command", ["resume", "evaluate", "export", "predict", "report"])
def test_run_folders_are_offered_those_in_runs_first(folder, command):
    assert offered(command, "") == ["runs/first", "elsewhere/", "runs/"]
    assert offered(command, "elsewhere/") == ["elsewhere/second"]
    assert offered(command, str(folder / "els")) == [f"{folder}/elsewhere/"]
    assert offered(command, "nothing/x") == []


def test_several_runs_are_offered_to_the_report(folder):
    assert offered("report", "runs/first", "runs/") == ["runs/first"]


def test_all_that_is_shown_is_offered(folder):
    assert offered("show", "da") == ["darts_v1", "darts_v2"]
    assert {"index_returns/growing", "own.yaml", "elsewhere/"} <= set(offered("show", ""))


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("st", ["start.", "strategy.", "strategies=", "study."]),
        ("see", ["seed=", "seeds="]),
        ("strategy.pr", ["strategy.prune=", "strategy.prune_threshold="]),
        ("strategy.weights.op", ["strategy.weights.optimizer="]),
        ("budg", [f"budget.{key}=" for key in ("steps", "seconds", "cpu_seconds", "genotypes")]),
        ("strategy.spl", [f"strategy.splitting.{key}=" for key in ("rule", "count", "part", "curvature")]),
        ("task.d", ["task.data=", "task.data_seed=", "task.difference="]),
        ("nothing.a", []),
        ("seed.a", []),
    ],
)
def test_keys_are_offered_level_by_level(typed, expected):
    assert offered(*SEARCH, typed) == expected


def test_a_single_section_is_offered_with_its_keys():
    keys = offered(*SEARCH, "strategy")
    assert "strategy.use=" in keys
    assert "strategy.weights." in keys
    assert all(key.startswith("strategy.") and key.endswith(("=", ".")) for key in keys)


def test_the_task_decides_which_keys_there_are():
    assert offered(*SEARCH, "retrain.la") == []
    assert offered("search", "penn_treebank/growing", "retrain.la") == ["retrain.layers="]
    assert offered("search", "penn_treebank/growing", "task.use=index_returns", "retrain.la") == []
    assert offered("search", "predistortion/growing", "start.use=p") == ["start.use=polynomial"]
    assert offered("search", "predistortion/growing", "baselines.use=[gmp,dg") == ["baselines.use=[gmp,dgru"]


def test_the_strategy_decides_which_keys_it_has():
    assert offered(*SEARCH, "strategy.geno") == []
    assert offered(*SEARCH, "strategy.use=random", "strategy.geno") == ["strategy.genotypes="]


def test_a_key_that_is_given_is_not_offered_again():
    assert offered(*SEARCH, "seed=1", "see") == ["seeds="]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("strategy.mode=n", ["strategy.mode=nodes", "strategy.mode=nodes_and_ops"]),
        ("quiet=", ["quiet=true", "quiet=false"]),
        ("task.use=", ["task.use=index_returns", "task.use=penn_treebank", "task.use=predistortion"]),
        ("strategy.use=r", ["strategy.use=random", "strategy.use=random_shared", "strategy.use=rdarts"]),
        ("space.combine=[add,h", ["space.combine=[add,hadamard"]),
        ("space.activation=ta", ["space.activation=tanh"]),
        ("baselines.use=[zero,l", ["baselines.use=[zero,lstm", "baselines.use=[zero,lru"]),
        ("task.data=clo", ["task.data=closes.csv"]),
        ("runs=e", ["runs=elsewhere/"]),
        ("seed=", []),
        ("nothing=", []),
    ],
)
def test_values_are_offered_where_there_is_a_choice(folder, typed, expected):
    assert offered(*SEARCH, typed) == expected


def test_train_is_offered_cells_and_baselines(folder):
    (folder / "genotype.json").write_text("")
    assert offered("train", "index_returns/growing", "gen") == ["genotype="]
    assert offered("train", "index_returns/growing", "genotype=gen") == ["genotype=genotype.json"]
    assert offered("train", "index_returns/growing", "genotype=darts_v") == ["genotype=darts_v1", "genotype=darts_v2"]
    assert {f"genotype={name}" for name in names("series")} <= set(offered("train", SEARCH[1], "genotype="))
    assert offered(*SEARCH, "gen") == []


def test_a_run_is_offered_only_the_keys_that_it_takes(folder):
    assert offered("resume", "runs/first", "see") == ["seeds="]
    assert offered("resume", "runs/first", "strategy") == []
    assert offered("resume", "runs/first", "strat") == ["strategies="]
    assert offered("evaluate", "runs/first", "task.dy")[0].startswith("task.dynamic")
    assert offered("evaluate", "runs/first", "task.bptt") == []
    assert offered("predict", "runs/first", "") == ["task.", "threads=", "device=", "backend=", "out="]
    assert offered("evaluate", "runs/first", "si") == ["since="]
    assert offered("tabulate", SEARCH[1], "ou") == ["out="]


def test_keys_of_a_single_command_and_names_of_panels_and_tables_are_offered(folder):
    (folder / "runs/first/config.yaml").write_text("task: {use: index_returns}\n")
    assert offered("update", "runs/first", "ho") == ["how="]
    assert offered("update", "runs/first", "how=") == [f"how={how}" for how in ("state", "continue", "grow", "refit")]
    assert offered("tabulate", "index_returns/growing", "ou") == ["out="]
    assert offered(*SEARCH, "task.data=sk") == ["task.data=skfolio_sp500"]
    assert offered("compare", SEARCH[1], "panels=[bundled,sk") == ["panels=[bundled,skfolio_sp500"]
    assert "panels=[closes.csv" in offered("compare", SEARCH[1], "panels=[clo")
    assert offered(*SEARCH, "task.replay=")[:2] == ["task.replay=planted", "task.replay=nonlinear"]
    assert "task.replay=closes.csv" in offered(*SEARCH, "task.replay=")


def test_export_is_offered_files_and_forms(folder):
    (folder / "model.onnx").write_text("")
    assert offered("export", "runs/first", "") == ["elsewhere/", "model.onnx", "runs/"]
    assert offered("export", "runs/first", "model.onnx", "f") == ["form="]
    assert offered("export", "runs/first", "model.onnx", "form=s") == ["form=sequence", "form=step"]
    assert offered("export", "runs/first", "model.onnx", "form=step", "f") == []


@pytest.mark.parametrize(
    "words", [("search", "nowhere", "task.d"), ("resume", "nowhere", "task.d"), ("show", "runs", "task.d")]
)
def test_where_the_words_before_are_wrong_nothing_is_offered(folder, words):
    assert offered(*words) == []


# ---- without heavy imports

LOOK = """
import json, sys
from grownas import cli, completion
lines = json.loads(sys.argv[1])
for *before, incomplete in lines:
    assert completion.Zsh(cli.cli, {}, "grownas", "X").get_completions(before, incomplete)
print(json.dumps([name for name in ("pydantic", "yaml", "torch", "numpy") if name in sys.modules]))
"""


@pytest.mark.parametrize(
    ("lines", "loaded"),
    [
        ([["se"], ["search", ""], ["resume", ""], ["completion", ""], ["show", "index"]], []),
        ([[*SEARCH, ""], [*SEARCH, "st"], [*SEARCH, "budget."], [*SEARCH, "space."]], ["pydantic", "yaml"]),
        (
            [
                *([*SEARCH, word] for word in ("strategy.", "strategy.mode=", "task.", "baselines.losses=")),
                *(["search", "penn_treebank/growing", word] for word in ("task.", "retrain.", "baselines.use=")),
                [*SEARCH, "strategy.use=random", "strategy."],
                ["evaluate", "runs/first", "task."],
            ],
            ["pydantic", "yaml", "numpy"],  # the latter by the options of index_returns
        ),
    ],
    ids=["names", "keys", "keys of plug-ins"],
)
def test_what_is_not_needed_is_not_loaded(folder, lines, loaded):
    done = subprocess.run([sys.executable, "-c", LOOK, json.dumps(lines)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == loaded


REFUSED = """
import sys
from grownas import cli
sys.argv[1:] = [sys.argv[1], "index_returns/growing", "strategy.max_node=2", "space.combine=ad", "task.datta=1"]
try:
    cli.main()
finally:
    print([name for name in ("torch", "pandas") if name in sys.modules])
"""


@pytest.mark.parametrize("command", ["search", "compare"])
def test_a_config_is_refused_without_heavy_imports(command):
    done = subprocess.run([sys.executable, "-c", REFUSED, command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert "strategy.max_node: unknown key; did you mean" in done.stderr


# ---- in a shell


@pytest.fixture
def installed(folder, monkeypatch) -> Path:
    """A folder on the path that holds the command `grownas`."""
    program = folder / "bin" / "grownas"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom grownas.cli import main\nmain()\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return folder


def shell(name: str, code: str) -> list[str]:
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here")
    done = subprocess.run([name, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("grownas resu", ["resume"]),
        ("grownas search index_returns/growing strategy.mode = nodes_", ["nodes_and_ops"]),  # as Bash breaks words
        (
            "grownas search index_returns/growing strategy.mode =",
            ["nodes", "ops_duplicate", "ops_split", "nodes_and_ops"],
        ),
        ("grownas search index_returns/growing task.use = index_returns see", ["seed=", "seeds="]),
        ("grownas resume runs/", ["runs/first"]),
    ],
)
def test_bash_completes(installed, words, expected):
    code = f"""
        compopt() {{ :; }}  # works only while a line is edited
        eval "$(grownas completion bash)"
        COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _grownas_completion grownas
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert shell("bash", code) == expected


def test_fish_completes(installed):
    code = "grownas completion fish | source; complete -C 'grownas search index_returns/growing strategy.mode=nodes_'"
    assert shell("fish", code) == ["strategy.mode=nodes_and_ops"]


def test_zsh_takes_the_script(installed):
    assert shell("zsh", 'autoload -U compinit; compinit -u -d zdump; eval "$(grownas completion zsh)"; echo done') == [
        "done"
    ]


@pytest.mark.parametrize("name", cli.SHELLS)
def test_what_is_printed_is_the_script_that_click_would_print(installed, name):
    printed = subprocess.run(["grownas", "completion", name], capture_output=True, text=True, check=True).stdout
    asked = {**os.environ, cli.COMPLETE: f"{name}_source"}
    assert printed == subprocess.run(["grownas"], capture_output=True, text=True, env=asked, check=True).stdout
    assert get_completion_class(name) is not None
