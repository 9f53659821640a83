"""Read together, the logs give fits, moves, cells and shares in order, and follow each op to the final cell."""

from __future__ import annotations

import json

import pytest

from grownas.config import loading as config
from grownas.report import history
from grownas.report.reading import read_run
from grownas.runs import commands as run


def told(folder):
    """A run with its fits and events."""
    read = read_run(folder)
    _, fits = history.fits(read.metrics, read.growth)
    return read, fits, history.events(read.growth)


def shares_of(folder) -> history.Shares:
    read, _, events = told(folder)
    return history.shares(read.shares, read.metrics, events, read.summary["stage_log"])


def test_fits_follow_each_other_and_leave_the_baselines_out(make_run):
    read, fits, _ = told(make_run())
    assert [fit.part for fit in fits] == [
        "stage-1-l2_sp-100", "stage-1-l2_sp-0", "stage-2-try-add_node", "stage-2-try-split_op", "stage-2",
        "stage-2-l2_sp-0-pruned-each_stage", "stage-3", "stage-4",
    ]  # fmt: skip
    assert [fit.begin for fit in fits] == [0, *(fit.end for fit in fits[:-1])]
    assert [fit.part for fit in fits if fit.is_trial] == ["stage-2-try-add_node", "stage-2-try-split_op"]
    assert fits[1].val[0][0] == fits[1].begin == 1500
    assert len(fits[1].val) == len(fits[1].train) + 1 == 61
    assert {line["part"] for line in read.metrics} - {fit.part for fit in fits} == {"gru-16-huber"}


def test_fits_take_the_loss_or_what_there_is():
    line = {"stage": 1, "split": "val", "epoch": 0, "step": 5, "metric": "ppl", "value": 80.0}
    assert history.fits([line], []) == ("ppl", [history.Fit("stage-1", 0, 5, [], [(5, 80.0)])])
    loss = {**line, "metric": "loss", "value": 4.4}
    (fit,) = history.fits([line, loss], [{"trial": "stage-1"}])[1]
    assert (fit.val, fit.is_trial) == ([(5, 4.4)], True)
    assert history.fits([], []) == ("loss", [])


def test_events_know_the_fit_that_followed(make_run):
    _, _, events = told(make_run())
    assert [(event.stage, event.part, event.accepted) for event in events] == [
        (2, "stage-2-try-add_node", False),
        (2, "stage-2", True),
        (2, "stage-2-l2_sp-0-pruned-each_stage", True),
        (3, "stage-3", True),
        (4, "stage-4", False),
    ]


def test_moves_of_one_fit_are_one_event_and_two_prunings_of_a_stage_are_two():
    """Whatever the names are."""
    split = {"stage": 2, "step": 0, "kind": "split_op", "node": 0, "accepted": True}
    prune = {"stage": 1, "step": 90, "kind": "prune_op", "node": 0, "accepted": False, "wall_s": 0.0}
    lines = [{**prune, "part": part} for part in "aabbb"] + [{**split, "op": op, "part": "c"} for op in (1, 3)]
    events = history.events(lines)
    assert [(event.stage, event.part, len(event.lines)) for event in events] == [(1, "a", 2), (1, "b", 3), (2, "c", 2)]
    assert [event.accepted for event in events] == [False, False, True]
    nameless = history.events([split, split])
    assert [(event.part, len(event.lines)) for event in nameless] == [(None, 1), (None, 1)]


def test_each_fit_is_marked_with_what_it_began_with(make_run):
    read, fits, events = told(make_run())
    marks = history.marks(fits, events, read.summary["stage_log"])
    assert [(mark.label, mark.accepted, mark.is_trial) for mark in marks] == [
        ("start, L2-SP 100", False, False),
        ("start", True, False),
        ("add node 2", False, True),  # the winner of the trial is marked where it is trained in full
        ("split ⊗ tanh of node 1", True, False),
        ("prune ⊕ sigmoid of node 1", True, False),
        ("add node 2", True, False),
        ("split ⊗ relu of node 2", False, False),
    ]
    begins = {fit.part: fit.begin for fit in fits}
    assert [mark.step for mark in marks if mark.label == "add node 2"] == [
        begins["stage-2-try-add_node"],
        begins["stage-3"],
    ]


