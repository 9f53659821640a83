"""Whole runs on a tiny text: a search and its folder, scoring it again, going on after a kill, refused input."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from grownas.genotype import Genotype, Node, Op
from support.slow import mostly_slow

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "road", "<unk>"]
FAST = (
    "space.hidden_size=6",
    "space.activation=[identity,tanh]",
    "task.streams=4",
    "task.bptt=5",
    "task.samples=4",
    "task.dropout_embedding=0.1",
    "task.weight_drop=0.2",
    "task.activation=0.5",
    "task.temporal=0.5",
    "strategy.later_epochs=4",
    "strategy.guard=false",
    "strategy.blend_steps=5",
    "retrain.epochs=2",
    "checkpoint_seconds=1000",
    "quiet=true",
)


def sentences(count: int, seed: int) -> str:
    """Lines in which each word follows from the one before it, mostly."""
    draw, lines = random.Random(seed), []
    for _ in range(count):
        words = [draw.randrange(len(WORDS))]
        while len(words) < 6:
            words.append((2 * words[-1] + draw.choice([1, 1, 1, 2])) % len(WORDS))
        lines.append(" " + " ".join(WORDS[word] for word in words) + " \n")
    return "".join(lines)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for name, count, seed in (("train", 60, 1), ("valid", 15, 2), ("test", 15, 3)):
        (folder / f"{name}.txt").write_text(sentences(count, seed))
    return folder


@pytest.fixture(scope="module")
def options(text, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return lambda *more: ["penn_treebank/growing_cpu", f"task.data={text}", f"runs={runs}", *FAST, *more]


@pytest.fixture(scope="module")
def searched(call, options) -> Path:
    ended = call("search", *options("name=searched", "quiet=false"))
    assert ended.code == 0, ended.err
    return Path(ended.out.splitlines()[-1].removeprefix("report: ")).parent


def test_a_search_scores_every_model_at_the_same_size(searched, read_json):
    summary = read_json(searched / "summary.json")
    scores = {entry["model"]: entry for entry in summary["scores"]}
    assert list(scores) == ["chosen", "grown", "first_stage", "start", "grown_retrained", "lstm", "gru"]
    assert summary["metric"] == "perplexity"
    assert (summary["nodes"], summary["backend"]) == (2, "native")
    for name in ("grown_retrained", "lstm", "gru"):
        assert scores[name]["params"] == pytest.approx(scores["grown"]["params"], rel=0.2)
    lines = [json.loads(line) for line in (searched / "metrics.jsonl").read_text().splitlines()]
    last = {line["part"]: line["value"] for line in lines if line["metric"] == "words_per_s"}
    parts = {
        "grown": "stage-2",
        "first_stage": "stage-1-l2_sp-0",
        "grown_retrained": "retrained",
        "lstm": "lstm",
        "gru": "gru",
    }
    parts["chosen"] = parts[summary["chosen"]]
    for name, entry in scores.items():
        assert entry.get("words_per_s") == (last[parts[name]] if name in parts else None)
    assert scores["grown"]["test"] < scores["start"]["test"] < 1.5 * len(WORDS)
    losses = load_file(searched / "losses.safetensors")
    tokens = 15 * 7 - 1
    for name, entry in scores.items():
        assert losses[name].shape == (tokens,)
        assert math.exp(losses[name].astype(float).mean()) == pytest.approx(entry["test"], rel=1e-6)
        assert entry["detail"]["test"]["tokens"] == tokens


def words_of(page: Path) -> str:
    """The words of a report, without its drawings, styles and config."""
    text = re.sub(r"<style>.*?</style>|<svg.*?</svg>|<details>.*?</details>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", text).split())


OF_SERIES = ("R²", "hits", "orecast", "error", "MSE", "series", "cleaning", "days", "None", "equations.txt , in a form")


def test_the_report_speaks_of_the_text(searched, text, read_json):
    page = searched / "report.html"
    found, headings = words_of(page), re.findall(r"<h2[^>]*>(.*?)</h2>", page.read_text())
    assert headings == [
        "Comparison", "Growth timeline", "Training curves", "The cell", "The cell move by move", "Shares over time",
        "Growth log", "Data", "How to repeat it",
    ]  # fmt: skip
    for words in OF_SERIES:
        assert words not in found, words
    for entry in read_json(searched / "summary.json")["scores"]:
        assert f"{entry['test']:.2f}" in found
        assert f"{entry['test']:.3f}" not in found
    assert f"Text {text.name}, 10 words" in found
    assert "420 training, 105 validation, 105 test tokens" in found
    assert "All numbers are in weights.safetensors ; equations.txt" in found
    assert "words/s" in found
    curves = re.split(r"<h2[^>]*>Training curves</h2>", page.read_text())[1].split("<h2")[0]
    for model in ("grown", "grown_retrained", "lstm", "gru"):  # at the ends, over steps and over seconds
        assert curves.count(f">{model}<") == 2


def test_runs_side_by_side_are_compared_by_perplexity(searched, trained, call):
    ended = call("report", searched, trained("lstm"))
    assert ended.code == 0, ended.err
    found = words_of(Path(ended.out.strip()))
    for words in OF_SERIES[:5]:
        assert words not in found, words
    assert "has the lowest validation perplexity" in found


@pytest.fixture(scope="module")
def nll_by_numpy(searched, read_json, followed_words):
    """A function from texts, read one after the other, to the nll of each word but the first, from the files alone."""
    with safe_open(searched / "weights.safetensors", "np") as file:
        names = json.loads(file.metadata()["names"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    nodes = read_json(searched / "genotype.json")["nodes"]
    shares = [op["share"] for node in nodes for op in node["ops"]]
    followed = followed_words((searched / "equations.txt").read_text(), tensors, shares)

    def nll(*texts: Path) -> np.ndarray:
        lines = [line for text in texts for line in text.read_text().splitlines()]
        words = [word for line in lines for word in (*line.split(), "<eos>")]
        ids = [names.index(word if word in names else "<unk>") for word in words]
        logits = followed.logits(ids[:-1]).astype(float)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -log_p[np.arange(len(ids) - 1), ids[1:]]

    return nll


def test_the_folder_and_the_text_give_the_test_perplexity_by_numpy_alone(searched, text, read_json, nll_by_numpy):
    nll = nll_by_numpy(text / "test.txt")
    assert math.exp(nll.mean()) == pytest.approx(read_json(searched / "summary.json")["test"], rel=1e-5)
    np.testing.assert_allclose(nll, load_file(searched / "losses.safetensors")["chosen"], rtol=0, atol=1e-5)


def test_evaluate_gives_the_summary_and_other_ways_of_scoring(searched, call, read_json):
    summary, ended = read_json(searched / "summary.json"), call("evaluate", searched)
    assert ended.code == 0, ended.err
    printed = [line.split() for line in ended.out.splitlines() if not line.startswith(" ")]
    assert printed == [[part, "perplexity", repr(summary[part])] for part in ("val", "test")]
    streams = ("task.eval_streams=3", "task.context=10")
    for overrides in (("task.cache_size=20",), ("task.dynamic_rate=0.001",), streams):
        other = call("evaluate", searched, *overrides)
        assert other.code == 0, other.err
        assert other.out != ended.out
    assert call("evaluate", searched, "task.gain=2").code == 2
    elsewhere = call("evaluate", searched, "backend=reference", "device=cpu")
    assert float(elsewhere.out.split()[2]) == pytest.approx(summary["val"], rel=1e-6)
    for overrides in (("task.cache_size=20",), streams):  # beside dynamic evaluation
        refused = call("evaluate", searched, "task.dynamic_rate=0.001", *overrides)
        assert refused.code == 2
        assert overrides[0].partition("=")[0].replace("eval_streams", "dynamic_rate") in refused.err
        assert "Traceback" not in refused.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_a_run_of_a_gpu_is_scored_on_a_cpu(searched, call, tmp_path):
    folder = Path(shutil.copytree(searched, tmp_path / "copied"))
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("device: cpu", "device: cuda"))
    refused = call("evaluate", folder)
    assert refused.code == 2
    assert "set device=cpu" in refused.err
    assert call("evaluate", folder, "device=cpu").out == call("evaluate", searched).out


def test_another_text_is_scored_with_the_models_vocabulary(searched, call, nll_by_numpy, tmp_path):
    unlike = tmp_path / "unlike"
    unlike.mkdir()
    files = [unlike / f"{name}.txt" for name in ("train", "valid", "test")]
    for number, file in enumerate(files):
        file.write_text(" the zebra sat on the mat \n" * (10 + number))  # the zebra is <unk>
    ended = call("evaluate", searched, f"task.data={unlike}")
    assert ended.code == 0, ended.err
    what, metric, value = ended.out.splitlines()[0].split()
    assert (what, metric) == ("all", "perplexity")
    nll = nll_by_numpy(*files)
    assert float(value) == pytest.approx(math.exp(nll.mean()), rel=1e-5)
    assert f"{len(nll)} tokens" in ended.out
    with_cache = call("evaluate", searched, f"task.data={unlike}", "task.cache_size=500", "task.cache_share=0.3")
    assert float(with_cache.out.split()[2]) < float(value)  # the text repeats itself
    dynamic = call("evaluate", searched, f"task.data={unlike}", "task.dynamic_rate=0.0001")
    assert float(dynamic.out.split()[2]) < float(value)
    diverged = call("evaluate", searched, f"task.data={unlike}", "task.dynamic_rate=0.1")
    assert diverged.code == 2
    assert "task.dynamic_rate=0.1: the weights diverge" in diverged.err


def test_predict_is_refused_and_show_works(searched, call):
    refused = call("predict", searched)
    assert refused.code == 2
    assert "no series" in refused.err
    assert "2 node(s)" in call("show", searched).out


@pytest.mark.parametrize("damage", ["embedding.weight", "bias", "core"])
def test_weights_that_lack_a_part_are_told(searched, call, tmp_path, damage):
    folder = Path(shutil.copytree(searched, tmp_path / "copied"))
    with safe_open(folder / "weights.safetensors", "np") as file:
        notes, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file({k: v for k, v in tensors.items() if not k.startswith(damage)}, folder / "weights.safetensors", notes)
    ended = call("evaluate", folder)
    assert ended.code == 2
    assert "weights.safetensors" in ended.err


def test_each_tensor_and_the_names_are_needed_whole(searched, broken_weights_are_told, tmp_path):
    broken_weights_are_told(searched, tmp_path / "copied")


def test_the_config_of_the_published_size_takes_its_first_steps(call, text, read_json, tmp_path):
    small = "space.hidden_size=6", "task.streams=4", "task.bptt=8", "task.eval_streams=2", "task.context=10"
    short = "strategy.max_epochs=2", "strategy.later_epochs=2", "retrain.epochs=2", "quiet=true"
    rates = "strategy.weights.rate=1", "retrain.rate=1"  # what suits 850 units spoils 6
    here = "device=cpu", "bf16=false", f"task.data={text}", f"runs={tmp_path}", "name=small"
    ended = call("search", "penn_treebank/growing", *small, *short, *rates, *here)
    assert ended.code == 0, ended.err
    scores = read_json(tmp_path / "small" / "summary.json")["scores"]
    assert all(entry["test"] < 2 * len(WORDS) for entry in scores)
    weights = load_file(tmp_path / "small" / "weights.safetensors")
    assert weights["gain"] != 5  # it was learned


@pytest.fixture(scope="module")
def trained(call, options):
    """Train something from random weights, once; return the folder."""

    @functools.cache
    def train(what: str) -> Path:
        ended = call("train", *options(f"genotype={what}", "retrain.epochs=8", "retrain.rate=0.05", "quiet=false"))
        assert ended.code == 0, ended.err
        return Path(ended.out.splitlines()[-1].removeprefix("report: ")).parent

    return train


@pytest.mark.parametrize("what", ["lstm", "darts_v2"])
def test_a_baseline_or_a_published_cell_is_trained(trained, read_json, what):
    (score,) = read_json(trained(what) / "summary.json")["scores"]
    assert score["test"] < len(WORDS)


def test_a_backend_that_cannot_run_the_cell_is_told(trained, call):
    refused = call("evaluate", trained("darts_v2"), "backend=triton")
    assert refused.code == 2
    assert "backend 'triton' cannot run this dag: it has no loop" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.parametrize("what", ["darts_v2", "genotype.json"])
def test_layers_one_on_another_are_trained_written_down_and_scored_again(
    searched, options, call, read_json, tmp_path, what
):
    genotype = searched / what if "." in what else what
    more = "retrain.layers=2", "task.dropout_hidden=0.2", f"genotype={genotype}", f"runs={tmp_path}", "name=two"
    ended = call("train", *options(*more))
    assert ended.code == 0, ended.err
    (score,) = read_json(tmp_path / "two" / "summary.json")["scores"]
    assert score["chosen"] == {"hidden_size": 6, "layers": 2}
    assert repr(score["test"]) in call("evaluate", tmp_path / "two").out
    text, tensors = (
        (tmp_path / "two" / "equations.txt").read_text(),
        load_file(tmp_path / "two" / "weights.safetensors"),
    )
    assert "2 layer(s)" in text
    assert "Cell of layer 2\n  u_t = h_t of layer 1" in text
    assert set(re.findall(r" = ([\w.]+)", text.split("Numbers\n")[1])) == {k for k, v in tensors.items() if v.size}
    assert "layers 2" in words_of(tmp_path / "two" / "report.html")


def test_a_setting_that_diverges_does_not_end_the_run(options, call, read_json, tmp_path):
    """Nor a resumed one, which takes it up again at the last good step."""
    more = "genotype=darts_v2", "baselines.grid.rate=[0.01,1e30]", f"runs={tmp_path}", "name=two"
    with pytest.warns(UserWarning, match="skipped a setting") as told:
        ended = call("train", *options(*more))
    assert ended.code == 0, ended.err
    assert re.match(
        r"skipped a setting: retrained-rate-1e\+30 .*, step \d+, epoch 0: the loss is ", str(told[0].message)
    )
    assert len(told) == 1
    summary = read_json(tmp_path / "two" / "summary.json")
    (score,) = summary["scores"]
    assert (score["settings"], score["chosen"]["rate"]) == (2, 0.01)
    (tmp_path / "two" / "summary.json").unlink()
    with pytest.warns(UserWarning, match="skipped a setting"):
        again = call("resume", tmp_path / "two")
    assert again.code == 0, again.err
    (after,) = read_json(tmp_path / "two" / "summary.json")["scores"]
    assert {**after, "seconds": 0, "words_per_s": 0} == {**score, "seconds": 0, "words_per_s": 0}


def test_a_cell_that_only_adds_is_scored_again(call, options, tmp_path):
    """Its nodes have no b_h: a tensor of no numbers is not damaged."""
    path = tmp_path / "genotype.json"
    Genotype((Node((Op("add", "tanh"),)),)).save(path)
    ended = call("train", *options(f"genotype={path}", f"runs={tmp_path}", "name=adds"))
    assert ended.code == 0, ended.err
    assert load_file(tmp_path / "adds" / "weights.safetensors")["core.layers.0.0.b_h"].size == 0
    assert call("evaluate", tmp_path / "adds").code == 0


def test_a_genotype_is_trained_as_the_search_retrained_it(searched, options, call, read_json, tmp_path):
    path = searched / "genotype.json"
    ended = call("train", *options(f"genotype={path}", f"runs={tmp_path}", "name=again"))
    assert ended.code == 0, ended.err
    folder = tmp_path / "again"
    assert (folder / "genotype.json").read_bytes() == path.read_bytes()
    (entry,) = read_json(folder / "summary.json")["scores"]
    before = next(one for one in read_json(searched / "summary.json")["scores"] if one["model"] == "grown_retrained")
    for key in ("model", "val", "params"):
        assert entry[key] == before[key]
    for command in ("evaluate", "show", "resume"):
        ended = call(command, folder)
        assert ended.code == 0, ended.err
    assert repr(entry["test"]) in call("evaluate", folder).out


@pytest.mark.parametrize("what", ["lstm", "darts_v2"])
def test_the_report_says_how_to_train_it_again(trained, what):
    folder = trained(what)
    found = words_of(folder / "report.html")
    genotype = what if what == "lstm" else f"{folder.name}/genotype.json"
    assert f"grownas train {folder.name}/config.yaml genotype={genotype} runs=." in found
    assert ("grownas evaluate" in found) == (what != "lstm")  # of a baseline no weights are kept
    assert "None" not in found
    assert "Training curves" in found


@pytest.mark.parametrize("command", ["evaluate", "predict", "show"])
def test_a_baselines_run_has_no_model_to_use(trained, call, command):
    ended = call(command, trained("lstm"))
    assert ended.code == 2
    assert "this run trained a baseline" in ended.err


def test_training_in_bfloat16_comes_close(call, options, read_json, tmp_path):
    found = []
    for bf16 in ("false", "true"):
        more = "genotype=gru", f"bf16={bf16}", f"runs={tmp_path}", f"name={bf16}"
        assert call("train", *options(*more)).code == 0
        found.append(read_json(tmp_path / bf16 / "summary.json")["val"])
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.02)


@pytest.fixture(scope="module")
def whole(call, options):
    """Run a search to its end, once for each set of overrides; return the folder."""

    @functools.cache
    def search(*overrides: str) -> Path:
        ended = call("search", *options("name=whole", *overrides, "quiet=false"))
        assert ended.code == 0, ended.err
        return Path(ended.out.splitlines()[-1].removeprefix("report: ")).parent

    return search


@pytest.fixture
def killed(options, fork, wait_for, tmp_path):
    """Begin a search and kill it when something holds of its folder's checkpoints; return the folder."""

    def begin(holds, *overrides: str) -> Path:
        folder = tmp_path / "broken"
        process = fork("search", *options("name=broken", "checkpoint_seconds=0", *overrides, f"runs={tmp_path}"))
        wait_for(lambda: holds(folder / "checkpoint") or process.exitcode is not None)
        process.kill()
        process.join()
        assert not (folder / "summary.json").exists()
        return folder

    return begin


