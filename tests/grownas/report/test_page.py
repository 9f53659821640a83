"""The page shows what the run folder holds, alone, escaped, and says so when the run is not done."""

from __future__ import annotations

import html.parser
import itertools
import json
import re
from pathlib import Path

import pytest

from grownas.errors import RunError
from grownas.report import growth_plots, plots, verdicts
from grownas.report import page as pages
from grownas.report.page import write_report
from grownas.report.reading import read as read_folder

NASTY = "<script>alert('1')</script>"
SECTIONS = [  # in the order in which they must stand
    "Comparison", "Growth timeline", "Training curves", "The cell", "The cell move by move", "Shares over time",
    "Forecasts and actual values", "Over time against the best baseline", "Predicted against measured change",
    "Growth log", "Data and cleaning", "How to repeat it",
]  # fmt: skip
OF_MOVES = ["The cell move by move", "Predicted against measured change"]  # need what early logs did not have


class Page(html.parser.HTMLParser):
    """Collects tags, attributes, ids, headings and all text outside of styles."""

    VOID = frozenset({"meta", "link", "br", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.headings, self.words = [], [], [], [], []
        self.source = text
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
            if "h2" in self.open:
                self.headings.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def ids(self) -> list[str]:
        return [value for key, value in self.attributes if key == "id"]


def read(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_a_run_has_all_sections_in_order_and_its_figures(make_run):
    run = make_run()
    path = write_report([run])
    page, summary = read(path), json.loads((run / "summary.json").read_text())
    assert path == run / "report.html"
    assert page.headings == SECTIONS
    assert verdicts.of_run(summary) in page.text
    for entry in summary["scores"]:
        assert f"{entry['test']:.4f}" in page.text
    for words in (
        "2.31",
        "0.42120",
        "1,220 → 3,412",
        "sha256:0123456789abcdef",
        "torch==2.13.0",
        "s_1 =",
        "1,512 read",
    ):
        assert words in page.text
    assert "Markets close at different hours" in page.text
    assert "has not finished" not in page.text
    assert not list(run.glob("*.part"))


def test_a_dropped_series_is_named_with_its_days(make_run):
    run = make_run()
    data = json.loads((run / "data.json").read_text())
    names = data["names"]
    words = "does not move for 18 rows, 2022-02-28 to 2022-03-23"
    data["cleaning"]["dropped"] = [
        {"series": name, "rows": 18, "first": "2022-02-28", "last": "2022-03-23", "words": words}
        for name in ("IMOEX.ME", NASTY)
    ]
    data["cleaning"]["still_share"] = dict.fromkeys(names, 0.0314)
    (run / "data.json").write_text(json.dumps(data))
    page = read(write_report([run]))
    assert f"Dropped IMOEX.ME, which {words}; {NASTY}, which {words}" in page.text
    assert page.text.count("3.1 %") >= len(names)
    assert "still is the share of rows in which the series did not move" in page.text


def test_the_page_loads_nothing_and_follows_the_theme(make_run):
    page = read(write_report([make_run()]))
    assert not {"script", "link", "img", "iframe", "image", "object"} & set(page.tags)
    loaded = [value for key, value in page.attributes if key in ("src", "href", "xlink:href", "srcset", "action")]
    assert loaded, "the plots refer to their markers"
    assert all(value.startswith("#") for value in loaded)
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page.source)
    assert "http" not in text
    assert "@import" not in text
    assert text.count("prefers-color-scheme:dark") >= 2  # the page's and the diagram's


def test_every_reference_inside_the_page_has_exactly_one_target(make_run):
    page = read(write_report([make_run()]))
    text = page.source
    wanted = set(re.findall(r'xlink:href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted
    assert wanted <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.usefixtures("undrawn")
def test_names_and_config_are_escaped(make_run):
    run = make_run(names=(NASTY, "a$b_{c}$", "-->", "&amp;", "x" * 300))
    (run / "config.yaml").write_text(
        json.dumps({"name": NASTY, "versions": {NASTY: NASTY, "grownas": 0.2, "torch": 2.9}})
    )
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"verdict": NASTY, "stopped": NASTY, "task": NASTY}))
    for log in ("growth.jsonl", "shares.jsonl"):
        text = (run / log).read_text()
        (run / log).write_text(text.replace('"hadamard/tanh"', json.dumps(NASTY)).replace('"split op"', '"<b> op"'))
    page = read(write_report([run]))
    assert "script" not in page.tags
    assert page.text.count(NASTY) >= 5
    assert f"<b> {NASTY} of node 1" in page.text  # in the log, and above the cells
    assert NASTY[:10] in [word.strip()[:10] for word in page.words]  # beside its line
    assert "pip install torch==2.9" in page.text
    assert "a$b_{c}$" in page.text
    assert "&amp;" in page.text
    assert "&amp;amp;" in page.source


def test_the_same_folder_gives_the_same_bytes(make_run):
    run = make_run()
    assert write_report([run]).read_bytes() == write_report([run]).read_bytes()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("missing", "section"),
    [
        ("metrics.jsonl", "Growth timeline"),
        ("shares.jsonl", "Shares over time"),
        ("genotype.json", None),
        ("equations.txt", None),
        ("forecasts.safetensors", "Forecasts and actual values"),
        ("data.json", "Data and cleaning"),
        ("run.json", None),
        ("growth.jsonl", OF_MOVES[0]),
        ("config.yaml", None),
    ],
)
def test_a_missing_file_costs_only_what_it_holds(make_run, missing, section):
    run = make_run()
    (run / missing).unlink()
    page = read(write_report([run]))
    lost = {section}
    if missing in ("forecasts.safetensors", "data.json"):
        lost |= {"Forecasts and actual values", "Over time against the best baseline"}
    if missing == "growth.jsonl":
        lost |= set(OF_MOVES)
    if missing == "metrics.jsonl":
        lost.add("Training curves")
    if missing == "data.json":
        lost.discard("Over time against the best baseline")
    assert [heading for heading in SECTIONS if heading not in page.headings] == [h for h in SECTIONS if h in lost]


