"""Configs: everything wrong is said at once with key, value and nearest name; YAML's traps; a round trip."""

from __future__ import annotations

import math
import re
from importlib import resources
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from grownas.config import loading as configs
from grownas.config.listing import listing
from grownas.config.loading import load
from grownas.config.schema import Section, StrategySection
from grownas.config.sections import WHERE_AND_HOW
from grownas.errors import ConfigError
from grownas.ops import ACTIVATION
from grownas.protocols import SeriesTask, Strategy, Task, TextTask

SHIPPED = sorted(configs.shipped())


def problems(*overrides, config="index_returns/growing"):
    """Return the lines of the message, the headline first."""
    with pytest.raises(ConfigError) as caught:
        load(config, overrides)
    return [line.strip() for line in str(caught.value).splitlines()]


def write(folder, text):
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# ---- what is shipped


def test_every_config_file_is_found_under_its_name():
    root = Path(__file__).parents[3] / "configs"
    assert sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.y*ml")) == SHIPPED
    assert len(SHIPPED) >= 1


def test_shipped_configs_come_with_the_installed_package():
    assert resources.files("grownas.configs").joinpath("index_returns", "growing.yaml").is_file()


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_loads_and_the_command_in_it_is_right(name):
    assert load(name).task.use == name.partition("/")[0]
    commands = re.findall(r"Run: (grownas \w+) (\S+)", configs.find(name).read_text("utf-8"))
    assert all(config == name for _, config in commands)
    assert commands or name.count("/") > 1  # those in subfolders are explained together


def test_a_shipped_config_also_loads_by_path_and_with_its_suffix():
    assert (
        load(configs.find("index_returns/growing"))
        == load("index_returns/growing")
        == load("index_returns/growing.yaml")
    )


def test_an_unknown_name_suggests_the_nearest(tmp_path):
    (line,) = problems(config="index_returns/growin")
    assert line == "index_returns/growin: no such file, and no shipped config; did you mean index_returns/growing?"
    (line,) = problems(config="zzzz")
    assert line == f"zzzz: no such file, and no shipped config; shipped: {', '.join(SHIPPED)}"
    assert problems(config=str(tmp_path))[0].startswith(f"{tmp_path}: a folder; shipped: ")


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x.yaml", "x" * 5000, ""])
def test_a_name_that_cannot_be_a_path_is_the_users_error(name):
    assert problems(config=name)


# ---- all problems at once


def test_all_problems_are_said_at_once(tmp_path):
    path = write(
        tmp_path,
        """
        task: {use: index_returns, dat: x.csv, train: 0.9, val: 0.3}
        strategy: {patienc: 3, weights: {rate: fast}}
        space: {activation: [tanhh]}
        baselines: {use: [lstn]}
        seed: -1
        """,
    )
    headline, *lines = problems("name=../x", "nonsense", config=path)
    assert headline == f"{path}: 9 problems"
    assert sorted(lines) == [
        "baselines.use: unknown 'lstn', expected some of zero, var1, var, var_robust, har, lstm, gru, min_gru, "
        "lru, tsmixer, dlinear, esn, gru_var, fixed_size_random, sizes; did you mean lstm?",
        "name: expected the name of a single folder (runs=DIR sets its parent), got '../x'",
        "nonsense: expected section.key=value",
        "seed: expected greater than or equal to 0, got -1",
        f"space.activation: unknown 'tanhh', expected some of {', '.join(ACTIVATION)}; did you mean tanh?",
        "strategy.patienc: unknown key; did you mean strategy.patience?",
        "strategy.weights.rate: expected a valid number, unable to parse string as a number, got 'fast'",
        "task.dat: unknown key; did you mean task.data?",
        "task.val: expected train + val below 1 (train is 0.9), so that rows remain for the test part, got 0.3",
    ]