GRU_ALONE = "baselines.use=[gru]"
AVERAGED = (  # rates so high that the validation loss rises now and then
    *("strategy.weights.optimizer=nt_asgd", "strategy.weights.rate=3", "strategy.weights.decay=none"),
    *("strategy.weights.warm_up=0", "strategy.weights.non_monotone=1", "strategy.later_epochs=12"),
    *("retrain.optimizer=nt_asgd", "retrain.rate=3", "retrain.decay=none", "retrain.warm_up=0"),
    *("retrain.non_monotone=1", "retrain.epochs=12", GRU_ALONE),
)


@pytest.mark.parametrize(
    "moment",
    mostly_slow(["stage-1-l2_sp-0.part", "stage-2.part", "stage-2.done", "retrained.part"], keep=("stage-2.part",)),
)
def test_a_killed_run_goes_on_as_if_nothing_had_been(whole, killed, call, assert_same_run, moment):
    """With dropout of every kind, a sampled softmax, and a node added in between."""
    folder = killed(lambda checkpoint: (checkpoint / moment).exists(), GRU_ALONE)
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_run(whole(GRU_ALONE), folder)


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["stage-2", "retrained"])
def test_a_run_killed_while_weights_are_averaged_goes_on(whole, killed, call, assert_same_run, fit):
    """Of a model that has grown, and of one that is trained anew."""

    def averages(checkpoint: Path) -> bool:
        for name in (f"{fit}.part", f"{fit}.part.old"):  # for an instant, there is the latter alone
            with contextlib.suppress(FileNotFoundError):
                return re.search(rb"averaging\W+true", (checkpoint / name).read_bytes()) is not None
        return False

    folder = killed(averages, *AVERAGED)
    assert averages(folder / "checkpoint")
    ended = call("resume", folder)
    assert ended.code == 0, ended.err
    assert_same_run(whole(*AVERAGED), folder)


