"""Amplifiers and predistorters from the command line: searched, resumed, scored again, and one driving the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import grownas
from grownas.genotype import DagGenotype, DagNode
from grownas.tasks.predistortion.amplifier import amplifier_of_run
from grownas.tasks.predistortion.metrics import nmse
from grownas.tasks.predistortion.options import MEMORY
from grownas.tasks.predistortion.reading import PAIR, from_folder, read_csv
from grownas.tasks.predistortion.simulated import simulated

SMALL = (
    "space.hidden_size=4", "space.activation=[identity,tanh]", "task.streams=2", "task.bptt=20",
    "task.start_family=mp", "task.start_params=10", "strategy.first_epochs=4", "strategy.max_epochs=4",
    "strategy.fine_tune_epochs=1", "retrain.epochs=2", "baselines.hidden_sizes=4", "checkpoint_seconds=1000",
    "quiet=true",
)  # fmt: skip
MODELS = ["chosen", "grown", "first_stage", "start", "grown_retrained", "fir", "mp", "gmp", "lstm", "gru", "dgru"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("predistortion")


@pytest.fixture(scope="module")
def small(folder) -> tuple[str, ...]:
    """The arguments of a search on a short recording."""
    data, recording = folder / "recording", simulated(1)
    data.mkdir()
    for side, signals in (("input", recording.x), ("output", recording.y)):
        for part, length in (("train", 2000), ("val", 400), ("test", 400)):
            pairs = np.stack([signals[part].real, signals[part].imag], axis=1)[:length]
            np.savetxt(data / f"{part}_{side}.csv", pairs, delimiter=",", header="I,Q", comments="")
    spec = {"input_signal_fs": 100e6, "bw_main_ch": 20e6, "n_sub_ch": 1, "nperseg": 100}
    (data / "spec.json").write_text(json.dumps(spec))
    return ("predistortion/growing", f"task.data={data}", f"runs={folder}", *SMALL)


@pytest.fixture(scope="module")
def searched(folder, small, call) -> Path:
    """A finished search for a model of an amplifier; do not write to it."""
    ended = call("search", *small, "name=searched")
    assert ended.code == 0, ended.err
    return folder / "searched"


def scores_of(summary):
    return {entry["model"]: entry for entry in summary["scores"]}


def test_growth_begins_at_the_polynomial_and_goes_on_from_there(searched, read_json):
    summary = read_json(searched / "summary.json")
    scores = scores_of(summary)
    assert list(scores) == MODELS
    assert scores["grown"]["test"] < scores["start"]["test"]
    assert scores["fir"]["test"] > scores["mp"]["test"] > scores["gmp"]["test"]
    assert set(scores["grown"]["detail"]["test"]) == {"evm_db", "acpr_left_db", "acpr_right_db", "nmse_frames_db"}
    assert scores["mp"]["params"] == 2 * scores["mp"]["chosen"]["order"] * scores["mp"]["chosen"]["taps"]
    titles = [one["title"] for one in read_json(searched / "figures.json")["figures"]]
    assert titles[:3] == ["AM/AM", "AM/PM", "Spectra"]


def test_its_model_is_scored_again_to_the_last_bit(searched, call, read_json):
    summary, ended = read_json(searched / "summary.json"), call("evaluate", searched)
    assert ended.code == 0, ended.err
    assert [line for line in ended.out.splitlines() if line.strip()] == [
        f"{part} nmse_db {summary[part]!r}" for part in ("val", "test")
    ]
    assert call("show", searched).code == call("report", searched).code == 0


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("predict",), "a model filters the columns I and Q of a CSV: give input=FILE.csv"),
        (("predict", "input=none.csv"), "none.csv: cannot be read: No such file"),
        (("evaluate", "task.job=predistort"), "only task.data, task.output, task.data_seed"),
        (("update", "task.data=simulated", "task.taps=2"), "task.taps: an update keeps that of the run"),
    ],
)
def test_what_its_runs_cannot_do_is_refused_in_one_line(searched, call, tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    ended = call(command[0], searched, *command[1:])
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert words in ended.err


def test_its_model_filters_a_signal_as_it_was_scored(searched, small, call, tmp_path, monkeypatch, read_json):
    monkeypatch.chdir(tmp_path)
    data = Path(small[1].removeprefix("task.data="))
    given = tmp_path / "test.v2.csv"
    shutil.copy(data / "test_input.csv", given)
    ended = call("predict", searched, f"input={given}")
    assert (ended.code, ended.out.strip()) == (0, "test.v2-output.csv"), ended.err
    found, actual = (read_csv(one, PAIR)[:, 0] for one in (Path("test.v2-output.csv"), data / "test_output.csv"))
    assert len(found) == len(actual) == 400
    assert nmse(found[MEMORY:], actual[MEMORY:]) == pytest.approx(
        read_json(searched / "summary.json")["test"], abs=1e-6
    )
    assert call("predict", searched, f"input={given}", "out=other.csv").out.strip() == "other.csv"
    assert Path("other.csv").read_bytes() == Path("test.v2-output.csv").read_bytes()


def test_another_program_follows_the_equations(searched, predicts_as_written):
    assert "the sum over" in (searched / "equations.txt").read_text()
    predicts_as_written(searched)


def test_a_dag_that_was_trained_without_a_search_has_equations(folder, small, call, predicts_as_written, tmp_path):
    genotype = tmp_path / "dag.json"
    DagGenotype((DagNode(0, "tanh"), DagNode(0, "identity"))).save(genotype)
    options = ("start.use=random", "space.backbone=dag", "task.taps=3", "task.phase=relative", "task.job=predistort")
    ended = call("train", *small, *options, f"genotype={genotype}", "name=dag")
    assert ended.code == 0, ended.err
    assert (folder / "dag" / "equations.txt").read_text().startswith("Predistorter of a power amplifier with a grown")
    predicts_as_written(folder / "dag")


@pytest.mark.parametrize("form", ["sequence", "step"])
def test_its_model_is_exported_with_its_polynomial(searched, small, call, tmp_path, form):
    pytest.importorskip("onnx", reason="the extra onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    ended = call("export", searched, tmp_path / "model.onnx", f"form={form}")
    assert ended.code == 0, ended.err
    assert f"inputs: samples float64 ({'T, ' if form == 'sequence' else ''}B, 2)" in ended.out
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    if form == "sequence":
        data = Path(small[1].removeprefix("task.data="))
        call("predict", searched, f"input={data / 'test_input.csv'}", f"out={tmp_path / 'filtered.csv'}")
        given, wanted = (read_csv(one, PAIR) for one in (data / "test_input.csv", tmp_path / "filtered.csv"))
        assert np.array_equal(grownas.load(searched).filter(given[:, 0]), wanted[:, 0])
        found = session.run(["output"], {"samples": given.view(float)[:, None]})[0][:, 0]
        np.testing.assert_allclose(found, wanted.view(float), rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("tensor", "change", "words"),
    [
        ("polynomial.terms", lambda one: one + 0.5, "polynomial.terms needs whole numbers from 0 to 39"),
        ("polynomial.terms", None, "it lacks polynomial.terms"),
        ("polynomial.fitted", None, "polynomial.fitted is missing"),
        ("polynomial.change", lambda one: one[:1], "polynomial.change has shape (1, 2), expected"),
    ],
)
def test_damaged_weights_are_named(searched, tmp_path, call, tensor, change, words):
    copied = Path(shutil.copytree(searched, tmp_path / "copied"))
    tensors = load_file(copied / "weights.safetensors")
    one = tensors.pop(tensor)
    if change is not None:
        tensors[tensor] = np.ascontiguousarray(change(one))
    save_file(tensors, copied / "weights.safetensors", {"names": "[]", "input_size": "6", "hidden_size": "4"})
    ended = call("evaluate", copied)
    assert ended.code == 2
    assert words in ended.err


@pytest.mark.parametrize("until", ["stage-1-l2_sp-0.part", "gmp.done"])
def test_a_search_that_was_killed_goes_on_to_the_same_bits(
    searched, folder, small, call, fork, wait_for, read_json, without_times, until
):
    name = f"killed-{until}"
    process = fork("search", *small, f"name={name}", "checkpoint_seconds=0")
    wait_for(lambda: (folder / name / "checkpoint" / until).exists() or process.exitcode is not None)
    process.kill()
    process.join()
    assert not (folder / name / "summary.json").exists()
    assert call("resume", folder / name).code == 0
    for file in ("weights.safetensors", "losses.safetensors"):
        one, other = load_file(searched / file), load_file(folder / name / file)
        assert {key: value.tobytes() for key, value in one.items()} == {k: v.tobytes() for k, v in other.items()}, file
    summaries = [without_times(read_json(one / "summary.json")) for one in (searched, folder / name)]
    assert summaries[0] == summaries[1]


def test_a_predistorter_learns_through_the_model_of_a_run(
    searched, folder, small, call, read_json, predicts_as_written
):
    options = (
        f"task.amplifier={searched}",
        "task.job=predistort",
        "retrain.grown=false",
        "baselines.use=[mp,dgru]",
        "task.bptt=50",
    )
    ended = call("search", *small, *options, "name=driven")
    assert ended.code == 0, ended.err
    summary, data = (read_json(folder / "driven" / name) for name in ("summary.json", "data.json"))
    scores = scores_of(summary)
    assert data["amplifier"] == f"the model of {searched}"
    assert scores["grown"]["val"] < scores["start"]["val"]
    predicts_as_written(folder / "driven")
    printed = [line for line in call("evaluate", folder / "driven").out.splitlines() if line.strip()]
    assert printed == [f"{part} nmse_db {summary[part]!r}" for part in ("val", "test")]
    refused = call("search", *small, f"task.amplifier={folder / 'driven'}", "task.job=predistort")
    assert refused.code == 2
    assert "expected a search of the task predistortion with task.job=model" in refused.err
    other = call("search", *small, *options, "task.data=simulated")
    assert other.code == 2
    assert "give a run that learned from the same recording" in other.err


def test_an_amplifier_is_known_by_its_weights_alone(searched, small, tmp_path):
    copied = Path(shutil.copytree(searched, tmp_path / "copied"))
    file, recording = copied / "weights.safetensors", from_folder(Path(small[1].removeprefix("task.data=")))
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    file.write_bytes((size + 8).to_bytes(8, "little") + raw[8 : 8 + size] + b" " * 8 + raw[8 + size :])
    first = amplifier_of_run(str(searched), recording, recording.scales).checksum
    assert amplifier_of_run(str(copied), recording, recording.scales).checksum == first
    tensors = load_file(file)
    tensors["readout.bias"] = tensors["readout.bias"] + 1
    save_file(tensors, file, {"names": "[]", "input_size": "6", "hidden_size": "4"})
    assert amplifier_of_run(str(copied), recording, recording.scales).checksum != first


def test_baselines_are_trained_on_their_own(folder, small, call, read_json):
    for name in ("gmp", "dgru"):
        ended = call("train", *small, f"genotype={name}")
        assert ended.code == 0, ended.err
        summary = read_json(folder / f"predistortion-train-{name}-1" / "summary.json")
        assert [entry["model"] for entry in summary["scores"]] == [name]
        assert not (folder / f"predistortion-train-{name}-1" / "equations.txt").exists()


def test_polynomials_keep_to_a_number_of_parameters(folder, small, call, read_json):
    ended = call("train", *small, "genotype=gmp", "task.polynomial_params=12", "name=capped")
    assert ended.code == 0, ended.err
    free, capped = (
        read_json(folder / name / "summary.json")["params"] for name in ("predistortion-train-gmp-1", "capped")
    )
    assert capped <= 12 < free


def test_seeds_are_compared(folder, small, call, read_json):
    options = ("seeds=[1,2]", "strategies=growing", "baselines.use=[gmp,gru]", "retrain.grown=false", "workers=1")
    ended = call("compare", *small, *options, "name=compared", "cluster=in_process")
    assert ended.code == 0, ended.err
    found = {entry["model"]: entry for entry in read_json(folder / "compared" / "comparison.json")["models"]}
    assert {"chosen", "grown", "start", "gmp", "gru"} <= set(found)
    assert found["gmp"]["test"]["sd"] == 0