def test_an_unknown_task_does_not_hide_the_other_problems():
    headline, *lines = problems("task.use=index_return", "task.bptt=x", "seed=x", "baselines.losses=hubber")
    assert headline == "index_returns/growing: 2 problems"  # the options of an unknown task are unknown, too
    assert lines == [
        "task.use: unknown task 'index_return'; installed: index_returns, penn_treebank, predistortion; did you mean "
        "index_returns?",
        "seed: expected a valid integer, got 'x'",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        # a union has one line, not one a member
        ("space.hidden_size=big", "space.hidden_size: expected a valid integer or 'auto', got 'big'"),
        ("space.hidden_size=aut", "space.hidden_size: expected a valid integer or 'auto', got 'aut'; "
         "did you mean auto?"),
        ("space.hidden_size=0", "space.hidden_size: expected greater than or equal to 1 or 'auto', got 0"),
        ("strategy.max_params=0", "strategy.max_params: expected greater than or equal to 1, got 0"),
        # an element of a list has its place, a single value has none
        (
            "strategy.l2_sp=[1,x]",
            "strategy.l2_sp.1: expected a valid number, unable to parse string as a number, got 'x'",
        ),
        ("strategy.l2_sp=x", "strategy.l2_sp: expected a valid number, unable to parse string as a number, got 'x'"),
        ("strategy.l2_sp=[0, -1]", "strategy.l2_sp.1: expected greater than or equal to 0, got -1"),
        ("strategy.l2_sp=[]", "strategy.l2_sp: expected at least 1 value(s), got []"),
        ("baselines.hidden_sizes=[8, 0]", "baselines.hidden_sizes.1: expected greater than or equal to 1, got 0"),
        ("space.combine=[add, hadamrd]", "space.combine.1: expected 'add' or 'hadamard', got 'hadamrd'; "
         "did you mean hadamard?"),
        # sections
        ("strategy=5", "strategy: expected a section, got 5"),
        ("strategy.weights=5", "strategy.weights: expected a section of keys, got 5"),
        ("task=5", "task: expected a section, got 5"),
        ("task.use=5", "task.use: unknown task '5'; installed: index_returns, penn_treebank, predistortion"),
        # words
        ("strategy.bilevel=frst", "strategy.bilevel: expected 'joint', 'first' or 'second', got 'frst'; "
         "did you mean first?"),
        ("task.loss=hubber", "task.loss: expected auto, squared, huber, volatility (did you mean huber?), "
         "got 'hubber'"),
        ("baselines.losses=hubber", "baselines.losses: unknown 'hubber', expected some of squared, huber, volatility; "
         "did you mean huber?"),
        ("strategy.mode=node", "strategy.mode: expected 'nodes', 'ops_duplicate', 'ops_split' or 'nodes_and_ops', "
         "got 'node'; did you mean nodes?"),
        ("strategy.splitting.part=vall", "strategy.splitting.part: expected 'train' or 'val', got 'vall'; "
         "did you mean val?"),
        ("strategy.splitting.count=0", "strategy.splitting.count: expected greater than or equal to 1, got 0"),
        ("strategy.readout=ablate", "strategy.readout: expected 'share' or 'ablation', got 'ablate'; "
         "did you mean ablation?"),
        ("strategy.threshold=-0.1", "strategy.threshold: expected greater than or equal to 0, got -0.1"),
        ("strategy.grow_threshold=0", "strategy.grow_threshold: expected greater than 0, got 0"),
        ("strategy.smoothing=0", "strategy.smoothing: expected greater than 0, got 0"),
        ("strategy.hysteresis=1", "strategy.hysteresis: expected less than 1, got 1"),
        ("strategy.min_age=-1", "strategy.min_age: expected greater than or equal to 0, got -1"),
        ("strategy.restarts=-1", "strategy.restarts: expected greater than or equal to 0, got -1"),
        # the same thing twice
        ("seeds=[3, 1, 3]", "seeds: expected each value once, but 3 is repeated, got [3, 1, 3]"),
        ("baselines.use=[gru, gru]", "baselines.use: expected each value once, but 'gru' is repeated, "
         "got ['gru', 'gru']"),
        # unknown keys
        ("patience=5", "patience: unknown key; did you mean retrain.patience or strategy.patience?"),
        ("strateg.patience=5", "strateg: unknown key; did you mean strategy?"),
        ("retrain.epoch=5", "retrain.epoch: unknown key; did you mean retrain.epochs?"),
        ("zzz=1", "zzz: unknown key"),
        ("strategy.weights.clp=1", "strategy.weights.clp: unknown key; did you mean strategy.weights.clip?"),
        # larger than random generators take
        ("seed=9223372036854775808", "seed: expected less than 9223372036854775808, got 9223372036854775808"),
        ("threads=100000", "threads: expected less than or equal to 1024, got 100000"),
    ],
)  # fmt: skip
def test_one_line_a_key_says_key_value_and_nearest_name(override, line):
    assert problems(override) == ["index_returns/growing: 1 problem", line]


@pytest.mark.parametrize("name", ["../x", "a/b", "/", "..", ".", "", " ", "x/"])
def test_a_name_is_that_of_one_folder(name):
    assert problems(f"name={name}")[1] == (
        f"name: expected the name of a single folder (runs=DIR sets its parent), got {name!r}"
    )


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "inf", "nan", "1e999"])
def test_a_number_is_finite(value):
    for key in ("strategy.weights.rate", "strategy.threshold", "strategy.l2_sp", "task.train"):
        assert problems(f"{key}={value}")[1].startswith(f"{key}: expected a finite number")


@pytest.mark.parametrize("key", ["new_rate", "old_rate"])
@pytest.mark.parametrize(("value", "words"), [
    ("0", "greater than 0, got 0"), ("-1", "greater than 0, got -1"), ("true", "a number, got True"),
    (".inf", "a finite number, got inf"), ("fast", "a valid number, unable to parse string as a number, got 'fast'"),
])  # fmt: skip
def test_rates_after_a_growth_are_positive_numbers(key, value, words):
    assert problems(f"strategy.{key}={value}")[1:] == [f"strategy.{key}: expected {words}"]


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.1"])
def test_shares_lie_between_0_and_1(share):
    assert problems(f"strategy.carrier_share={share}")[1].startswith("strategy.carrier_share: expected ")


def test_val_leaves_a_test_part():
    assert len(problems("task.train=0.5", "task.val=0.5")) == 2
    assert load("index_returns/growing", ["task.train=0.5", "task.val=0.49"]).task.val == 0.49


