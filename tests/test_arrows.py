"""Layers: which module may import which.

A module may import only what stands on a line below its own. Imports inside functions count, imports for type
checkers alone do not.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = """
    __main__  runs.attended  runs.trial_worker
    cli
    completion
    sktime
    forecaster
    api  bench.suite  runs.status  saved_forecaster
    backtested
    runs.exporting
    runs.reload  runs.updating
    bench.trials
    bench.table  bench.picture
    bench.results  bench.memory  bench.first
    bench.peers  bench.timing  bench.dag_peers
    bench.settings
    bench.figures
    runs.commands
    runs.sweep  experiments.study  experiments.replay  runs.saved
    experiments.backtesting
    experiments.walking  experiments.linear_walk
    experiments.timeline
    experiments.tabulate  experiments.updating
    experiments.search
    experiments.starts
    experiments.quantising
    experiments.text  experiments.series
    experiments.experiment
    experiments.choosing
    report.page
    runs.trial_cluster
    runs.cluster  runs.trial_processes
    runs.trials
    runs.launchers  runs.requests
    report.backtest  report.figures
    runs.journal  runs.memory  report.plots  report.study  report.replays  report.front
    report.growth_plots
    report.history  report.canvas
    report.growth_log
    report.forecaster
    report.drawings
    report.blocks_diagram
    report.dag_diagram
    report.verdicts  report.regret
    report.tables  report.diagram  report.reading
    report.damage
    export.model
    model_equations  language_equations
    blocks_equations
    equations
    export.blocks
    export.cells
    export.graph
    export.ends
    baselines.series  baselines.text  baselines.plain
    strategies.growing.strategy
    strategies.darts  strategies.gaea  strategies.sdarts  strategies.darts_minus  strategies.rdarts
    strategies.pdarts  strategies.cdarts  strategies.random_shared  strategies.enas  strategies.nas_rl
    strategies.shared
    strategies.supernet
    strategies.following
    strategies.growing.stages
    strategies.growing.pruning
    strategies.growing.moves
    strategies.growing.context  strategies.growing.batches
    strategies.random_search  strategies.evolution  strategies.seqnas  strategies.policy
    strategies.growing.state  strategies.sampling  strategies.predictor
    strategies.growing.options  strategies.cores  starts.var  training.migrate
    criteria.acceptance  criteria.drift  criteria.first_order  criteria.alpha_hessian  starts.random
    morphisms  criteria.splitting  criteria.readout
    morphisms.nodes  morphisms.copies  morphisms.removal  morphisms.candidates
    morphisms.dags
    morphisms.origins  morphisms.parts  criteria.curvature
    backbones.chain  backbones.dag  backbones.blocks
    backbones.mixture  backbones.shared
    cells.widths  cells.integer
    cells.derived  cells.observers
    cells.cell  bits
    cells.dag  cells.packed  cells.dag_supernet  cells.blocks  cost
    cells.chain  baselines.recurrent
    cells.backends  cells.gated
    cells.triton_loop  cells.dag_torch_loop  cells.dag_native_loop  cells.native_pass
    cells.dag_supernet_torch_loop  cells.dag_supernet_native_loop
    cells.quantised_sequence
    cells.reference  cells.torch_loop  cells.native_loop  cells.dag_sequence  cells.dag_supernet_sequence
    cells.quantised_product
    cells.sequence  cells.triton_pointwise
    cells.node  cells.quantised_blocks
    cells.quantiser
    cells.operators  cells.dag_plan
    cells.plan
    baselines.combination  baselines.har  baselines.min_gru  baselines.lru
    baselines.tsmixer  baselines.dlinear  baselines.esn
    baselines.var  baselines.naive  baselines.scan  baselines.window
    training.loop
    training.perturb  training.distil  training.moments  training.pricing  training.stream
    training.bilevel  criteria.early_stop
    training.recipe  training.uncompiled
    evaluation.panels
    evaluation.comparison  evaluation.studies  evaluation.replays  evaluation.backtest
    evaluation.statistics  evaluation.fronts  config.listing  criteria.lanczos  criteria.threshold
    config.loading
    config.messages  config.sections  config.shipped
    genotype_table
    encoding
    space
    blocks_space
    genotype
    blocks_genotype
    genotype_bits
    genotype_json  blocks
    ops
    combine
    evaluation.past_errors  evaluation.horizons  evaluation.intervals  observations
    evaluation.conformal  evaluation.ranks
    evaluation.scoring  runs.rundir  runs.checkpoint  runs.progress  runs.signals
    evaluation.groups  evaluation.models  readout  modules
    strategies.policy_options  strategies.supernet_options
    strategies.random_options  strategies.evolution_options  strategies.seqnas_options  strategies.shared_options
    strategies.sampling_options
    protocols  config.schema  baselines.table  export  grownas  text_files
    errors