@pytest.mark.usefixtures("undrawn")
def test_a_summary_with_nothing_but_the_contract_is_enough(make_run):
    run = make_run()
    for extra in ("data.json", "forecasts.safetensors", "growth.jsonl", "run.json", "config.yaml"):
        (run / extra).unlink()
    summary = json.loads((run / "summary.json").read_text())
    kept = ("task", "strategy", "seed", "metric", "val", "test", "nodes", "ops", "params", "search_seconds", "stages")
    scores = [{key: entry[key] for key in ("model", "params", "val", "test", "seconds")} for entry in summary["scores"]]
    (run / "summary.json").write_text(json.dumps({key: summary[key] for key in kept} | {"scores": scores}))
    assert f"{summary['test']:.4f}" in read(write_report([run])).text


def test_a_run_that_is_still_going_says_so(make_run):
    run = make_run(finished=False)
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"stage": 3, "split": "va')  # a line that is being written at this moment
    page = read(write_report([run]))
    assert "This run has not finished" in page.text
    assert "grownas resume run" in page.text
    assert "gru-16-huber, stage 0, epoch 20" in page.text
    assert "Growth timeline" in page.headings
    assert "Shares over time" not in page.headings  # no cell is final yet
    assert "Comparison" not in page.headings


def test_genotypes_that_were_trained_on_their_own_are_shown_and_counted(make_run):
    run = make_run(short=True)
    trials = [
        {"number": n, "val": 0.5 / (n + 1), "best": 0.5 / (n + 1), "wall_s": float(n), "reason": "patience"}
        for n in range(3)
    ]
    diverged = {"number": 3, "val": None, "best": 0.1, "wall_s": 9.0, "reason": "diverged"}
    (run / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*trials, diverged]))
    page = read(write_report([run]))
    assert "Trials" in page.headings
    assert "The search trained 4 genotypes" in page.text
    assert "diverged 1, patience 3" in page.text
    (run / "trials.jsonl").write_text('{"number": 1}\n')
    with pytest.raises(RunError, match=r"trials\.jsonl, line 1: damaged"):
        write_report([run])


def test_a_run_of_an_early_version_lacks_only_what_was_not_logged_then(make_run):
    page = read(write_report([make_run(early=True)]))
    assert page.headings == [heading for heading in SECTIONS if heading not in (*OF_MOVES, "Shares over time")]
    assert "split op 6 of node 1" in page.text


def test_the_growth_is_told_by_moves_cells_shares_and_predictions(make_run):
    page = read(write_report([make_run()]))
    for words in (
        "split ⊗ tanh of node 1",
        "stage 2 prune ⊕ sigmoid of node 1",
        "validation loss 0.42750 → 0.42430",
        "3 accepted moves",
        "Faint lines are trials",
        "a small × marks the others",
        "trial 1.5e−07",
        "Together the 2 splits were predicted to change the loss on the training part by −6e−05 and changed it by "
        "−4e−05, a ratio of 0.667; the median ratio is 0.625.",
    ):
        assert words in page.text
    drawings = [value for key, value in page.attributes if key == "aria-label" and value != "Contents"]
    assert len(drawings) == 1 + 2 * 3  # the cell, and before and after each accepted move
    assert sum("(gone)" in words for words in drawings) == 1
    assert sum("(new)" in words for words in drawings) == 2