def test_the_default_of_val_leaves_a_test_part_too():
    words = "expected train + val below 1 (train is 0.9), so that rows remain for the test part, got 0.15"
    assert problems("task.train=0.9")[1:] == [f"task.val: {words}"]


# ---- overrides


def test_overrides_reach_every_depth_and_the_last_wins():
    config = load(
        "index_returns/growing",
        ["seed=3", "strategy.patience=5", "strategy.weights.rate=0.1", "task.end= 2020-12-31 ", "seed=4"],
    )
    assert (config.seed, config.strategy.patience, config.strategy.weights.rate) == (4, 5, 0.1)
    assert config.task.end == "2020-12-31"
    assert config.strategy.max_nodes == load("index_returns/growing").strategy.max_nodes  # the file's stay


def test_a_whole_section_may_be_given_and_then_changed():
    config = load("index_returns/growing", ["start={nodes: 2}", "start.use=random"])
    assert (config.start.nodes, config.start.use) == (2, "random")


@pytest.mark.parametrize("item", ["seed", "=5", "a..b=3", ".seed=3", "seed.=3", "", "seed .=1"])
def test_an_override_has_a_key_and_a_value(item):
    assert problems(item)[1] == f"{item}: expected section.key=value".strip()


def test_an_override_says_what_is_wrong_with_it():
    assert problems("seed.x=3")[1] == "seed.x=3: seed is not a section"
    assert problems("seed=[1")[1].startswith("seed=[1: '[1' is not a value in YAML: ")
    assert problems("strategy={l2_sp: 1, l2_sp: 2}")[1].startswith("strategy={l2_sp: 1, l2_sp: 2}: ")


def test_names_and_folders_are_taken_as_they_are():
    config = load("index_returns/growing", ["name=007", "runs=@a: b #c"])
    assert (config.name, config.runs) == ("007", "@a: b #c")
    assert {config.folder_name(command) for command in ("search", "compare", "train")} == {"007"}


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("search",), "index_returns-growing-7"),
        (("compare",), "index_returns-growing-compare"),
        (("train",), "index_returns-train-cell-7"),
        (("train", "gru"), "index_returns-train-gru-7"),
    ],
)
def test_the_folders_name_says_what_made_it(command, name):
    assert load("index_returns/growing", ["seed=7"]).folder_name(*command) == name


# ---- YAML's traps


@pytest.mark.parametrize(("text", "number"), [("1e-3", 1e-3), ("1E3", 1e3), ("1.e-3", 1e-3), (".5", 0.5), ("2", 2.0)])
def test_numbers_are_numbers_however_they_are_written(tmp_path, text, number):
    assert load("index_returns/growing", [f"strategy.weights.rate={text}"]).strategy.weights.rate == number
    assert load(write(tmp_path, f"strategy: {{weights: {{rate: {text}}}}}")).strategy.weights.rate == number


@pytest.mark.parametrize("word", ["NO", "no", "true", "on"])
def test_a_flag_is_no_number(word):
    got = yaml.safe_load(word)
    assert problems(f"strategy.weights.rate={word}")[1] == f"strategy.weights.rate: expected a number, got {got}"
    assert problems(f"seed={word}")[1] == f"seed: expected a valid integer, got {got}"
    assert problems(f"seeds=[1, {word}]")[1] == f"seeds.1: expected a valid integer, got {got}"


@pytest.mark.parametrize("text", ["1.0", "1e3", "'5'", "1.5", "010", "1:30", "0x10"])
def test_whole_numbers_are_written_as_such(text):
    assert problems(f"seed={text}")[1].startswith("seed: expected a valid integer, got ")


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("1_000", 1000), ("+7", 7), ("9223372036854775807", 2**63 - 1)])
def test_plain_whole_numbers_are_read(text, number):
    assert load("index_returns/growing", [f"seed={text}"]).seed == number


def test_a_word_that_yaml_takes_for_a_flag_must_be_quoted():
    assert problems("task.tickers=[NO]")[1] == (
        "task.tickers.0: expected text (in quotes if YAML reads it as something else), got False"
    )
    assert load("index_returns/growing", ["task.tickers=['NO']"]).task.tickers == ("NO",)


def test_a_date_is_text(tmp_path):
    assert load("index_returns/growing", ["task.start=2020-01-01"]).task.start == "2020-01-01"
    assert load(write(tmp_path, "task: {end: 2021-12-31}")).task.end == "2021-12-31"