def test_what_was_not_judged_yet_is_marked_as_such(make_run):
    _, fits, _ = told(make_run(finished=False))
    marks = history.marks(fits, [], [])
    assert {mark.accepted for mark in marks} == {None}
    assert [mark.label for mark in marks] == [
        "stage 1 l2_sp 100",
        "stage 1 l2_sp 0",
        "stage 2",
        "stage 2 l2_sp 0 pruned each_stage",
        "stage 3",
        "stage 4",
    ]


def test_several_moves_have_one_label():
    split, prune = {"kind": "split_op", "op_name": "add/tanh", "node": 0}, {"kind": "prune_op", "op": 1, "node": 0}
    assert history.in_few_words([split]) == "split ⊕ tanh of node 1"
    assert history.in_few_words([split] * 3) == "split 3 ops"
    assert history.in_few_words([prune, {**split, "kind": "replace_op"}, prune]) == "prune 2 ops, replace 1 op"
    assert history.in_few_words([{**split, "kind": "replace_op", "new_op": "add/relu"}]) == "replace ⊕ tanh of node 1"


def test_chapters_are_the_accepted_moves_with_what_went_and_came(make_run):
    _, _, events = told(make_run())
    chapters = history.chapters(events)
    assert [(chapter.stage, chapter.moves) for chapter in chapters] == [
        (2, ("split ⊗ tanh of node 1",)),
        (2, ("prune ⊕ sigmoid of node 1",)),
        (3, ("add node 2",)),
    ]
    assert [sorted(chapter.gone) for chapter in chapters] == [[], [(0, 2)], []]
    assert [sorted(chapter.new) for chapter in chapters] == [[(0, 8)], [], [(1, op) for op in range(8)]]
    assert chapters[0].losses == (0.4275, 0.4243)
    assert [len(node.ops) for node in chapters[2].after.nodes] == [8, 8]


def test_chapters_need_the_cells_and_trust_them_more_than_the_moves(make_run):
    assert history.chapters(told(make_run("early", early=True))[2]) == []
    _, _, events = told(make_run())
    lines = tuple(
        {**line, "kind": "prune_op", "sources": list(range(7))} for line in events[1].lines
    )  # not what the cells say
    (chapter,) = history.chapters([events[1]._replace(lines=lines)])
    assert (chapter.gone, chapter.new) == (frozenset(), frozenset())
    assert len(chapter.after.nodes[0].ops) == 9


def test_shares_follow_each_op_to_the_final_cell(make_run):
    folder = make_run()
    shares = shares_of(folder)
    logged = [json.loads(line) for line in (folder / "shares.jsonl").read_text().splitlines()]
    last = {line["node"]: line for line in logged if line["part"] == "stage-3" and line["epoch"] == 40}
    assert shares.begins == [(0, 1), (60, 2), (112, 2), (126, 3)]
    assert shares.end == 166
    for number, node in enumerate(shares.nodes):
        assert [track.name for track in node.ops] == last[number]["ops"]
        assert [track.points[-1] for track in node.ops] == [(166, share) for share in last[number]["shares"]]
    first, second = shares.nodes
    assert [(len(node.ops), len(node.tracks)) for node in shares.nodes] == [(8, 9), (8, 8)]
    (pruned,) = [track for track in first.tracks if track not in first.ops]
    assert pruned.name == "add/sigmoid"
    assert (pruned.points[0][0], pruned.points[-1][0]) == (0, 112)
    assert first.ops[-1].name == "hadamard/tanh"
    assert first.ops[-1].points[0][0] == 60
    assert {track.points[0][0] for track in second.ops} == {126}


def test_shares_end_at_the_best_epoch_of_a_fit(make_run):
    folder = make_run()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["part"] == "stage-3" and line["epoch"] in (20, 30):
            line["value"] = 0.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert shares_of(folder).end == 126 + 20