def rewritten(run, keep=lambda line: True, **keys):
    """Change the growth log: keep some lines, set keys of each."""
    lines = [json.loads(line) for line in (run / "growth.jsonl").read_text().splitlines()]
    kept = [json.dumps(line | keys) + "\n" for line in lines if keep(line)]
    (run / "growth.jsonl").write_text("".join(kept))
    return read(write_report([run]))


@pytest.mark.usefixtures("undrawn")
def test_few_moves_stand_open_and_many_folded(make_run):
    few = rewritten(make_run("few"), lambda line: line["kind"] != "prune_op")
    assert "2 accepted moves" in few.text
    assert ("open", None) in few.attributes
    assert ("open", None) not in read(write_report([make_run("many")])).attributes
    assert "accepted move " in rewritten(make_run("one"), lambda line: line["stage"] == 3).text


@pytest.mark.usefixtures("undrawn")
def test_without_accepted_moves_or_predictions_there_is_no_section_of_them(make_run):
    page = rewritten(make_run(), accepted=False, predicted_change=0.0)
    assert not set(OF_MOVES) & set(page.headings)
    assert "predicted change of the loss caused by the move itself" not in page.text  # the table's columns
    assert "Growth timeline" in page.headings


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (
            lambda line: line["stage"] == 4,
            "The split was predicted to change the loss on the training part by −2e−05 and",
        ),
        (lambda line: line["stage"] == 4, "changed it by −1e−05, a ratio of 0.5. "),
    ],
)
def test_one_prediction_has_a_sentence_of_its_own(make_run, keep, words):
    assert words in rewritten(make_run(), keep).text


@pytest.mark.usefixtures("undrawn")
def test_a_prediction_on_no_known_part_names_none(make_run):
    page = rewritten(make_run(), change_on=None, kind="other")
    assert "Together the 2 moves were predicted to change the loss by" in page.text