@pytest.mark.parametrize("key", ["strategy.l2_sp", "task.difference", "seeds", "baselines.hidden_sizes"])
def test_one_value_stands_for_a_list_of_one(key):
    config = load("index_returns/growing", [f"{key}=30" if key != "task.difference" else f"{key}=ranges"])
    section, _, leaf = key.rpartition(".")
    value = getattr(getattr(config, section) if section else config, leaf)
    assert value == (("ranges",) if key == "task.difference" else (30,))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nseed: 2\n", "key 'seed' is repeated"),
        ("strategy: {patience: 1, patience: 1}\n", "key 'patience' is repeated"),
        ("1: x\n", "key 1 is not text"),
        ("yes: x\n", "key True is not text"),
        ("? [a]\n: x\n", "is not text"),
        ("- a\n- b\n", "expected sections such as task: and strategy:, got ['a', 'b']"),
        ("[]\n", "expected sections such as task: and strategy:, got []"),
        ("just words\n", "got 'just words'"),
        ("0\n", "got 0"),
        ("seed: [1\n", "not a config in YAML"),
        ("seed: 1\n---\nseed: 2\n", "not a config in YAML"),
        ("task: !!python/object/apply:os.getcwd []\n", "not a config in YAML"),
        ("a: " + "[" * 5000 + "\n", "not a config in YAML"),
        ("\tseed: 1\n", "not a config in YAML"),
    ],
)
def test_what_is_no_config_is_refused(tmp_path, text, words):
    path = write(tmp_path, text)
    message = "\n".join(problems(config=path))
    assert message.startswith(f"{path}: ")
    assert words in message


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0", b"seed: 1\0\n", "séed: 1".encode("latin-1")])
def test_a_binary_file_is_refused(tmp_path, content):
    path = tmp_path / "binary.yaml"
    path.write_bytes(content)
    (line, *_) = problems(config=path)
    assert re.match(rf"{re.escape(str(path))}: (cannot be read|not a config in YAML): ", line)


def test_an_empty_file_stands_for_all_defaults(tmp_path):
    for text in ("", "# nothing\n", "task: {}\n"):
        assert load(write(tmp_path, text)) == load(write(tmp_path, "task: {use: index_returns}"))


# ---- round trip and fingerprint

CHANGES = {  # another valid value for every key
    "task": {
        "data": "planted", "tickers": ["^X"], "start": "2011-01-01", "end": "2012-01-01", "cache": "/c",
        "data_seed": 2, "subpanel": 3, "zone": "Asia/Tokyo", "planted_nodes": 2, "planted_units": 32, "inputs": ["a"],
        "replay": "/table.jsonl",
        "values": "returns", "units": "prices",
        "difference": ["a"], "longest_still": 20, "train": 0.6, "val": 0.1, "loss": "huber", "batches": "windows",
        "least_rows": 50, "streams": 8, "bptt": 10, "context": 50, "recent": 30,
    },
    "start": {"use": "random", "rule": "single", "nodes": 2, "carrier_share": 0.4, "max_order": 5},
    "space": {
        "backbone": "dag", "combine": ["add"], "activation": ["tanh"], "hidden_size": 16, "highway": True,
        "share_projection": True, "norm": True, "edge_reduction": "sum", "blocks": ["fir(2)"], "cells": 2,
    },
    "strategy": {
        "name": "mine", "max_epochs": 3, "first_epochs": 3, "later_epochs": 3, "patience": 3,
        "bilevel": "first", "architecture_share": 0.3,
        "weights": {"optimizer": "sgd", "rate": 0.5, "momentum": 0.5, "weight_decay": 0.7, "clip": 0.5,
            "warm_up": 3, "decay": "linear", "average": 0.5, "non_monotone": 3},
        "alpha": {"optimizer": "sgd", "rate": 0.5, "momentum": 0.5, "weight_decay": 0.5},
        "l2_sp": [3.0], "accept": "better", "threshold": 2.0, "origins": 5, "gated": False, "guard": False,
        "outer_patience": 2, "max_nodes": 5, "max_params": 9,
        "nodes_at_once": 3, "birth": "drawn",
        "blend_steps": 7, "candidates": 3, "carrier_share": 0.4, "noise": 0.5, "new_rate": 2.0, "old_rate": 0.5,
        "position": "first", "prune": "each_stage",
        "prune_threshold": 0.1, "top_k": 2, "fine_tune_epochs": 3, "mode": "ops_split", "choice": "random",
        "trial_epochs": 3, "max_ops": 9, "grow_threshold": 0.4, "smoothing": 0.5, "hysteresis": 0.1, "min_age": 3,
        "readout": "ablation", "replace": "missing", "restarts": 2,
        "splitting": {"rule": "neg_count", "count": 2, "part": "val", "curvature": "softplus"},
    },
    "study": {
        "momentum": [0.5], "weights": ["adam"], "alpha": ["sgd"], "backbones": ["dag"], "sgd_rates": [2.0, 3.0],
        "adam_rates": [0.5, 0.7], "repeats": 20, "sgd_alpha_rate": 2.0, "adam_alpha_rate": 0.5,
    },
    "strategies": ["growing"], "budget": {"steps": 99, "seconds": 9.0, "cpu_seconds": 9.0, "genotypes": 9},
    "search_rates": [0.5],
    "retrain": {
        "optimizer": "sgd", "rate": 0.5, "momentum": 0.5, "weight_decay": 0.5, "clip": 0.5, "warm_up": 3,
        "decay": "linear", "average": 0.5, "non_monotone": 3, "grown": False, "epochs": 3, "patience": 3,
    },
    "baselines": {
        "use": ["gru"], "compare": ["sizes"], "hidden_sizes": [4], "losses": ["huber"], "rates": [0.02],
        "weight_decays": [0.5], "halving": {"first_epochs": 3, "reduction_factor": 2, "finalists": 3},
    },
    "quantise": {
        "widths": [2, 8], "per": "node", "tie": False, "scale": "percentile", "eta": [0.5], "mu": 0.5, "epochs": 9,
        "fine_tune_epochs": 9, "rate": 0.5, "alpha_rate": 0.5, "uniform": [5], "tolerance": 0.5,
    },
    "update": {"how": "grow", "epochs": 9, "l2_sp": 0.5, "block": 30, "parent": "before"},
    "backtest": {
        "every": 5, "origin": "2021-01-01", "models": ["zero"], "how": ["grow"], "when": "drift", "detector": "adwin",
        "recurrent": "refit", "holdout": 30, "evidence": 99, "refit_every": 1, "window": 500,
        "continue_window": 200, "coverage": 0.8,
    },
    "refit": True, "seed": 9, "seeds": [8, 9], "panels": 7, "workers": 3, "cluster": "tcp://a:1",
    "trial_workers": 4, "worker_timeout": 9.0, "threads": 2, "device": "cuda", "bf16": True,
    "backend": "torch", "runs": "elsewhere",
    "name": "mine", "quiet": True, "checkpoint_seconds": 3.0,
}  # fmt: skip
ONLY_VALUE = {"task.use", "strategy.use"}  # nothing else is allowed yet


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def test_the_list_of_changes_names_every_key():
    keys = {key for key, _ in leaves(yaml.safe_load(load("index_returns/growing").dump({})))}
    assert keys == {key for key, _ in leaves(CHANGES)} | ONLY_VALUE