"""
EMPTY = {
    "backbones",
    "baselines",
    "bench",
    "cells",
    "config",
    "criteria",
    "evaluation",
    "experiments",
    "report",
    "runs",
    "starts",
    "strategies",
    "strategies.growing",
    "training",
}  # packages that hold nothing themselves

OUT_OF_SIGHT = {  # module -> what it must never know, not even through others
    "training.loop": {
        "genotype",
        "ops",
        "cells.cell",
        "backbones.chain",
    },  # one loop for all models
    "cells.cell": {"backbones.chain", "morphisms", "training.loop", "config.loading"},
    "morphisms": {"criteria.early_stop", "training.loop", "strategies.growing.strategy"},  # act, do not judge
    "criteria.early_stop": {"morphisms", "backbones.chain"},  # judges, does not act
    "criteria.threshold": {"morphisms", "backbones.chain", "ops"},
    "criteria.splitting": {"morphisms", "training.loop", "strategies.growing.strategy"},
    "criteria.readout": {"morphisms", "training.loop", "strategies.growing.strategy"},
    "criteria.first_order": {"morphisms", "training.loop", "strategies.growing.strategy"},
    "strategies.growing.moves": {
        "strategies.growing.pruning",
        "config.loading",
        "runs.commands",
        "runs.journal",
    },
    "training.migrate": {"training.loop"},
    "report.page": {
        "runs.commands",
        "training.loop",
        "runs.journal",
        "runs.checkpoint",
        "config.loading",
    },
    "evaluation.comparison": {"runs.commands", "training.loop", "runs.journal", "runs.checkpoint"},
    "strategies.growing.strategy": {
        "config.loading",
        "runs.commands",
        "runs.rundir",
        "runs.journal",
    },
}
ONE_PLACE = {  # heavy or optional package -> the only modules that import it
    "matplotlib": {"grownas.bench.picture", "grownas.report.canvas"},
    "jinja2": {"grownas.report.diagram"},
    "rich": {"grownas.runs.progress"},
    "filelock": {"grownas.runs.rundir"},
    "distributed": {"grownas.runs.cluster"},
    "onnx": {"grownas.export.graph"},
    "click": {"grownas.cli", "grownas.completion"},
    "triton": {"grownas.cells.triton_pointwise"},
    "statsmodels": {"grownas.evaluation.statistics"},
    "scipy": {"grownas.evaluation.statistics"},
    "arch": {"grownas.evaluation.statistics", "grownas.tasks.index_returns.sources"},
    "yfinance": {"grownas.tasks.index_returns.sources"},
    "pandas": {
        "grownas.api",
        "grownas.backtested",
        "grownas.observations",
        "grownas.runs.reload",
        "grownas.saved_forecaster",
        "grownas.sktime",
        "grownas.tasks.index_returns.sources",
    },
    "sktime": {"grownas.sktime"},
    "pooch": {"grownas.tasks.penn_treebank.sources"},
    "torchtext": {"grownas.tasks.penn_treebank.sources"},
    "yaml": {"grownas.config.loading", "grownas.config.sections", "grownas.config.listing", "grownas.report.reading"},
    "pydantic": {
        "grownas.config.loading",
        "grownas.config.messages",
        "grownas.config.sections",
        "grownas.config.schema",
        "grownas.strategies.growing.options",
        "grownas.strategies.random_options",
        "grownas.tasks.index_returns.options",
        "grownas.tasks.penn_treebank.options",
        "grownas.tasks.predistortion.options",
    },
}
TASKS_MAY_KNOW = {
    "grownas",  # the public names
    "grownas.protocols",
    "grownas.baselines.recurrent",
    "grownas.baselines.table",
    "grownas.errors",
    "grownas.config.schema",
    "grownas.evaluation.scoring",
    "grownas.export.ends",
    "grownas.modules",
    "grownas.readout",
    "grownas.cost",
    "grownas.text_files",
}
SLOW = (
    "torch", "statsmodels", "arch", "matplotlib", "pandas", "yfinance", "numpy", "pydantic", "yaml", "rich", "pooch",
    "distributed", "dask", "onnx",
)  # fmt: skip


def _modules() -> dict[str, Path]:
    found = {}
    for folder, package in ((ROOT / "grownas", "grownas"), (ROOT / "tasks", "grownas.tasks")):
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def imports(source: str) -> set[str]:
    """Return every name that a module imports when it runs: `a.b` and, for `from a import b`, `a` and `a.b`."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            found.add(str(node.module))
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
            found.update(argument.value for argument in node.args if isinstance(argument, ast.Constant))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