def test_a_run_that_has_just_begun_is_readable(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text("seed: 1\n")
    assert "This run has not finished" in read(write_report([tmp_path / "new"])).text


def test_a_comparison_shows_spread_tests_and_the_seed_best_on_validation(make_comparison):
    folder = make_comparison(seeds=(1, 2, 3))
    path = write_report([folder])
    page, result = read(path), json.loads((folder / "comparison.json").read_text())
    assert path == folder / "report.html"
    assert page.headings == [SECTIONS[0], "What growth found, seed by seed", *SECTIONS[1:]]
    for entry in result["models"]:
        for value in (entry["test"]["mean"], entry["test"]["sd"], entry["averaged_test"]):
            assert f"{value:.4f}" in page.text
    assert "0.012" in page.text
    assert "Measured size of the tests, on equal models: over seeds 3.1 to 5.2 % at 5% (1,234 splits)." in page.text
    best = min((1, 2, 3), key=lambda seed: json.loads((folder / f"seed-{seed}/summary.json").read_text())["val"])
    assert f"The sections below show seed-{best} ," in page.text
    assert "comparison over 3 seeds" in page.text
    assert "grownas compare comparison/config.yaml" in page.text


def test_a_comparison_with_random_search_shows_the_tests_against_it(make_comparison, undrawn):
    folder = make_comparison(seeds=(1, 2))
    result = json.loads((folder / "comparison.json").read_text())
    assert "tested against" not in read(write_report([folder])).text
    test = {"baseline": "grown", "reference": "random", "finding": "worse", "loss_difference": -0.0312, "p_value": 0.2}
    tests = {"p_holm": 0.0321, "days_and_seeds": {"p_value": 0.3}, "over_seeds": {"p_value": 0.4}}
    result["tests_against_random"] = [{**test, **tests}]
    (folder / "comparison.json").write_text(json.dumps(result))
    text = read(write_report([folder])).text
    assert "tested against" in text
    assert "Against random, by both tests: grown has a lower error." in text
    assert "0.032" in text


def test_a_comparison_that_is_still_going_says_how_far_it_is(make_comparison):
    folder = make_comparison(seeds=(1, 2), finished=False)
    (folder / "seed-2" / "summary.json").unlink()
    page = read(write_report([folder]))
    assert "has not finished: 1 of 2 started seeds are done" in page.text
    assert "What growth found, seed by seed" in page.headings
    assert "Comparison" not in page.headings


def test_a_comparison_of_which_no_seed_is_done_is_readable(make_comparison):
    folder = make_comparison(seeds=(1,), finished=False)
    for file in ("summary.json", "genotype.json", "equations.txt", "forecasts.safetensors"):
        (folder / "seed-1" / file).unlink()
    assert "0 of 1 started seeds are done" in read(write_report([folder])).text


@pytest.mark.usefixtures("undrawn")
def test_several_runs_stand_side_by_side(make_run, tmp_path):
    runs = [make_run("one", seed=1), make_run("two", seed=2), make_run("late", finished=False)]
    path = write_report(runs)
    page = read(path)
    assert path == tmp_path / "comparison.html"
    assert "3 runs side by side" in page.text
    assert "Not finished, so not scored: late." in page.text
    assert "Where the configs differ" in page.headings
    assert [h for h in page.headings if h.startswith("Scores of")] == ["Scores of one", "Scores of two"]
    assert page.tags.count("svg") == 4  # two variants of the dots, two cells


@pytest.mark.usefixtures("undrawn")
def test_the_output_can_be_chosen(make_run, tmp_path):
    runs = [make_run("one", seed=1), make_run("two", seed=2)]
    assert write_report(runs, tmp_path / "mine.html") == tmp_path / "mine.html"
    assert write_report(runs[:1], tmp_path / "one.html").exists()
    assert not (tmp_path / "one" / "report.html").exists()


def test_what_is_no_run_folder_is_refused_with_its_name(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, words in (("none", "no such folder"), ("file", "not a folder"), ("empty", "not a run folder")):
        with pytest.raises(RunError, match=words) as caught:
            write_report([tmp_path / name])
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(RunError, match="no run folder given"):
        write_report([])


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("summary.json", '{"task": ', "summary.json: damaged, not JSON"),
        ("summary.json", "[1]", "expected an object with keys, got '[1]'"),
        ("growth.jsonl", '{"stage": 2}\nnonsense\n', "growth.jsonl, line 2: damaged"),
        (
            "growth.jsonl",
            '{"stage": 2, "cell_after": {}}\n',
            "growth.jsonl, line 1: damaged: cell_after: genotype: format",
        ),
        ("shares.jsonl", '{"part": "a"}\n', "shares.jsonl, line 1: damaged: epoch is missing"),
        (
            "shares.jsonl",
            '{"part": "a", "epoch": 0, "node": 0, "ops": ["add/tanh"], "shares": []}\n',
            "expected one per op",
        ),
        (
            "metrics.jsonl",
            '{"stage": 1, "epoch": 0, "step": 0, "wall_s": 0.1, "split": "val", "metric": "loss"}\n',
            "metrics.jsonl, line 1: damaged: value is missing",
        ),
        ("config.yaml", "a: [", "config.yaml: not YAML"),
        ("genotype.json", "{}", "format, version, backbone, nodes missing"),
        ("forecasts.safetensors", "short", "forecasts.safetensors: damaged"),
        ("equations.txt", b"\xff\xfe\xff", "equations.txt: cannot be read"),
    ],
)
def test_a_damaged_file_is_named_and_the_old_report_stays(make_run, file, content, words):
    run = make_run()
    before = write_report([run]).read_bytes()
    (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RunError, match=re.escape(words)):
        write_report([run])
    assert (run / "report.html").read_bytes() == before


@pytest.mark.usefixtures("undrawn")
def test_the_folder_may_be_where_one_stands(make_run, make_comparison, monkeypatch):
    monkeypatch.chdir(make_run("mine"))
    assert "<h1>mine</h1>" in write_report([Path(".")]).read_text()
    monkeypatch.chdir(make_comparison(seeds=(1, 2)))
    assert "<h1>comparison</h1>" in write_report([Path(".")]).read_text()
    assert write_report([Path("seed-1"), Path("seed-2")]) == Path("comparison.html").resolve()


def test_the_sections_are_listed_at_the_top_and_each_link_leads_to_its_heading(make_run):
    text = write_report([make_run()]).read_text()
    links = re.findall(r'<a href="#(section-\d+)">([^<]+)</a>', text)
    assert [title for _, title in links] == SECTIONS
    assert [text.count(f'<h2 id="{target}">{title}</h2>') for target, title in links] == [1] * len(SECTIONS)


def changed(run, **keys):
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, **keys}))
    return read(write_report([run]))