@pytest.mark.parametrize(("key", "value"), list(leaves(CHANGES)), ids=[key for key, _ in leaves(CHANGES)])
def test_the_fingerprint_tells_what_changes_a_result(key, value):
    needed = ["task.data=planted"] if key.startswith("task.planted_") else []  # they are refused elsewhere
    needed += ["space.backbone=dag"] if key in ("space.norm", "space.edge_reduction") else []
    before = load("index_returns/growing", needed)
    after = load(
        "index_returns/growing", [*needed, f"{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"]
    )
    assert after != before
    where = ("runs", "name", "quiet", "workers", "cluster", "trial_workers", "worker_timeout", "checkpoint_seconds")
    ignored = key in (*where, "seeds", "panels", "strategies")
    assert (after.fingerprint() == before.fingerprint()) == ignored
    assert ignored == (key in WHERE_AND_HOW)


def test_a_dumped_config_is_the_same_config(tmp_path):
    path = write(tmp_path, yaml.safe_dump(CHANGES))
    config = load(path)
    notes = {"versions": {"torch": "2.9"}, "data_checksum": "sha256:1"}
    path.write_text(config.dump(notes), "utf-8")
    again = load(path)
    assert again == config
    assert again.fingerprint() == config.fingerprint()
    assert configs.notes_of(path) == notes
    assert again.dump(notes) == config.dump(notes)


@given(
    rate=st.floats(1e-300, 1e300),
    l2_sp=st.lists(st.floats(0, 1e300), min_size=1, max_size=4, unique=True),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    seed=st.integers(0, 2**63 - 1),
)
def test_any_values_survive_the_file(tmp_path_factory, rate, l2_sp, text, seed):
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    first = configs.config_class("index_returns", "growing").model_validate(
        {"task": {"cache": text}, "strategy": {"weights": {"rate": rate}, "l2_sp": l2_sp}, "seed": seed}
    )
    path.write_text(first.dump({}), "utf-8")
    assert load(path) == first
    assert load(path).fingerprint() == first.fingerprint()


@pytest.mark.parametrize(
    "text", ["NO", "010", "1:30", "2020-01-01", "1e-3", "null", "", "~", "a: b", "#x", "<<", "=", "\x85", "é\u2028"]
)
def test_text_that_looks_like_something_else_survives_the_file(tmp_path, text):
    first = configs.config_class("index_returns", "growing").model_validate({"task": {"cache": text}})
    assert load(write(tmp_path, first.dump({}))).task.cache == text


def test_notes_cannot_be_overridden():
    assert problems("versions=3")[1] == "versions: unknown key"


def test_a_config_cannot_be_changed():
    config = load("index_returns/growing")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 2
    with pytest.raises(ValueError, match="frozen"):
        config.strategy.weights.rate = 2.0


@pytest.fixture
def installed(monkeypatch):
    """Install plug-ins: `installed("task", theirs=Class)`."""

    def install(kind, **classes):
        known = configs.metadata.entry_points
        entries = [SimpleNamespace(name=name, load=lambda found=found: found) for name, found in classes.items()]
        group = configs.GROUPS[kind]
        monkeypatch.setattr(
            configs.metadata, "entry_points", lambda group, own=group: entries if group == own else known(group=group)
        )

    caches = (configs._plugin, configs.config_class)
    for cache in caches:
        cache.cache_clear()
    yield install
    for cache in caches:
        cache.cache_clear()