def test_a_node_put_before_others_moves_them():
    nodes = [["add/tanh"], ["add/relu"]]
    stage = {"stage": 1, "l2_sp": 0.0, "accepted": True, "part": "first"}
    line = {"stage": 2, "step": 0, "kind": "add_node", "node": 0, "op": None, "accepted": True, "part": "stage-2"}
    logged = [{"part": "first", "epoch": 0, "node": 0, "ops": nodes[1], "shares": [0.9]}]
    logged += [{"part": "stage-2", "epoch": 0, "node": i, "ops": ops, "shares": [i / 2]} for i, ops in enumerate(nodes)]
    shares = history.shares(logged, [], history.events([line]), [stage])
    assert [[track.points for track in node.ops] for node in shares.nodes] == [[[(0, 0.0)]], [[(0, 0.9), (0, 0.5)]]]


def test_a_dags_new_node_brings_edges_and_the_ops_of_the_others_go_on():
    ops = ["gated/none", "gated/tanh"]
    stage = {"stage": 1, "l2_sp": 0.0, "accepted": True, "part": "first"}
    line = {"stage": 2, "kind": "add_node", "node": 1, "op": None, "edges": [2, 2], "accepted": True, "part": "stage-2"}
    logged = [
        {"part": part, "epoch": 0, "node": edge, "ops": ops, "shares": [edge / 10, 1 - edge / 10]}
        for part, edges in (("first", 1), ("stage-2", 3))
        for edge in range(edges)
    ]
    shares = history.shares(logged, [], history.events([line]), [stage])
    assert [len(node.ops[0].points) for node in shares.nodes] == [2, 1, 1]


def test_where_the_moves_do_not_lead_to_the_ops_their_lines_begin_anew(make_run):
    folder = make_run()
    (folder / "growth.jsonl").write_text("")
    assert [len(node.ops) for node in shares_of(folder).nodes] == [8]  # all that is known to have led anywhere
    other = make_run("other")
    kept = [line for line in (other / "growth.jsonl").read_text().splitlines() if "prune_op" not in line]
    (other / "growth.jsonl").write_text("".join(f"{line}\n" for line in kept))
    shares = shares_of(other)
    assert [len(node.ops) for node in shares.nodes] == [8, 8]
    assert {track.points[0][0] for node in shares.nodes for track in node.tracks} == {112}


@pytest.mark.parametrize(
    "stages", [[], [{"stage": 1, "l2_sp": 0.0, "accepted": False}], [{"stage": 1, "accepted": True}]]
)
def test_without_an_accepted_start_no_shares_led_to_the_cell(make_run, stages):
    read, _, events = told(make_run())
    assert history.shares(read.shares, read.metrics, events, stages) == history.Shares([], [], 0)