def test_the_next_step_is_forecast_in_the_units_of_each_series(make_run):
    run = make_run()
    page = changed(run, next_step={"date": "2013-10-01", "forecasts": [0.00123, -0.5, 2.0, None]})
    assert page.headings[0] == "Next forecast"
    mse = json.loads((run / "summary.json").read_text())["scores"][0]["detail"]["test"]["per_series"]["SP500"]["mse"]
    assert f"SP500 0.00123 {0.012 * mse**0.5:.3g} NASDAQ −0.5" in page.text
    assert "Forecast for 2013-10-01" in page.text


def test_the_fit_is_told_by_kind_of_series(make_run):
    run = make_run()
    data = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps({**data, "kinds": ["return", "return", "range", "range"]}))
    (grown, *_) = json.loads((run / "summary.json").read_text())["scores"]
    each = [grown["detail"]["test"]["per_series"][name]["r2"] for name in data["names"]]
    words = f"{50 * sum(each[:2]):.1f} % of 2 returns, {50 * sum(each[2:]):.1f} % of 2 ranges."
    assert f"Mean R² of grown on the test part: {words}" in read(write_report([run])).text
    (run / "data.json").write_text(json.dumps(data))
    assert (
        f"R² of grown on the test part: {100 * grown['detail']['test']['r2']:.1f} %." in read(write_report([run])).text
    )


# Damage

JSON = ("summary.json", "data.json", "run.json", "genotype.json", "config.yaml")
LOGS = ("metrics.jsonl", "growth.jsonl", "shares.jsonl")


def damaged(tree):
    """Yield a tree's words for each damage: a key deleted, or its value of another type; of a list the first alone."""

    def places(value, path=()):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield (*path, key)
                yield from places(inner, (*path, key))
        elif isinstance(value, list) and value:
            yield from places(value[0], (*path, 0))

    for path in places(tree):
        for damage in ("deleted", None, "x", [], {}, -1):
            copy = json.loads(json.dumps(tree))
            holder = copy
            for step in path[:-1]:
                holder = holder[step]
            if damage == "deleted":
                del holder[path[-1]]
            else:
                holder[path[-1]] = damage
            yield json.dumps(copy)


def damages(name, content):
    """Yield a file's content after each damage."""
    text = content.decode()
    yield from (text[: len(text) * part // 8] for part in range(8))
    if name in LOGS:
        lines = text.splitlines()
        for number in (0, len(lines) // 2, len(lines) - 1):
            before, after = lines[:number], lines[number + 1 :]
            yield "\n".join([*before, *after, ""])
            yield from ("\n".join([*before, line, *after, ""]) for line in damaged(json.loads(lines[number])))
    else:
        yield from damaged(json.loads(text))


@pytest.mark.parametrize("name", [*JSON, *LOGS, "comparison.json"])
def test_damage_ends_in_a_report_or_in_one_sentence(make_run, make_comparison, monkeypatch, name):
    """A log whose line had lost its value once ended in a KeyError. Nothing is drawn, for speed."""
    for module, names in ((plots, ("dots", "curves", "forecast_panel", "cumulative")), (growth_plots, ("timeline",))):
        for one in names:
            monkeypatch.setattr(module, one, lambda *_, **__: "<svg/>")
    monkeypatch.setattr(growth_plots, "share_panels", lambda *_, **__: [])
    monkeypatch.setattr(growth_plots, "scatter", lambda *_, **__: None)
    monkeypatch.setattr(pages, "diagram", lambda *_, **__: "<svg/>")
    monkeypatch.setattr(pages, "draw", lambda *_, **__: "<svg/>")
    folder = make_comparison(seeds=(1, 2), short=True) if name == "comparison.json" else make_run(short=True)
    if name == "config.yaml":
        (folder / name).write_text(json.dumps({"task": {"use": "a"}, "strategy": {"use": "b"}, "versions": {"a": "1"}}))
    content, refused, shown = (folder / name).read_bytes(), [], 0
    for text in itertools.islice(damages(name, content), 0, None, 5):  # all of them take a minute
        (folder / name).write_text(text)
        try:
            found = read_folder(folder)
            values = pages._comparison(found) if name == "comparison.json" else pages._run(found)
            pages._render("comparison.html" if name == "comparison.json" else "run.html", values)
            shown += 1
        except RunError as error:
            refused.append(str(error))
    assert shown > 0 or name == "genotype.json"  # of which every part counts
    assert len(refused) > 1
    assert [words for words in refused if name not in words] == []