class TheirTask(Task):
    """All that a class of a plain task must have; nothing of it is called."""

    name, metric, losses = "theirs", "mse", ("theirs",)
    source = checksum = input_size = None

    class section(Section):  # noqa: N801
        use: str = "theirs"
        depth: int = 1

    def load(self): ...
    def model(self): ...
    def windows(self): ...
    def loss(self): ...
    def evaluate(self): ...


class TheirStrategy(Strategy):
    class section(StrategySection):  # noqa: N801
        use: str = "their_search"
        width: int = 1

    def recipe(self): ...
    def search(self): ...


def test_a_task_of_another_package_is_found(installed):
    """The entry-point group is the only link to tasks."""
    installed("task", theirs=TheirTask)
    made = configs.config_class("theirs", "growing").model_validate({"task": {"depth": 3}})
    assert (made.task.depth, made.strategy.use) == (3, "growing")
    with pytest.raises(ConfigError, match="unknown task 'their'; installed: theirs; did you mean theirs"):
        configs.task_class("their")


def test_a_strategy_of_another_package_is_found_with_its_options(installed, tmp_path):
    installed("strategy", their_search=TheirStrategy)
    path = write(tmp_path, "strategy: {use: their_search, width: 4, accept: better}")
    assert (load(path).strategy.width, load(path).strategy.accept) == (4, "better")
    assert problems("strategy.widht=1", config=path)[1] == "strategy.widht: unknown key; did you mean strategy.width?"
    with pytest.raises(ConfigError, match="unknown strategy 'growing'; installed: their_search"):
        configs.strategy_class("growing")


@pytest.mark.parametrize("suffix", ["", configs.OPTIONS])
@pytest.mark.parametrize("kind", configs.GROUPS)
def test_a_plug_in_that_cannot_be_loaded_is_named(monkeypatch, kind, suffix):
    group = configs.GROUPS[kind]
    entries = [EntryPoint("theirs", "no_such_package.part:Theirs", each) for each in {group, group + suffix}]
    known = configs.metadata.entry_points
    monkeypatch.setattr(
        configs.metadata,
        "entry_points",
        lambda group: [one for one in entries if one.group == group] or known(group=group),
    )
    with pytest.raises(ConfigError, match=rf"{kind}\.use=theirs: no_such_package\.part:Theirs cannot be loaded"):
        load("index_returns/growing", [f"{kind}.use=theirs"])


@pytest.mark.parametrize("left_out", ["load", "model", "windows", "loss", "evaluate", "source", "checksum"])
def test_a_task_that_lacks_a_member_is_refused_in_one_sentence(installed, left_out):
    members = {name: value for name, value in vars(TheirTask).items() if name != left_out and name[0] != "_"}
    installed("task", theirs=type("Half", (Task,), {**members, "__module__": "their.package"}))
    with pytest.raises(ConfigError) as caught:
        configs.task_class("theirs")
    assert str(caught.value) == (
        f"task.use=theirs: their.package.Half lacks {left_out}, which grownas.protocols.Task requires"
    )


def test_all_that_a_task_lacks_is_named_at_once_also_where_it_is_no_subclass(installed):
    class Nothing:
        kind = "plain"

    installed("task", theirs=Nothing)
    message = "lacks name, metric, section, losses, load, .*evaluate.* which grownas.protocols.Task requires"
    with pytest.raises(ConfigError, match=message):
        configs.task_class("theirs")


@pytest.mark.parametrize(("kind", "words"), [("serie", "its kind is 'serie'"), (None, "its kind is None")])
def test_an_unknown_kind_of_task_is_refused(installed, kind, words):
    members = {} if kind is None else {"kind": kind}
    installed("task", theirs=type("Odd", (), members))
    with pytest.raises(ConfigError, match=f"task.use=theirs: {words}, expected one of plain, series, language"):
        configs.task_class("theirs")


@pytest.mark.parametrize("left_out", ["section", "recipe", "search"])
def test_a_strategy_that_lacks_a_member_is_refused(installed, left_out):
    members = {name: value for name, value in vars(TheirStrategy).items() if name != left_out and name[0] != "_"}
    installed("strategy", theirs=type("Half", (Strategy,), {**members, "__module__": "their.package"}))
    with pytest.raises(ConfigError) as caught:
        configs.strategy_class("theirs")
    assert str(caught.value) == (
        f"strategy.use=theirs: their.package.Half lacks {left_out}, which grownas.protocols.Strategy requires"
    )


@pytest.mark.parametrize(("name", "kind"), [("index_returns", SeriesTask), ("penn_treebank", TextTask)])
def test_the_tasks_that_come_with_grownas_have_every_member(name, kind):
    found = configs.task_class(name)
    assert (found.name, configs.KINDS[found.kind]) == (name, kind)
    assert not getattr(found, "__abstractmethods__", ())