def test_predictions_are_of_moves_that_have_one(make_run):
    found = history.predictions(told(make_run())[0].growth)
    assert [(one.kind, one.predicted, one.measured, one.accepted, one.part) for one in found] == [
        ("split_op", -4e-5, -3e-5, True, "training"),
        ("split_op", -2e-5, -1e-5, False, "training"),
    ]
    line = {"kind": "split_op", "predicted_change": -1.0, "measured_change": -1.0}
    assert len(history.predictions([line])) == 1
    for nothing in ({"predicted_change": 0.0}, {"measured_change": None}, {"predicted_change": float("nan")}):
        assert history.predictions([line | nothing]) == []


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A real growth with trials, splits, prunings and replacements."""
    changes = (
        "task.data=planted", "strategy.mode=nodes_and_ops", "strategy.accept=better", "strategy.max_epochs=6",
        "strategy.position=first", "strategy.prune=each_stage", "strategy.replace=uniform", "strategy.restarts=1",
        "strategy.min_age=1", "strategy.max_nodes=2", "strategy.prune_threshold=0.06", "strategy.trial_epochs=2",
        "strategy.fine_tune_epochs=3", "strategy.max_ops=9", "strategy.grow_threshold=0.3",
        "strategy.hysteresis=0", "space.hidden_size=8", "start.max_order=2", "baselines.use=[zero]", "quiet=true",
        f"runs={tmp_path_factory.mktemp('runs')}",
    )  # fmt: skip
    return run.search(config.load("index_returns/studies/default", changes))


def test_the_logs_of_a_real_growth_lead_to_its_cell(grown):
    read, fits, events = told(grown)
    shares = shares_of(grown)
    assert [[track.name for track in node.ops] for node in shares.nodes] == [
        [op.name for op in node.ops] for node in read.genotype.nodes
    ]
    for node, drawn in zip(read.genotype.nodes, shares.nodes, strict=True):
        ends = [track.points[-1][1] for track in drawn.ops]
        assert ends == pytest.approx([op.share for op in node.ops], abs=1e-5)
    assert {event.part for event in events} <= {fit.part for fit in fits}
    assert any(fit.is_trial for fit in fits)
    assert len(shares.nodes) == 2
    assert all(mark.accepted is not None for mark in history.marks(fits, events, read.summary["stage_log"]))
    accepted = [chapter for chapter in history.chapters(events) if chapter.gone or chapter.new]
    assert len(accepted) == len(history.chapters(events)) > 0
    assert history.predictions(read.growth)


def evaluations(part, stage, values, seconds=1.0, model="search"):
    """Lines of a fit of ten steps and so many seconds an epoch, from its epoch 0 on."""
    return [
        {"part": part, "stage": stage, "model": model, "epoch": epoch, "step": 10 * epoch,
         "wall_s": seconds * epoch, "split": "val", "metric": "perplexity", "value": value}
        for epoch, value in enumerate(values)
    ]  # fmt: skip


def test_curves_are_of_the_path_of_growth_and_of_the_lowest_fit_of_each_model():
    stages = [
        {"stage": 1, "accepted": False, "part": "stage-1-l2_sp-9"},
        {"stage": 1, "accepted": True, "part": "stage-1-l2_sp-0"},
    ]
    growth = [
        {"stage": 2, "part": "stage-2", "kind": "add_node", "accepted": False},
        {"stage": 3, "part": "stage-3", "kind": "add_node", "accepted": True},
    ]
    metrics = [
        *evaluations("stage-1-l2_sp-9", 1, [99, 80]),  # 10 steps that led nowhere
        *evaluations("stage-1-l2_sp-0", 1, [99, 60, 50, 55]),
        *evaluations("stage-2", 2, [50, 51]),
        *evaluations("stage-3", 3, [50, 40], seconds=2.0),
        *evaluations("closing", 0, [99, 2]),
        *evaluations("retrained-rate-0.1", 0, [99, 70, None], model="grown_retrained"),
        *evaluations("small-rate-0.1", 0, [99, 45], model="lstm"),  # the key says nothing
        *evaluations("large-rate-0.1", 0, [99, 48], model="lstm"),
        *evaluations("lstm-refit", 0, [99, 1], model="lstm"),
        *evaluations("lstm-8-to-20", 0, [99, 1], model="lstm"),  # a setting that was dropped early
        *evaluations("gru-rate-0.1", 0, [99, 2], model="tuning"),
        {**evaluations("gru", 0, [3], model="gru")[0], "epoch": 1, "metric": "loss"},
    ]
    models = ["grown", "start", "grown_retrained", "gru", "lstm"]
    assert history.curves(metrics, "perplexity", models, history.events(growth), stages) == [
        ("grown", [(20, 2, 60), (30, 3, 50), (60, 7, 40)]),
        ("grown_retrained", [(10, 1, 70)]),
        ("lstm", [(10, 1, 45)]),
    ]


def test_the_curve_of_a_search_without_stages_is_its_lowest_fit():
    metrics = [
        *evaluations("mine-0", 0, [99, 60]),
        *evaluations("mine-1", 0, [99, 50]),
        *evaluations("again", 0, [99, 1], model="refit"),
    ]
    assert history.curves(metrics, "perplexity", ["start", "random"], [], [], "random") == [("random", [(10, 1, 50)])]
    assert history.curves(metrics[:0], "perplexity", ["start", "random"], [], [], "random") == []


def test_the_lines_of_an_early_version_are_of_the_models_that_their_fits_are_named_after(make_run):
    folder = make_run()
    now = read_run(folder).metrics
    lines = [{key: value for key, value in line.items() if key != "model"} for line in now]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_run(folder).metrics == now
    assert {line["model"] for line in now} == {"search", "gru"}


def blended(line, blend):
    """A line of a model of which a node is mixed in in part."""
    return {**line, "blend": blend}


# A first stage that was cut short, trained on, and judged at two earlier origins; then a blended node.
SHORT = [{"stage": 1, "accepted": True, "part": "stage-1-l2_sp-0", "fits": 2, "l2_sp": 0.0}]
NODES = [
    {"stage": 2, "part": "stage-2", "trial": None, "kind": "add_node", "node": node, "op": None, "accepted": True}
    for node in (1, 2)
]
LONG = [
    *evaluations("stage-1-l2_sp-0", 1, [99, 80, 81]),  # 20 steps
    *evaluations("stage-1-l2_sp-0-origin-1", 1, [7, 6, 5]),  # 20 steps, of other days
    *evaluations("stage-1-l2_sp-0-on-1", 1, [80, 70, 75]),  # 20 steps
    *evaluations("stage-1-l2_sp-0-origin-2", 1, [7, 4]),  # 10 steps
    *[blended(line, blend) for line, blend in zip(evaluations("stage-2", 2, [70, 55]), (0.0, 0.5), strict=True)],
    *evaluations("stage-2", 2, [70, 55, 65, 60, 62])[2:],
]
BLENDED = [{**line, "metric": "loss"} for line in LONG]


def test_the_names_of_fits_are_those_of_growth():
    from grownas.strategies.growing import state as stage

    assert (history.ON, history.ORIGIN) == (stage.ON, stage.ORIGIN)


def test_fits_at_origins_have_no_curve_and_their_steps_count():
    _, fits = history.fits(BLENDED, NODES)
    assert [(fit.part, fit.begin, fit.end, len(fit.val), fit.is_trial) for fit in fits] == [
        ("stage-1-l2_sp-0", 0, 20, 3, False),
        ("stage-1-l2_sp-0-origin-1", 20, 40, 0, True),
        ("stage-1-l2_sp-0-on-1", 40, 60, 3, False),
        ("stage-1-l2_sp-0-origin-2", 60, 70, 0, True),
        ("stage-2", 70, 110, 5, False),
    ]
    marks = history.marks(fits, history.events(NODES), SHORT)
    assert [(mark.step, mark.label, mark.accepted) for mark in marks] == [
        (0, "start", True), (40, "train further", True), (70, "add 2 nodes", True),
    ]  # fmt: skip


def test_a_curve_goes_through_what_was_trained_on_and_ends_at_the_best_epoch_with_plain_nodes():
    (curve,) = history.curves(LONG, "perplexity", ["grown"], history.events(NODES), SHORT)
    assert [(step, value) for step, _, value in curve.points] == [
        (10, 80), (50, 70), (80, 55), (90, 65), (100, 60),
    ]  # fmt: skip


def test_shares_go_through_what_was_trained_on_up_to_the_best_epoch_with_plain_nodes():
    logged = [
        {"part": line["part"], "stage": line["stage"], "epoch": line["epoch"], "node": node, "ops": ["add/tanh"],
         "shares": [1.0]}
        for line in BLENDED if "origin" not in line["part"]
        for node in range(1 if line["stage"] == 1 else 3)
    ]  # fmt: skip
    shares = history.shares(logged, BLENDED, history.events(NODES), SHORT)
    assert (shares.begins, shares.end) == ([(0, 1), (1, 1), (2, 2)], 5)
    assert len(shares.nodes) == 3


def test_without_logs_there_are_no_curves():
    assert history.curves([], "mse", ["grown", "gru"], [], []) == []


def test_the_course_of_a_search_leaves_out_scores_that_are_not_finite():
    genotypes = [
        {"val": None, "seconds": 1.0},
        {"val": 3.0, "seconds": 2.0, "accepted": True},
        {"val": 4.0, "seconds": 3.0},
        {"val": 2.0, "seconds": None},
    ]
    assert history.course({"genotypes": genotypes}) == history.Course((2.0, 3.0), (3.0, 3.0), (2.0,))
    assert history.course({"genotypes": genotypes[:1]}) is None