@pytest.mark.slow
def test_a_comparison_over_seeds_tests_blocks_of_tokens(forked_seeds, call, options, read_json, tmp_path):
    ended = call("compare", *options("name=both", f"runs={tmp_path}", "seeds=[1,2]", "workers=1"))
    assert ended.code == 0, ended.err
    result = read_json(tmp_path / "both" / "comparison.json")
    models = {entry["model"]: entry for entry in result["models"]}
    assert {"grown", "random", "lstm", "gru", "grown_retrained"} <= set(models)
    assert all(entry["averaged_test"] is None for entry in models.values())
    each = [read_json(tmp_path / "both" / f"seed-{seed}" / "summary.json")["test"] for seed in (1, 2)]
    assert models["chosen"]["test"]["mean"] == pytest.approx(np.mean(each))
    assert "Lowest mean test perplexity over 2 seeds" in result["verdict"]
    for test in result["tests"]:
        assert 0 <= test["days_and_seeds"]["p_value"] <= 1
        assert test["over_seeds"]["p_value"] == 1 if test["equal"] else test["over_seeds"] is not None


BAD = {
    "no folder": ([], "task.data=/no/such/folder", "/no/such/folder"),
    "encoding": ([("valid", "caf\xe9 \n".encode("latin-1"))], "", "valid.txt"),
    "empty": ([("test", b"")], "", "test.txt"),
    "one word": ([("train", b" the the the \n" * 90)], "", "word"),
    "bptt": ([], "task.bptt=400", "task.bptt"),
    "streams": ([], "task.streams=1000", "task.streams"),
    "size": ([], "space.hidden_size=auto", "space.hidden_size"),
    "refit": ([], "refit=true", "refit"),
    "start": ([], "start.use=var", "start.use"),
    "baseline": ([], "baselines.use=[var1]", "var1"),
    "gain": ([], "task.gain=0", "task.gain"),
    "gpu": ([], "device=cuda", "no GPU"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_words(call, options, text, tmp_path, case):
    if case == "gpu" and torch.cuda.is_available():
        pytest.skip("here is a GPU")
    changes, override, words = BAD[case]
    folder = Path(shutil.copytree(text, tmp_path / "text"))
    for name, content in changes:
        (folder / f"{name}.txt").write_bytes(content)
    runs = tmp_path / "runs"
    ended = call("search", *options(f"task.data={folder}", f"runs={runs}", *([override] if override else [])))
    assert ended.code == 2
    assert words in ended.err
    assert "Traceback" not in ended.err
    assert not runs.exists() or not list(runs.iterdir())


SAMPLING = {  # strategies that sample genotypes, by their own options
    "random_shared": "max_epochs: 4, unit_epochs: 2, samples: 5, rank_windows: 1, rescored: 2, fine_tune_epochs: 1",
    "enas": "max_epochs: 4, unit_epochs: 2, samples: 5, rescored: 2, fine_tune_epochs: 1, policy_updates: 2",
    "nas_rl": "genotypes: 2, max_epochs: 2, patience: 2",
}


@pytest.mark.parametrize("backbone", ["chain", "dag"])
@pytest.mark.parametrize("name", SAMPLING)
def test_a_strategy_that_samples_genotypes_searches_a_text(name, backbone, options, call, read_json, tmp_path):
    own = [one for one in options() if not one.startswith("strategy.")]
    strategy = f"strategy={{use: {name}, max_nodes: 2, accept: better, guard: false, {SAMPLING[name]}}}"
    space = ("space={hidden_size: 6, backbone: dag}", "task.weight_drop=0.2") if backbone == "dag" else ()
    ended = call(
        "search", *own, strategy, *space, "retrain.grown=false", "baselines.use=[]", f"runs={tmp_path}", "name=run"
    )
    assert ended.code == 0, ended.err
    summary = read_json(tmp_path / "run" / "summary.json")
    scores = {entry["model"]: entry for entry in summary["scores"]}
    supernet = [] if name == "nas_rl" else [f"{name}_supernet"]
    assert sorted(scores) == sorted(["chosen", name, *supernet, "start"])
    assert scores[name]["val"] < scores["start"]["val"]
    assert call("evaluate", tmp_path / "run").code == 0