# ---- strategies


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ((), ["growing", "random"]),
        (("strategy={use: random}",), ["random"]),
        (("strategies=growing",), ["growing"]),
        (("strategies=[growing,{use: random, genotypes: 3}]",), ["growing", "random"]),
        (("strategies=[{use: growing},random]",), ["growing", "random"]),
    ],
)
def test_a_comparison_has_the_configs_strategy_first_and_random_search_unless_told(overrides, names):
    config = load("index_returns/growing", overrides)
    sections = configs.strategies_of(config)
    assert [section.use for section in sections] == names
    assert sections[0] is config.strategy
    if "genotypes" in "".join(overrides):
        assert sections[1].genotypes == 3


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            "[random,growing]",
            "strategies: got random, growing; expected first strategy.use=growing",
        ),
        ("[random]", "strategies: got random; expected first strategy.use=growing"),
        (
            "[growing,random,random]",
            "random is listed twice; give the second a name of its own, such as {use: random, ",
        ),
        ("[growing,growing]", "growing is listed twice; give the second a name of its own"),
        (
            "[growing,{use: darts, name: a},{use: darts, name: a}]",
            "a is listed twice; give the second a name of its own",
        ),
        (
            "[growing,darts,{use: gaea, name: darts}]",
            "strategy.name=darts: another strategy is called so; choose another",
        ),
        (
            "[growing,{use: gaea, name: lstm}]",
            "strategy.name=lstm: lstm is a row of another model; choose another name",
        ),
        ("[growing,{use: gaea, name: grown}]", "strategy.name=grown: grown is a row of another model"),
        ("[growing,darts,{use: gaea, name: darts_retrained}]", "darts_retrained is a row of another model"),
        ("[growing,{use: gaea, name: a},{use: darts, name: a_supernet}]", "a_supernet is a row of another model"),
        (
            "[growing,{use: darts, name: a-b}]",
            "expected letters, digits and _, beginning with a letter, such as darts_se",
        ),
        (
            "[growing,{use: darts, name: ü}]",
            "expected letters, digits and _, beginning with a letter, such as darts_seco",
        ),
        ("[growing,randm]", "strategy.use: unknown strategy 'randm'; installed: .*; did you mean random?"),
        ("[growing,3]", "strategies: expected names, or sections with the key use, got 3"),
        ("[growing,{genotypes: 3}]", "strategies: expected names, or sections with the key use, got {'genotypes': 3}"),
        ("[growing,{use: random, genotype: 3}]", "genotype: unknown key; did you mean genotypes?"),
        (
            "[{use: growing, patience: 3},random]",
            "strategies: set the options of growing in the section strategy, got {'use': 'growing', 'patience': 3}",
        ),
    ],
)
def test_strategies_that_cannot_be_compared_are_refused(value, words):
    with pytest.raises(ConfigError, match=re.escape(words).replace(r"\.\*", ".*")):
        configs.strategies_of(load("index_returns/growing", [f"strategies={value}"]))


@pytest.mark.parametrize("name", ["index_returns/strategies", "penn_treebank/strategies_cpu"])
def test_the_shipped_comparisons_have_every_strategy_three_more_of_darts_and_halving(name):
    sections = configs.strategies_of(load(name))
    assert [section.row for section in sections[:5]] == ["growing", "random", "darts", "darts_second", "darts_pt"]
    assert {section.use for section in sections} == set(configs.plugin_names("strategy"))
    assert [section.row for section in sections if section.use == "random"] == ["random", "random_halving"]
    darts = {
        section.row: (section.order, section.readout, section.top_k) for section in sections if section.use == "darts"
    }
    assert darts == {
        "darts": ("first", "share", 1),
        "darts_second": ("second", "share", 1),
        "darts_pt": ("first", "ablation", 1),
        "darts_whole": ("first", "share", 8),
    }


def test_a_strategy_may_be_compared_with_itself_under_another_name():
    own = ["strategy={use: darts, name: mine}", "strategies=[{use: darts, name: mine},darts,{use: darts, name: two}]"]
    config = load("index_returns/growing", own)
    sections = configs.strategies_of(config)
    assert [section.row for section in sections] == ["mine", "darts", "two"]
    assert sections[0] is config.strategy
    assert load("index_returns/growing").strategy.row == "growing"


@pytest.mark.parametrize(
    ("old", "line"),
    [
        ("strategy.judge=better", "strategy.judge: renamed to strategy.accept; write strategy.accept=better"),
        ("strategy.pull=30", "strategy.pull: renamed to strategy.l2_sp; write strategy.l2_sp=30"),
        ("strategy.pull=[100,0]", "strategy.pull: renamed to strategy.l2_sp; write strategy.l2_sp=[100,0]"),
        ("strategy.max_seconds=9.5", "strategy.max_seconds: renamed to budget.seconds; write budget.seconds=9.5"),
        ("strategy.max_seconds=null", "strategy.max_seconds: renamed to budget.seconds; write budget.seconds=null"),
        (
            "baselines.compare=[random,sizes]",
            "baselines.compare: random is a strategy now; write strategies=[growing,random]",
        ),
        ("baselines.use=random", "baselines.use: random is a strategy now; write strategies=[growing,random]"),
    ],
)
def test_a_key_that_has_moved_is_told_its_new_name(old, line):
    assert problems(old) == ["index_returns/growing: 1 problem", line]


def test_keys_that_have_moved_are_told_beside_other_problems():
    assert problems("strategy.judge=better", "seed=x")[0] == "index_returns/growing: 2 problems"


