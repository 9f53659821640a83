"""`grownas update` and `refit=true` for amplifiers that drift, from the command line and from Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import grownas
from grownas import errors
from grownas.tasks.predistortion.amplifier import amplifier_of_run
from grownas.tasks.predistortion.reading import from_folder
from support.drifting import COLD, HOT, WARM, recording, write
from support.following_signals import FollowedSignal

SMALL = (
    "space.hidden_size=4", "space.activation=[identity,tanh]", "task.streams=2", "task.bptt=50",
    "task.start_family=mp", "task.start_params=20", "strategy.first_epochs=4", "strategy.max_epochs=4",
    "strategy.max_nodes=1", "strategy.fine_tune_epochs=1", "retrain.grown=false", "baselines.use=[mp]",
    "update.epochs=40", "retrain.epochs=2", "checkpoint_seconds=1000", "quiet=true",
)  # fmt: skip
HOWS = ("state", "continue", "grow", "refit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("amplifiers")


@pytest.fixture(scope="module")
def data(folder) -> dict[str, Path]:
    """Recordings of the amplifier as it was, warmer, and hot; and one that heats up only for its training part."""
    drives = {"cold": COLD, "warm": WARM, "hot": HOT, "brief": {"train": HOT, "val": COLD, "test": COLD}}
    return {name: write(folder / name, recording(drive, seed)) for seed, (name, drive) in enumerate(drives.items(), 1)}


@pytest.fixture(scope="module")
def search(folder, data, call):
    """Search on the recording `cold`; return the folder of the run."""

    def work(name: str, *options: str) -> Path:
        places = f"task.data={data['cold']}", f"runs={folder}", f"name={name}"
        ended = call("search", "predistortion/growing", *SMALL, *places, *options)
        assert ended.code == 0, ended.err
        return folder / name

    return work


@pytest.fixture(scope="module")
def model(search) -> Path:
    """A model of the amplifier; do not write to it."""
    return search("model")


@pytest.fixture(scope="module")
def predistorter(search) -> Path:
    """A predistorter in front of the fitted amplifier; do not write to it."""
    return search("predistorter", "task.job=predistort")


@pytest.fixture(scope="module")
def update(folder, call):
    """Update a run; return the folder of the update."""

    def work(run: Path, name: str, *options: str) -> Path:
        ended = call("update", run, *options, f"runs={folder}", f"name={name}")
        assert ended.code == 0, ended.err
        return folder / name

    return work


@pytest.fixture(scope="module")
def updated(model, data, update) -> dict[str, Path]:
    """An update of the model of each kind with the recording `warm`; do not write to them."""
    return {how: update(model, how, f"task.data={data['warm']}", f"how={how}") for how in HOWS}


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_file(folder / "weights.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def printed(summary) -> list[str]:
    return [f"{part} nmse_db {summary[part]!r}" for part in ("val", "test")]


def scores_of(call, *given) -> list[str]:
    ended = call("evaluate", *given)
    assert ended.code == 0, ended.err
    return [line for line in ended.out.splitlines() if line.strip()]


def test_learning_on_makes_up_for_the_drift(updated, read_json):
    summaries = {how: read_json(folder / "summary.json") for how, folder in updated.items()}
    assert all(summaries[how]["update"]["accepted"] for how in HOWS[1:])
    gains = {how: summaries["state"]["test"] - summaries[how]["test"] for how in HOWS[1:]}
    assert min(gains.values()) > 15  # dB
    assert [one["model"] for one in summaries["continue"]["scores"]] == ["chosen", "updated", "not_updated"]


def test_without_learning_all_weights_stay_and_the_drift_is_scored(updated, model, data, call, read_json):
    assert same_weights(updated["state"], model)
    assert scores_of(call, model, f"task.data={data['warm']}") == printed(read_json(updated["state"] / "summary.json"))


@pytest.mark.parametrize("how", HOWS)
def test_an_update_is_a_run_that_can_be_used(updated, how, call, data, read_json, tmp_path):
    folder = Path(shutil.copytree(updated[how], tmp_path / how))
    assert scores_of(call, folder) == printed(read_json(folder / "summary.json"))
    assert scores_of(call, folder, f"task.data={data['warm']}") == printed(read_json(folder / "summary.json"))
    ended = call("predict", folder, f"input={data['hot'] / 'test_input.csv'}", f"out={tmp_path / 'out.csv'}")
    assert ended.code == 0, ended.err
    assert call("show", folder).code == call("report", folder).code == 0


def test_the_report_shows_both_models_by_all_scores(updated, read_json):
    page = (updated["continue"] / "report.html").read_text("utf-8")
    entries = {one["model"]: one for one in read_json(updated["continue"] / "summary.json")["scores"]}
    for name in ("updated", "not_updated"):
        detail = entries[name]["detail"]["test"]
        row = page.split(f">{name}</td>")[1].split("</tr>")[0]
        assert f">{entries[name]['test']:.2f}<" in row
        assert all(f">{detail[key]:.2f}<" in row for key in ("evm_db", "acpr_left_db", "acpr_right_db"))


def test_an_update_has_its_own_equations_in_the_scaling_of_the_first_run(updated, model, predicts_as_written):
    predicts_as_written(updated["continue"])
    before, after = ((folder / "equations.txt").read_text() for folder in (model, updated["continue"]))
    assert before != after
    assert FollowedSignal(before).blocks["unit_in"] == FollowedSignal(after).blocks["unit_in"]


def test_the_polynomial_learns_on_with_the_cell(updated, model):
    before, after = (load_file(folder / "weights.safetensors") for folder in (model, updated["continue"]))
    assert torch.equal(before["polynomial.fitted"], after["polynomial.fitted"])
    assert not torch.equal(before["polynomial.change"], after["polynomial.change"])


def test_an_update_can_be_updated_in_the_scaling_of_the_first_run(updated, model, data, update, read_json, call):
    again = update(updated["continue"], "again", f"task.data={data['hot']}", "how=continue")
    summary = read_json(again / "summary.json")
    assert summary["update"]["accepted"]
    assert summary["parent"]["folder"] == str(updated["continue"])
    assert scores_of(call, again) == printed(summary)
    scales = [read_json(folder / "data.json")["scales"] for folder in (model, updated["continue"], again)]
    assert scales[0] == scales[1] == scales[2] == list(from_folder(data["cold"]).scales)


def test_an_update_that_makes_the_model_worse_is_rejected(model, data, update, read_json):
    folder = update(model, "worse", f"task.data={data['brief']}", "how=continue")
    summary = read_json(folder / "summary.json")
    scores = {one["model"]: one for one in summary["scores"]}
    assert not summary["update"]["accepted"]
    assert scores["updated"]["val"] > scores["not_updated"]["val"] + 5
    assert summary["chosen"] == "not_updated"
    assert same_weights(folder, model)


def test_a_killed_update_is_resumed_to_the_same_bits(
    updated, model, data, folder, fork, wait_for, call, read_json, without_times
):
    place = folder / "killed"
    options = "how=continue", "checkpoint_seconds=0", f"runs={folder}", "name=killed"
    process = fork("update", model, f"task.data={data['warm']}", *options)
    wait_for(lambda: (place / "checkpoint" / "continue.part").exists() or process.exitcode is not None)
    process.kill()
    process.join()
    assert not (place / "summary.json").exists()
    ended = call("resume", place)
    assert ended.code == 0, ended.err
    assert same_weights(place, updated["continue"])
    one, other = (without_times(read_json(each / "summary.json")) for each in (place, updated["continue"]))
    assert one == other


def test_python_finds_the_same_and_needs_a_folder(updated, model, data, tmp_path):
    run = grownas.load(model)
    found = run.update(data["warm"], "continue", folder=tmp_path / "continue")
    assert found.summary["test"] == grownas.load(updated["continue"]).summary["test"]
    assert same_weights(found.folder, updated["continue"])
    with pytest.raises(errors.ConfigError, match="keeps its data in a folder; give folder="):
        run.update(data["warm"])


def test_both_predistorters_drive_the_amplifier_of_the_new_recording(predistorter, data, update, call, read_json):
    folder = update(predistorter, "driven", f"task.data={data['warm']}", "how=continue")
    summary = read_json(folder / "summary.json")
    scores = {one["model"]: one for one in summary["scores"]}
    assert summary["update"]["accepted"]
    assert scores["updated"]["test"] < scores["not_updated"]["test"] - 5
    assert scores_of(call, predistorter, f"task.data={data['warm']}") == printed(scores["not_updated"])
    assert scores_of(call, folder) == printed(summary)


def test_an_updated_model_is_the_amplifier_of_an_updated_predistorter(
    predistorter, updated, model, data, update, call, read_json, tmp_path
):
    new, given = f"task.data={data['warm']}", f"task.amplifier={updated['continue']}"
    folder = update(predistorter, "in-front-of-a-run", new, given)
    assert read_json(folder / "data.json")["amplifier"] == f"the model of {updated['continue']}"
    ended = call("update", predistorter, new, f"task.amplifier={model}", f"runs={tmp_path}")
    assert ended.code == 2
    assert "`grownas update` makes one of a new recording" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_the_model_of_a_run_amplifies_in_any_scaling(updated, data):
    warm, place = from_folder(data["warm"]), str(updated["continue"])
    one, other = (3.0, 0.5), warm.scales
    x = torch.randn(200, 1, 2, generator=torch.Generator().manual_seed(0)) / 4  # in the input's own units
    outputs = [amplifier_of_run(place, warm, scales)(x / scales[0]) * scales[1] for scales in (one, other)]
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("task.data=cold",), "100% of the samples of its part val are in the parts train and val"),
        (("task.data=warm", "task.nperseg=200"), "nperseg is 200, but that of the run's recording 100"),
        (("task.data=warm", "task.taps=2"), "task.taps: an update keeps that of the run"),
        (("task.data=nowhere",), "nowhere: no such file or folder"),
        (("task.data=warm", "update.block=100"), "a recording has its own parts train, val and test"),
        (("task.data=warm", "task.bptt=900"), "windows of 900 need at least 2700"),
        (("task.data=warm", "refit=true"), "leave refit= out"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_leaves_no_folder(
    model, data, call, tmp_path, monkeypatch, options, words
):
    monkeypatch.chdir(data["cold"].parent)
    ended = call("update", model, *options, f"runs={tmp_path}")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert words in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_its_scaling_is_called_damaged(model, data, call, tmp_path):
    copied = Path(shutil.copytree(model, tmp_path / "copied"))
    (copied / "data.json").write_text("{}")
    ended = call("evaluate", copied, f"task.data={data['warm']}")
    assert ended.code == 2
    assert "data.json: damaged: KeyError('scales'); this file holds scales" in ended.err


def test_a_refit_trains_all_models_on_the_validation_part_too(model, search, read_json, call):
    folder = search("refitted", "refit=true", "baselines.use=[mp,dgru]", "baselines.hidden_sizes=[4]")
    summaries = [read_json(one / "summary.json") for one in (model, folder)]
    before, after = ({one["model"]: one for one in each["scores"]} for each in summaries)
    assert all(before[name]["test"] != after[name]["test"] for name in ("chosen", "start", "mp"))
    assert "dgru" in after
    assert scores_of(call, folder) == printed(summaries[1])