IMPORTS = {name: imports(path.read_text("utf-8")) for name, path in MODULES.items()}


def short(name: str) -> str:
    return name.removeprefix("grownas.")


def arrows() -> list[tuple[str, str]]:
    """Return (importer, imported) within grownas proper, by their short names."""
    return [
        (short(name), short(other))
        for name in MODULES
        if not name.startswith("grownas.tasks")
        for other in sorted(IMPORTS[name] & set(MODULES))
        if short(other) not in EMPTY
    ]


def backward(pairs: list[tuple[str, str]], layers: str) -> list[str]:
    """Return the arrows that do not point down."""
    line = {name: number for number, row in enumerate(layers.split("\n")) for name in row.split()}
    return [f"{one} -> {other}" for one, other in pairs if line[one] >= line[other]]


def test_the_table_names_every_module_once():
    names = LAYERS.split()
    assert len(names) == len(set(names))
    there = {short(name) for name in MODULES if not name.startswith("grownas.tasks")}
    assert set(names) | EMPTY == there, "a new module needs its place in LAYERS, a module that is gone leaves it"


@pytest.mark.parametrize("package", sorted(EMPTY))
def test_empty_packages_are_empty(package):
    tree = ast.parse(MODULES[f"grownas.{package}"].read_text("utf-8"))
    assert [
        node for node in tree.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ] == []


def test_every_arrow_points_down():
    found = arrows()
    assert len(found) > 50  # the walk sees something
    assert backward(found, LAYERS) == []


def test_the_walk_sees_what_it_should():
    source = """
from typing import TYPE_CHECKING
import a.b as c
if TYPE_CHECKING:
    import hidden
else:
    import seen
def f():
    from d import e
    class C:
        import g
    import_module("h")
"""
    assert imports(source) == {
        "typing", "typing.TYPE_CHECKING", "a.b", "seen", "d", "d.e", "g", "h",
    }  # fmt: skip
    with pytest.raises(AssertionError, match="relative"):
        imports("from . import x")


def test_an_arrow_that_points_back_is_found():
    layers = "\n a b\n c\n"
    assert backward([("a", "c"), ("c", "a"), ("a", "b"), ("b", "b")], layers) == ["c -> a", "a -> b", "b -> b"]


@pytest.mark.parametrize("name", sorted(OUT_OF_SIGHT))
def test_what_a_module_must_not_know_is_out_of_its_sight(name):
    seen, open_ends = set(), [name]
    links: dict[str, set[str]] = {}
    for one, other in arrows():
        links.setdefault(one, set()).add(other)
    while open_ends:
        for other in links.get(open_ends.pop(), set()) - seen:
            seen.add(other)
            open_ends.append(other)
    assert OUT_OF_SIGHT[name] <= set(LAYERS.split())  # else the check is empty
    assert seen & OUT_OF_SIGHT[name] == set()


@pytest.mark.parametrize("package", sorted(ONE_PLACE))
def test_heavy_packages_are_imported_in_one_place(package):
    users = {name for name, found in IMPORTS.items() if any(one.split(".")[0] == package for one in found)}
    assert users == ONE_PLACE[package]


def test_grownas_never_imports_its_tasks():
    there = [name for name in MODULES if not name.startswith("grownas.tasks")]
    assert [name for name in there if any(one.startswith("grownas.tasks") for one in IMPORTS[name])] == []
    assert len(MODULES) > len(there) > 30


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("grownas.tasks")))
def test_a_task_knows_seams_and_its_own_package_only(name):
    own = ".".join(name.split(".")[:3])
    allowed = {one for one in MODULES if one == own or one.startswith(f"{own}.")} | TASKS_MAY_KNOW
    known = {one for one in IMPORTS[name] if one.split(".")[0] == "grownas" and one in MODULES}
    assert known <= allowed