def test_a_list_without_brackets_is_told_how_to_be_written():
    with pytest.raises(ConfigError, match=r"seeds: .*write a list as seeds=\[1,2\]"):
        load("index_returns/growing", ["seeds=1,2"])


def test_the_backends_are_those_there_are():
    """The config names them anew: importing them would take seconds."""
    from typing import get_args

    from grownas.cells.backends import BACKENDS
    from grownas.config.sections import Backend

    assert set(get_args(Backend)) == {"auto", *BACKENDS}


def test_the_names_of_growth_are_those_there_are():
    """The config names them anew, too."""
    from typing import get_args

    from grownas.criteria.curvature import CURVATURE
    from grownas.criteria.early_stop import ACCEPT
    from grownas.criteria.readout import CHOICES
    from grownas.criteria.splitting import RULES
    from grownas.morphisms import DRAWS
    from grownas.strategies.growing.options import MODES, Options, Splitting

    def names(section, field):
        return set(get_args(section.model_fields[field].annotation))

    assert names(Options, "mode") == set(MODES)
    assert names(StrategySection, "accept") == set(ACCEPT)
    assert names(Options, "readout") == set(CHOICES)
    assert names(Options, "replace") == {"none", *DRAWS}
    assert names(Splitting, "rule") == set(RULES)
    assert names(Splitting, "curvature") == set(CURVATURE)


@pytest.mark.parametrize("mode", ["nodes", "ops_duplicate", "ops_split", "nodes_and_ops"])
def test_the_upper_threshold_counts_where_ops_are_duplicated(mode):
    config = load("index_returns/growing", [f"strategy.mode={mode}", "strategy.grow_threshold=0.3"])
    wanted = 0.3 if mode in ("ops_duplicate", "nodes_and_ops") else math.inf
    assert config.strategy.thresholds.grow_threshold == wanted


def test_thresholds_that_contradict_each_other_are_refused():
    for mode in ("ops_duplicate", "nodes_and_ops"):
        config = load("index_returns/growing", [f"strategy.mode={mode}", "strategy.prune_threshold=0.15"])
        with pytest.raises(ConfigError, match=r"0\.15 is too close to grow_threshold 0\.2: with hysteresis"):
            configs.strategy_class("growing")(config.strategy)


@pytest.mark.parametrize("mode", ["nodes", "ops_split"])
@pytest.mark.parametrize("least", [0.15, 0.34, 0.99])
def test_without_duplication_any_share_may_be_too_small(mode, least):
    config = load("index_returns/growing", [f"strategy.mode={mode}", f"strategy.prune_threshold={least}"])
    assert configs.strategy_class("growing")(config.strategy).options.thresholds.prune_threshold == least


# ---- the DAG


def test_the_space_has_the_defaults_of_its_backbone():
    chain, dag = load("index_returns/growing").space, load("index_returns/growing", ["space.backbone=dag"]).space
    assert (chain.backbone, chain.combine, chain.norm) == ("chain", ("add", "hadamard"), False)
    assert chain.activation == ("identity", "tanh", "sigmoid", "relu")
    assert (dag.combine, dag.activation) == ((), ("none", "tanh", "relu", "sigmoid", "identity"))
    given = load("index_returns/growing", ["space.backbone=dag", "space.activation=[silu]"]).space
    assert given.activation == ("silu",)


def test_a_config_of_a_dag_reads_back_the_same(tmp_path):
    config = load("index_returns/growing", ["space.backbone=dag", "space.norm=true", "start.use=random"])
    assert load(write(tmp_path, config.dump({}))) == config
    assert load(write(tmp_path, listing(config))) == config


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["space.norm=true"], "space.norm: expected false with space.backbone=chain, whose states are not normalised, "
         "got True"),
        (["space.edge_reduction=sum"], "space.edge_reduction: expected mean with space.backbone=chain, which has no "
         "edges, got 'sum'"),
        (["space.backbone=tree"], "space.backbone: expected 'chain', 'dag' or 'blocks', got 'tree'"),
        (["space.combine=[]"], "space.combine: expected at least 1 of them, got []"),
        (["space.activation=[none]"], f"space.activation: unknown 'none', expected some of {', '.join(ACTIVATION)}"),
        (["space.backbone=dag", "space.activation=[tan]"], "space.activation: unknown 'tan', expected some of none, "
         f"{', '.join(ACTIVATION)}; did you mean tanh?"),
        (["space.backbone=blocks", "space.blocks=[fur(2)]"], "space.blocks: unknown op 'fur(2)', expected one of none"),
        (["space.backbone=blocks", "space.blocks=[none]"], "space.blocks: none: a cell needs an op other than none"),
        (["space.backbone=blocks", "space.hidden_size=8"], "space.hidden_size: expected 2 with space.backbone=blocks"),
        (["space.backbone=blocks", "space.edge_reduction=sum"], "space.edge_reduction: expected mean with "
         "space.backbone=blocks, whose nodes sum their edges, got 'sum'"),
    ],
)  # fmt: skip
def test_what_is_not_of_the_backbone_is_said_in_one_line(overrides, line):
    _, found = problems(*overrides)
    assert found.startswith(line)
