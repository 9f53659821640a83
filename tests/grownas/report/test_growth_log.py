"""The growth log's table and its words: a row a move, figures as logged, nothing said of what is not there."""

from __future__ import annotations

import json

import pytest

from grownas.report import growth_log
from grownas.report.tables import MINUS, NONE


def logs(run) -> tuple[list[dict], list[dict]]:
    lines = [json.loads(line) for line in (run / "growth.jsonl").read_text().splitlines()]
    return lines, json.loads((run / "summary.json").read_text())["stage_log"]


def shown(table) -> list[dict[str, str]]:
    titles = [column.title for column in table.columns]
    return [dict(zip(titles, row.cells, strict=True)) for row in table.rows]


def test_it_has_the_candidates_of_the_first_stage_and_every_move(make_run):
    table = growth_log.table(*logs(make_run()))
    rows = shown(table)
    assert [row["move"] for row in rows] == [
        "train the start, L2-SP 100",
        "train the start",
        "add node 2",
        "split ⊗ tanh of node 1",
        "prune ⊕ sigmoid of node 1",
        "add node 2",
        "split ⊗ relu of node 2",
    ]
    assert [row["accepted"] for row in rows] == ["no", "yes", "no", "yes", "yes", "yes", "no"]
    assert [row.marked for row in table.rows] == [row["accepted"] == "yes" for row in rows]
    assert [row["criterion"] for row in rows[1:5]] == [
        "t = 3.4",
        "trial 1.5e-07".replace("-", MINUS),
        "t = 2.31",
        "share 0.041",
    ]
    assert (rows[3]["predicted"], rows[3]["measured"]) == (
        f"{MINUS}4e-05".replace("e-", f"e{MINUS}"),
        f"{MINUS}3e{MINUS}05",
    )
    assert (rows[4]["predicted"], rows[4]["measured"]) == (NONE, "0.0009")
    assert rows[5]["params"] == "1,220 → 3,412"


def test_predictions_have_no_columns_where_nothing_was_predicted(make_run):
    lines, stages = logs(make_run())
    titles = [
        column.title for column in growth_log.table([line for line in lines if line["kind"] == "add_node"]).columns
    ]
    assert titles == [
        "stage",
        "move",
        "drift",
        "loss before",
        "loss after",
        "criterion",
        "accepted",
        "params",
        "seconds",
    ]
    assert [column.title for column in growth_log.table(lines, stages).columns][7:9] == ["predicted", "measured"]


def test_a_line_of_an_early_version_or_with_little_in_it_is_shown(make_run):
    lines, stages = logs(make_run(early=True))
    assert shown(growth_log.table(lines, stages))[3]["move"] == "split op 6 of node 1"
    line = {"stage": 2, "kind": "prune_op", "node": 0, "op": 1, "accepted": True, "judge": None}
    (row,) = shown(growth_log.table([line]))
    assert row["criterion"] == row["drift"] == row["params"] == row["seconds"] == NONE


@pytest.mark.parametrize(
    ("pick", "words"),
    [
        (lambda line: line["kind"] == "prune_op", {"loss after": "removes ops at its end", "accepted": "removed op"}),
        (lambda line: "trial" in line["judge"]["rule"], {"criterion": "for a trial"}),
        (lambda line: "op_name" in line, {"move": "⊗ multiplies"}),
    ],
)
def test_the_tips_speak_only_of_what_is_there(make_run, pick, words):
    lines, stages = logs(make_run())
    without = [line for line in lines if not pick(line)]
    there, not_there = (
        {column.title: column.note for column in growth_log.table(some, stages).columns} for some in (lines, without)
    )
    for title, note in words.items():
        assert note in there[title]
        assert note not in not_there[title]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"kind": "add_node", "node": 2, "op": None}, "add node 3"),
        ({"kind": "duplicate_op", "node": 0, "op": 4}, "duplicate op 5 of node 1"),
        ({"kind": "prune_op", "node": 1, "op": 2, "op_name": "hadamard/tanh"}, "prune ⊗ tanh of node 2"),
        ({"kind": "split_op", "node": 1, "op": "add/relu"}, "split ⊕ relu of node 2"),
        (
            {"kind": "replace_op", "node": 0, "op": 2, "op_name": "add/tanh", "new_op": "hadamard/relu"},
            "replace ⊕ tanh of node 1 by ⊗ relu",
        ),
        ({"kind": "split_op", "node": 0, "op": 1, "op_name": "new/op"}, "split new/op of node 1"),
        (
            {"kind": "prune_op", "node": 2, "op": 1, "op_name": "gated/tanh", "edge": [2, 1]},
            "prune tanh of the edge from state 1 to state 2",
        ),
        ({"kind": "other"}, "other"),
    ],
)
def test_moves_are_named_from_one(line, words):
    assert growth_log.move(line) == words


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ({"kind": "prune_op", "step": 90}, True),
        ({"kind": "replace_op", "step": 90}, True),
        ({"kind": "replace_op", "step": 0}, False),
        ({"kind": "split_op", "step": 0}, False),
        ({"kind": "add_node", "step": 2600}, False),  # early logs
    ],
)
def test_prunings_end_a_stage_and_replacements_may(line, ends):
    assert growth_log.ends_stage(line) is ends


def test_a_judge_is_named():
    better = {"rule": "better", "figure": -0.5}
    assert growth_log.judge({"judge": better}) == f"better {MINUS}0.5"
    assert growth_log.judge({"judge": 2.0}) == "2"
    assert growth_log.judge({}) == NONE


@pytest.mark.parametrize(("trial", "part", "lost"), [(None, "b", False), ("a", "b", False), ("a", "a", True)])
def test_a_move_was_tried_in_vain_if_its_trial_was_its_only_fit(trial, part, lost):
    line = {"trial": trial, "part": part, "judge": {"rule": "any words", "figure": 0.5}}
    assert growth_log.is_loser(line) is lost
    assert growth_log.judge(line) == ("trial 0.5" if lost else "any words 0.5")