def test_a_tasks_modules_form_no_circle():
    links = {
        name: {one for one in IMPORTS[name] & set(MODULES) if one.startswith("grownas.tasks.")} for name in MODULES
    }
    tasks = {name for name in MODULES if name.startswith("grownas.tasks.")}
    while tasks:
        ends = {name for name in tasks if not (links[name] - {name}) & tasks}
        assert ends, f"a circle within {sorted(tasks)}"
        tasks -= ends


def foreign_tests(source: str) -> list[str]:
    """Return the imported names that are test files, conftest or the package `tests`."""
    parts = {name: name.split(".") for name in imports(source)}
    return sorted(
        name
        for name, words in parts.items()
        if words[0] == "tests" or any(word == "conftest" or word.startswith("test_") for word in words)
    )


TESTS = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.relative_to(ROOT / "tests").as_posix())
def test_no_test_file_imports_another(path):
    assert foreign_tests(path.read_text("utf-8")) == [], "share it through a fixture or tests/support"


def test_an_import_of_a_test_file_is_found():
    source = """
import support.growing
from support import following
from tests.grownas.runs.test_journal import Folder
from tests import support
import test_ops as ops
from conftest import CopyTask
"""
    assert foreign_tests(source) == [
        "conftest", "conftest.CopyTask", "test_ops", "tests", "tests.grownas.runs.test_journal",
        "tests.grownas.runs.test_journal.Folder", "tests.support",
    ]  # fmt: skip


def test_the_word_for_a_data_frame_stands_in_one_place():
    """Whoever reads or writes it as `task.data` takes it from there."""
    named = {module for module, path in MODULES.items() if re.search(r"(?m)^\w+ = \"frame\"", path.read_text("utf-8"))}
    assert named == {"grownas.protocols"}


def test_protocols_import_library_classes_for_type_checking_only():
    assert {one.split(".")[0] for one in IMPORTS["grownas.protocols"]} == {
        "__future__",
        "abc",
        "collections",
        "dataclasses",
        "typing",
    }


LOOK = """
import json, sys
from click.testing import CliRunner
import grownas.cli
seen = {}
def look(label):
    seen[label] = [name for name in sys.argv[1:] if name in sys.modules]
look("import")
names = sorted(grownas.cli.cli.commands)
for arguments in (["--help"], ["-h"], ["--version"], *([name, "--help"] for name in names)):
    result = CliRunner().invoke(grownas.cli.cli, arguments)
    assert result.exit_code == 0, result.output
    assert result.output
    look(" ".join(arguments))
print(json.dumps(seen))
"""


def test_help_of_every_command_is_free_of_slow_imports():
    done = subprocess.run([sys.executable, "-c", LOOK, *SLOW], capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert {"import", "--help", "search --help", "compare --help", "report --help"} <= set(seen)
    assert {label: names for label, names in seen.items() if names} == {}


@pytest.mark.parametrize(
    ("module", "free_of"),
    [
        ("grownas", ("torch", "numpy")),
        ("grownas.config.loading", ("torch", "numpy", "statsmodels", "arch", "matplotlib", "pandas")),
        ("grownas.genotype", ("torch", "numpy")),
        ("grownas.cost", ("torch", "numpy")),
        ("grownas.runs.rundir", ("torch", "filelock")),
        ("grownas.criteria.threshold", ("torch", "numpy")),
        ("grownas.runs.progress", ("torch", "rich")),
        ("grownas.runs.status", ("torch", "numpy")),
        ("grownas.runs.cluster", ("torch", "distributed", "dask")),
        ("grownas.runs.exporting", ("onnx",)),
        ("grownas.cells.cell", ("statsmodels", "arch", "matplotlib", "pandas", "triton")),
        ("grownas.training.loop", ("statsmodels", "arch", "matplotlib", "pandas")),
        ("grownas.report.page", ("torch", "matplotlib")),
        ("grownas.tasks.index_returns.task", ("statsmodels", "arch", "matplotlib", "pandas", "yfinance")),
        ("grownas.tasks.penn_treebank.options", ("torch", "pooch", "torchtext")),
        ("grownas.tasks.penn_treebank.corpus", ("pandas", "pooch", "torchtext", "pydoc_data")),
        ("grownas.tasks.penn_treebank.windows", ("pandas", "pooch", "torchtext")),
    ],
)
def test_a_module_brings_no_more_than_it_needs(module, free_of):
    code = f"import json, sys, {module}; print(json.dumps([name for name in sys.argv[1:] if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code, *free_of], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
