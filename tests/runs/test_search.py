"""What a search writes, that it can be repeated to the last bit, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from grownas.config import loading as configs
from grownas.config.sections import Config
from grownas.criteria.early_stop import ACCEPT
from grownas.genotype import Genotype
from grownas.protocols import Verdict
from grownas.strategies.growing.options import MODES
from support.slow import mostly_slow

FILES = (
    "config.yaml",
    "metrics.jsonl",
    "growth.jsonl",
    "shares.jsonl",
    "genotype.json",
    "weights.safetensors",
    "equations.txt",
    "summary.json",
    "report.html",
)
SUMMARY = {
    "task", "strategy", "seed", "metric", "val", "test", "nodes", "ops", "params", "search_seconds", "retrain_seconds",
    "stages", "scores",
}  # fmt: skip
METRICS = {"stage", "epoch", "step", "wall_s", "split", "metric", "value"}
GROWTH = {
    "stage", "step", "kind", "node", "op", "drift", "loss_before", "loss_after", "predicted_change", "params_before",
    "params_after", "accepted", "judge", "wall_s", "part", "trial",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_the_contract_is_there(finished, name):
    assert (finished / name).stat().st_size > 0


def test_no_half_written_file_is_left(finished):
    assert [path for path in finished.rglob("*") if path.suffix in (".tmp", ".part", ".old")] == []
    assert (finished / "checkpoint").is_dir()


def test_the_summary_has_the_contracts_keys_and_one_entry_a_model(finished, read_json):
    summary = read_json(finished / "summary.json")
    assert set(summary) >= SUMMARY
    assert [entry["model"] for entry in summary["scores"]] == [
        "chosen", "grown", "first_stage", "start", "grown_retrained", "zero", "var1", "gru",
    ]  # fmt: skip
    for entry in summary["scores"]:
        assert {"model", "params", "val", "test", "seconds"} <= set(entry)
        assert math.isfinite(entry["val"])
        assert math.isfinite(entry["test"])
        assert entry["seconds"] >= 0
    chosen = summary["scores"][0]
    assert (summary["val"], summary["test"], summary["params"]) == (chosen["val"], chosen["test"], chosen["params"])
    assert (summary["task"], summary["strategy"], summary["seed"], summary["metric"]) == (
        "index_returns", "growing", 1, "mse",
    )  # fmt: skip
    assert summary["search_seconds"] > 0
    assert summary["retrain_seconds"] > 0


def test_the_summary_counts_what_genotype_and_weights_hold(finished, read_json):
    summary, genotype = read_json(finished / "summary.json"), Genotype.load(finished / "genotype.json")
    assert summary["nodes"] == len(genotype.nodes) == 2  # else the tests of growth here would be empty
    assert summary["ops"] == sum(len(node.ops) for node in genotype.nodes)
    weights = load_file(finished / "weights.safetensors")
    learned = sum(value.size for name, value in weights.items() if name not in ("mean", "sd") and "share" not in name)
    assert summary["params"] == learned


def test_the_scores_are_those_of_the_forecasts(finished, read_json):
    summary, data = read_json(finished / "summary.json"), read_json(finished / "data.json")
    forecasts = load_file(finished / "forecasts.safetensors")
    actual = forecasts.pop("actual")
    assert len(actual) == data["n_val"] + data["n_test"] == len(data["dates"])
    assert set(forecasts) == {entry["model"] for entry in summary["scores"]}
    for entry in summary["scores"]:
        errors = (forecasts[entry["model"]] - actual) ** 2
        assert entry["val"] == pytest.approx(errors[: data["n_val"]].mean(), rel=1e-12)
        assert entry["test"] == pytest.approx(errors[data["n_val"] :].mean(), rel=1e-12)


def test_the_zero_forecast_scores_the_mean_square(finished, data, read_json):
    closes = np.loadtxt(data, delimiter=",", skiprows=1, usecols=(1, 2, 3))
    returns = np.diff(np.log(closes), axis=0)
    n_train, n_val = int(len(returns) * 0.7), int(len(returns) * 0.85) - int(len(returns) * 0.7)
    x = (returns - returns[:n_train].mean(0)) / returns[:n_train].std(0)
    zero = next(entry for entry in read_json(finished / "summary.json")["scores"] if entry["model"] == "zero")
    assert zero["test"] == pytest.approx((x[n_train + n_val :] ** 2).mean(), rel=1e-12)
    assert zero["val"] == pytest.approx((x[n_train : n_train + n_val] ** 2).mean(), rel=1e-12)


def test_logs_have_the_contracts_keys_and_no_line_twice(finished, read_lines):
    metrics, growth = read_lines(finished / "metrics.jsonl"), read_lines(finished / "growth.jsonl")
    assert all(set(line) >= METRICS for line in metrics)
    assert {line["split"] for line in metrics} == {"train", "val"}  # the test part is opened once, at the end
    keys = [(line["part"], line["epoch"], line["split"], line["metric"]) for line in metrics]
    assert len(keys) == len(set(keys))
    assert all(set(line) >= GROWTH for line in growth)
    assert {line["part"] for line in growth} <= {line["part"] for line in metrics}
    assert [(line["kind"], line["stage"], line["node"]) for line in growth] == [("add_node", 2, 1)]
    (line,) = growth
    assert line["accepted"] == (line["judge"]["figure"] > line["judge"]["threshold"])
    assert line["judge"]["figure"] == pytest.approx(line["loss_before"] - line["loss_after"], abs=1e-12)
    assert line["params_after"] > line["params_before"]
    assert 0 < line["drift"] < 0.2  # noise on a carrier's other ops: small, not zero
    assert line["measured_change"] != line["predicted_change"] == 0.0
    assert [len(line[key]["nodes"]) for key in ("cell_before", "cell_after")] == [1, 2]
    shares = read_lines(finished / "shares.jsonl")
    assert {(line["part"], line["stage"]) for line in shares} == {
        (line["part"], line["stage"]) for line in metrics if line["part"].startswith("stage-")
    }
    assert all(sum(line["shares"]) == pytest.approx(1, abs=1e-5) for line in shares)
    assert all(len(line["shares"]) == len(line["ops"]) for line in shares)


def test_the_folders_config_is_whole(finished, runs, data, read_json):
    tree = yaml.safe_load((finished / "config.yaml").read_text())
    asked = configs.load("index_returns/growing", runs.options("name=finished")[1:])
    assert configs.load(finished / "config.yaml") == asked
    for section, defaults in Config.model_fields.items():
        assert section in tree
        inner = defaults.annotation
        if hasattr(inner, "model_fields"):
            assert set(tree[section]) == set(inner.model_fields)
    assert set(tree["task"]) == set(type(asked.task).model_fields)
    assert {"python", "grownas", "torch", "numpy"} <= set(tree["versions"])
    assert tree["data_checksum"] == read_json(finished / "data.json")["checksum"]
    assert tree["data_checksum"].startswith("sha256:")


def test_the_same_seed_gives_the_same_bits_again(finished, runner, assert_same_run):
    assert_same_run(finished, runner.search("again"))


def test_where_and_how_a_run_is_written_changes_no_bit(finished, runner, assert_same_run):
    assert_same_run(finished, runner.search("other", "checkpoint_seconds=0", "quiet=false", "workers=3"))


def test_another_seed_gives_another_cell(finished, runner):
    other = runner.search("other", "seed=2")
    for name in ("genotype.json", "weights.safetensors"):
        assert (finished / name).read_bytes() != (other / name).read_bytes()


def test_a_name_that_is_taken_gets_a_number(runner, call):
    fast = ("name=run", "baselines.use=[zero]", "strategy.max_epochs=1", "retrain.epochs=1")
    for _ in range(2):
        assert call("search", *runner.options(*fast)).code == 0
    assert sorted(path.name for path in runner.folder.iterdir()) == ["run", "run-2"]


def replace_cell(row: int, column: int, cell: str):
    def change(text: str) -> str:
        lines = [line.split(",") for line in text.splitlines()]
        lines[row - 1][column] = cell
        return "\n".join(map(",".join, lines))

    return change


def swap(text: str) -> str:
    lines = text.splitlines()
    lines[10], lines[11] = lines[11], lines[10]
    return "\n".join(lines)


BROKEN = {
    "zero": (replace_cell(7, 1, "0"), ["row 7", "column A", "got 0"]),
    "negative": (replace_cell(9, 2, "-3.5"), ["row 9", "column B", "-3.5"]),
    "text": (replace_cell(12, 3, "shut"), ["row 12", "column C", "'shut'"]),
    "nan": (replace_cell(12, 3, "nan"), ["row 12", "column C", "nan"]),
    "infinite": (replace_cell(12, 3, "inf"), ["row 12", "column C", "inf"]),
    "bad date": (replace_cell(20, 0, "2020-13-01"), ["row 20", "column date", "'2020-13-01'"]),
    "duplicate date": (lambda text: text + text.splitlines()[-1] + "\n", ["row 302", "column date", "is repeated"]),
    "unsorted": (swap, ["row 12", "column date", "sort"]),
    "ragged": (lambda text: text + "2021-12-31,1,2\n", ["row 302", "3 fields", "4"]),
    "no date column": (replace_cell(1, 0, "day"), ["row 1", "no column of dates, called date"]),
    "duplicate column": (replace_cell(1, 2, "A"), ["row 1", "'A'", "2 times"]),
    "empty name": (replace_cell(1, 2, ""), ["row 1", "column 3"]),
    "empty": (lambda text: "", ["no rows"]),
    "header alone": (lambda text: text.splitlines()[0], ["no rows"]),
    "too few rows": (lambda text: "\n".join(text.splitlines()[:60]), ["58 rows", "100"]),
    "constant": (
        lambda text: "\n".join(
            ",".join([*line.split(",")[:3], "C" if number == 0 else "5"])
            for number, line in enumerate(text.splitlines())
        ),
        ["column C", "constant"],
    ),
    "blank column": (
        lambda text: "\n".join(
            ",".join([*line.split(",")[:3], "C" if number == 0 else ""])
            for number, line in enumerate(text.splitlines())
        ),
        ["column C", "blank"],
    ),
}


@pytest.mark.parametrize("command", ["search", "compare", "train"])
@pytest.mark.parametrize("what", BROKEN)
def test_broken_data_are_refused_and_no_folder_is_made(runner, call, data, tmp_path, command, what):
    change, words = BROKEN[what]
    broken = tmp_path / "broken.csv"
    broken.write_text(change(data.read_text()))
    more = ["genotype=gru"] if command == "train" else []
    ended = call(command, *runner.options(f"task.data={broken}", *more))
    assert ended.code == 2
    assert "broken.csv" in ended.err
    for word in words:
        assert word in ended.err
    assert ended.out == ""
    assert not runner.folder.exists()


def test_a_series_that_is_constant_over_the_training_part_alone_is_refused(runner, call, data, tmp_path):
    rows = [line.split(",") for line in data.read_text().splitlines()]
    for row in rows[1:260]:
        row[3] = "5"
    broken = tmp_path / "broken.csv"
    broken.write_text("\n".join(map(",".join, rows)))
    ended = call("search", *runner.options(f"task.data={broken}"))
    assert ended.code == 2
    assert "constant over the training part: C" in ended.err
    assert not runner.folder.exists()


def test_a_binary_file_is_refused(runner, call, tmp_path):
    broken = tmp_path / "broken.csv"
    broken.write_bytes(b"\x00\xff\x00PK" * 100)
    ended = call("search", *runner.options(f"task.data={broken}"))
    assert ended.code == 2
    assert "not a text file" in ended.err
    assert not runner.folder.exists()


WRONG = {
    "no such config": (["search", "index_returns/growin"], "did you mean index_returns/growing?"),
    "no config": (["search"], "Missing argument"),
    "a folder for a config": (["search", "."], "a folder"),
    "unknown key": (["search", "index_returns/growing", "strategy.patiense=3"], "did you mean strategy.patience?"),
    "no value": (["search", "index_returns/growing", "seed"], "section.key=value"),
    "wrong value": (["compare", "index_returns/growing", "seed=many"], "seed:"),
    "no such data": (["search", "index_returns/growing", "task.data=nothing.csv"], "nothing.csv: no such file"),
    "a folder for data": (["search", "index_returns/growing", "task.data=."], "cannot be read"),
    "a name with a slash": (["search", "index_returns/growing", "name=a/b"], "a/b"),
    "no genotype": (["train", "index_returns/growing"], "genotype="),
    "no such genotype": (["train", "index_returns/growing", "genotype=nothing.json"], "nothing.json: no such file"),
    "unknown command": (["serch", "index_returns/growing"], "search"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_exits_with_2_and_makes_no_folder(call, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    args, words = WRONG[what]
    ended = call(*args)
    assert ended.code == 2
    assert words in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_that_it_reads_the_data_before_it_does(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = call("search", "index_returns/growing", "task.data=nothing.csv")
    assert ended.err.startswith("index_returns: reading the data\nerror: ")


def test_all_problems_of_a_config_are_told_at_once(runner, call):
    ended = call("search", *runner.options("retrain.patience=0", "strategy.use=grwing", "seeds=[x]"))
    assert ended.code == 2
    for word in ("3 problems", "retrain.patience", "did you mean growing?", "seeds"):
        assert word in ended.err


def test_a_file_where_run_folders_should_go_is_refused(runner, call, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("")
    ended = call("search", *runner.options(f"runs={taken}"))
    assert ended.code == 2
    assert "cannot create a run folder" in ended.err


def test_a_hidden_size_below_the_starts_register_is_refused(runner, call):
    ended = call("search", *runner.options("space.hidden_size=2"))
    assert ended.code == 2
    assert "space.hidden_size=2: a start at a VAR of 3 series needs 3 units or more" in ended.err
    assert not runner.folder.exists() or not list(runner.folder.iterdir())


def test_a_real_process_says_what_is_wrong_without_a_traceback(runner, finish, data, tmp_path):
    broken = tmp_path / "broken.csv"
    broken.write_text(replace_cell(7, 1, "-1")(data.read_text()))
    ended = finish(runner.start("search", f"task.data={broken}"))
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert "row 7, column A" in ended.err
    assert "Traceback" not in ended.err
    assert not runner.folder.exists()


MOVING = (  # ops may be copied at once, up to five a node
    "strategy.max_ops=5", "strategy.min_age=1", "strategy.smoothing=1", "strategy.trial_epochs=1", "strategy.l2_sp=10",
    "strategy.grow_threshold=0.1", "strategy.prune_threshold=0.01",
)  # fmt: skip


@pytest.fixture
def accepting(monkeypatch):
    """Accept whatever comes."""
    monkeypatch.setitem(ACCEPT, "better", lambda best, candidate, threshold: Verdict(True, 1.0, "better", 0.0))


class TestForms:
    """Each form of search, end to end."""

    def smoke(self, runner, *overrides):
        with pytest.MonkeyPatch.context() as patch:  # the report takes longer than the run
            patch.setattr("grownas.runs.commands._report", lambda folder: folder / "report.html")
            folder = runner.search("form", "baselines.use=[zero]", "retrain.epochs=1", *overrides)
        summary = json.loads((folder / "summary.json").read_text())
        assert all(math.isfinite(entry["test"]) for entry in summary["scores"])
        growth = [json.loads(line) for line in (folder / "growth.jsonl").read_text().splitlines()]
        parts = {json.loads(line)["part"] for line in (folder / "metrics.jsonl").read_text().splitlines()}
        return folder, summary, growth, parts

    @pytest.mark.parametrize("order", ["first", "second"])
    def test_bilevel(self, runner, evaluates_to_summary, accepting, order):
        folder, _, growth, parts = self.smoke(runner, f"strategy.bilevel={order}", "task.bptt=10")
        assert growth
        assert "closing" in parts  # alpha's data are given to the weights at the end
        evaluates_to_summary(folder)

    @pytest.mark.parametrize("batches", ["streams", "windows"])
    @pytest.mark.parametrize("command", ["search", "compare"])
    def test_too_few_days_for_the_architecture_weights_are_refused(self, runner, call, command, batches):
        overrides = ("strategy.bilevel=first", "task.bptt=50", f"task.batches={batches}")
        ended = call(command, *runner.options(*overrides))
        assert ended.code == 2
        assert f"the part architecture has 42 rows, but {batches} of 50 days need at least" in ended.err
        assert not runner.folder.exists()

    def test_joint_has_no_closing_fine_tune(self, finished, read_lines):
        assert "closing" not in {line["part"] for line in read_lines(finished / "metrics.jsonl")}

    @pytest.mark.parametrize(("position", "node"), [("first", 0), ("middle", 1), ("last", 2)])
    def test_position(self, runner, position, node):
        _, _, growth, _ = self.smoke(
            runner, f"strategy.position={position}", "start.nodes=2", "strategy.max_nodes=3", "strategy.noise=0"
        )
        assert [(line["kind"], line["node"]) for line in growth] == [("add_node", node)]
        assert growth[0]["drift"] < 1e-4  # float32, without noise

    @pytest.mark.parametrize("prune", ["each_stage", "at_end"])
    def test_pruning(self, runner, evaluates_to_summary, prune):
        folder, summary, growth, parts = self.smoke(
            runner, f"strategy.prune={prune}", "strategy.top_k=2", "strategy.prune_threshold=0.01",
            "strategy.accept=significant",  # else the slightest harm has a pruning undone
        )  # fmt: skip
        pruned = [line for line in growth if line["kind"] == "prune_op"]
        assert pruned
        for line in pruned:
            assert math.isfinite(line["loss_before"])
            assert math.isfinite(line["loss_after"])
            assert line["params_after"] < line["params_before"]
            assert line["judge"]["rule"] in ("top_k by share", "share")
            assert line["op"] >= 0
            assert line["op_name"].count("/") == 1
            assert isinstance(line["accepted"], bool)
        assert any(part.endswith(f"-pruned-{prune}") for part in parts)
        genotype = Genotype.load(folder / "genotype.json")
        assert all(len(node.ops) <= 2 for node in genotype.nodes)
        assert summary["ops"] == sum(len(node.ops) for node in genotype.nodes)
        evaluates_to_summary(folder)

    @pytest.mark.parametrize("switch", ["highway", "share_projection"])
    @pytest.mark.parametrize("start", ["var", "random"])
    def test_switches_and_starts(self, runner, evaluates_to_summary, switch, start):
        folder, summary, growth, _ = self.smoke(runner, f"space.{switch}=true", f"start.use={start}")
        assert getattr(Genotype.load(folder / "genotype.json"), switch)
        assert [line["kind"] for line in growth] == ["add_node"] * len(growth)
        scores = {entry["model"]: entry for entry in summary["scores"]}
        assert scores["grown"]["val"] <= scores["start"]["val"] * 1.1
        evaluates_to_summary(folder)

    def test_refit_fits_all_models_anew(self, runner, finished, evaluates_to_summary, read_json):
        folder = runner.search(
            "refit",
            "refit=true",
            "baselines.use=[zero,var1,var_robust,gru,gru_var]",
            "space.combine=[add]",
            "strategy.max_epochs=2",
        )
        summary = read_json(folder / "summary.json")
        assert summary["refit"] is True
        before = read_json(finished / "summary.json")["scores"]
        for model in ("start", "var1", "grown", "gru"):
            one, other = (next(e for e in s if e["model"] == model) for s in (before, summary["scores"]))
            assert one["test"] != other["test"]
        grown = next(entry for entry in summary["scores"] if entry["model"] == "grown")
        assert grown["steps"] > summary["search_steps"]  # those of the refit are counted, too
        zero = [next(e for e in s if e["model"] == "zero")["test"] for s in (before, summary["scores"])]
        assert zero[0] == zero[1]  # the scaling stays that of the training part
        evaluates_to_summary(folder)

    @pytest.mark.parametrize("command", ["search", "compare"])
    def test_thresholds_that_contradict_each_other_are_refused_before_work(self, runner, call, command):
        ended = call(command, *runner.options("strategy.mode=ops_duplicate", "strategy.grow_threshold=0.1"))
        assert ended.code == 2
        assert ended.err.startswith("error: ")
        for word in ("prune_threshold 0.05 is too close to grow_threshold 0.1", "a copy may begin at a share of 0.04"):
            assert word in ended.err
        assert not runner.folder.exists()

    @pytest.mark.parametrize(
        ("mode", "kinds"),
        [
            ("ops_duplicate", {"duplicate_op"}),
            ("ops_split", {"split_op"}),
            ("nodes_and_ops", set(MODES["nodes_and_ops"])),
        ],
    )
    def test_modes(self, runner, evaluates_to_summary, accepting, mode, kinds):
        folder, summary, growth, parts = self.smoke(runner, f"strategy.mode={mode}", *MOVING)
        assert {line["kind"] for line in growth} == kinds
        assert {part for part in parts if "-try-" in part} == (
            {f"stage-2-try-{kind}" for kind in kinds} if len(kinds) > 1 else set()
        )
        genotype = Genotype.load(folder / "genotype.json")
        assert summary["ops"] == sum(len(node.ops) for node in genotype.nodes)
        assert max(len(node.ops) for node in genotype.nodes) == 5 or mode == "nodes_and_ops"
        assert [line["stage"] for line in summary["stage_log"]][-1] >= 2
        evaluates_to_summary(folder)

    def test_a_growth_of_ops_with_prunings_and_restarts_is_refitted(self, runner, evaluates_to_summary):
        folder, summary, growth, parts = self.smoke(
            runner, "refit=true", "strategy.mode=ops_split", "strategy.splitting.count=2", "strategy.restarts=1",
            "strategy.prune=at_end", "strategy.top_k=4", *MOVING,
            "strategy.accept=significant", "strategy.threshold=0.5",  # some gain is enough, some harm is no matter
        )  # fmt: skip
        accepted = [line for line in growth if line["accepted"]]
        assert {line["kind"] for line in accepted} >= {"split_op", "prune_op"}
        last = [line["stage"] for line in summary["stage_log"] if line["accepted"]][-1]
        assert {"refit-stage-2", f"refit-stage-{last}", f"refit-stage-{last}-pruned"} <= parts
        assert all(len(node.ops) <= 4 for node in Genotype.load(folder / "genotype.json").nodes)
        evaluates_to_summary(folder)

    def test_a_start_that_nothing_beats_is_kept_and_the_summary_says_so(self, runner, evaluates_to_summary):
        folder, summary, growth, _ = self.smoke(runner, "strategy.accept=significant", "strategy.threshold=1e9")
        assert summary["stopped"] == "no first stage was accepted: the start is kept"
        assert "The search added nothing: the start is kept." in summary["verdict"]
        assert growth == []
        assert all(not line["accepted"] for line in summary["stage_log"])
        forecasts = load_file(folder / "forecasts.safetensors")
        np.testing.assert_allclose(forecasts["grown"], forecasts["start"], rtol=0, atol=1e-5)
        evaluates_to_summary(folder)

    def test_limits_stop_growth_and_say_why(self, runner):
        _, summary, growth, _ = self.smoke(runner, "strategy.max_params=500")
        assert "max_params = 500" in summary["stopped"]
        assert growth == []


@pytest.mark.filterwarnings("ignore:skipped a setting")
def test_models_whose_training_diverges_have_no_row_and_the_run_goes_on(runner, call, read_json):
    options = runner.options(
        "name=lost", "baselines.rates=[1e25]", "baselines.losses=[squared]", "baselines.weight_decays=[1]"
    )
    with pytest.warns(UserWarning, match="no row") as told:
        ended = call("search", *options)
    assert ended.code == 0
    missing = [str(one.message).split(":")[0] for one in told if str(one.message).startswith("no row")]
    assert missing == ["no row grown_retrained", "no row gru"]
    summary = read_json(runner.folder / "lost" / "summary.json")
    assert [entry["model"] for entry in summary["scores"]] == [
        "chosen",
        "grown",
        "first_stage",
        "start",
        "zero",
        "var1",
    ]
    assert summary["retrain_seconds"] is None
    assert call("report", runner.folder / "lost").code == 0


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(runner, call):
    options = runner.options(
        "name=bad", "strategy.weights.optimizer=sgd", "strategy.weights.rate=1e9", "strategy.l2_sp=0"
    )
    ended = call("search", *options)
    assert ended.code == 1
    for word in ("stage-1-l2_sp-0", "stage 1", "step ", "epoch ", "Lower the learning rate", ".part"):
        assert word in ended.err
    folder = runner.folder / "bad"
    assert (folder / "checkpoint" / "stage-1-l2_sp-0.part").exists()
    assert not (folder / "summary.json").exists()
    for _ in range(2):
        again = call("resume", folder)
        assert again.code == 1
        assert again.err == ended.err
    shutil.rmtree(folder / "checkpoint")
    assert call("resume", folder).err == ended.err
    assert call("evaluate", folder).code == 2


STUDIES = [name for name in sorted(configs.shipped()) if "/studies/" in name]  # they differ from others in few keys


@pytest.mark.parametrize("name", [*sorted({*configs.shipped()} - {*STUDIES}), *mostly_slow(STUDIES, keep=STUDIES[::6])])
def test_every_shipped_config_trains(name, call, read_json, read_lines, tmp_path):
    shorter = (
        "strategy.max_epochs=1", "strategy.max_nodes=2", "retrain.grown=false", "task.streams=64",
    )  # fmt: skip
    config = configs.load(name)
    if config.space.backbone != "blocks":  # whose size is 2, I and Q
        shorter = *shorter, "space.hidden_size=8"
    if hasattr(config.strategy, "fine_tune_epochs"):  # others train each genotype on its own
        shorter = *shorter, "strategy.fine_tune_epochs=1"
    own = {
        "index_returns": (
            "start.max_order=1",
            "task.context=20",
            "task.train=0.9",
            "task.val=0.05",
            "baselines.use=zero",
            "task.replay=null",
        ),
        "penn_treebank": ("task.data=embedded", "task.context=20", "device=cpu", "baselines.use=[]"),
        "predistortion": ("task.data=simulated", "task.start_params=20", "baselines.use=[]"),
    }[name.partition("/")[0]]
    if name.startswith("penn_treebank") and config.strategy.use == "growing":
        own = *own, "strategy.later_epochs=1"
    if name == "penn_treebank/compare_cpu":
        own = *own, "baselines.grid.gain=5", "baselines.grid.dropout=0.1"  # two settings instead of eight
    ended = call("search", name, *shorter, *own, f"runs={tmp_path}", "name=run", "quiet=true")
    assert ended.code == 0, ended.err
    assert read_json(tmp_path / "run" / "summary.json")["search_steps"] >= 2
    assert {line["split"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")} == {"train", "val"}
