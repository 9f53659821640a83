"""The growth log, `growth.jsonl`, as text and as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from grownas.genotype import GATED
from grownas.report.tables import NONE, Column, Entry, Row, Table, count, figure, plain, seconds, small

JUDGES = {"significant": "t ="}  # short names of acceptance rules
RINGED = {"add": "\N{CIRCLED PLUS}", "hadamard": "\N{CIRCLED TIMES}"}  # the diagram's signs, in text


def table(lines: Iterable[Entry], stages: Iterable[Entry] = ()) -> Table:
    """Return the growth log: the candidates of the first stage, then one row per move.

    Args:
        lines: lines of `growth.jsonl`.
        stages: the summary's `stage_log`; it holds the candidates of the first stage, which `growth.jsonl` lacks.
    """
    lines = list(lines)
    shown = [*(_first_stage(line) for line in stages if line.get("stage") == 1), *lines]
    columns = _columns(lines)
    rows = (Row(tuple(cell(line) for _, cell in columns), marked=line.get("accepted") is True) for line in shown)
    return Table(tuple(column for column, _ in columns), tuple(rows))


def _columns(lines: Sequence[Entry]) -> list[tuple[Column, Callable[[Entry], str]]]:
    """Return the columns, each with a function from a line to its cell; notes mention only what the log contains."""
    pruned, tried = any(map(ends_stage, lines)), any(map(is_loser, lines))
    named = any("op_name" in line for line in lines)

    def note(words: str, where_pruned: str) -> str:
        return words + where_pruned if pruned else words

    before = "validation loss before the move; for the trained start, that of the best model so far"
    after = note(
        "validation loss after the move and its training",
        "; in a stage that removes ops at its end, the loss before the last fine-tuning; for the trained start, the "
        "loss at its test",
    )
    signs = "\N{CIRCLED PLUS} adds, \N{CIRCLED TIMES} multiplies" if named else ""
    rule = "the value that decided" + ("; for a trial, the gain per parameter" if tried else "")
    columns: list[tuple[Column, Callable[[Entry], str]]] = [
        (Column("stage"), lambda line: count(line.get("stage"))),
        (Column("move", signs, figures=False), move),
        (
            Column("drift", "largest change of the output caused by the move itself, before training"),
            lambda line: small(line.get("drift")),
        ),
        (Column("loss before", before), lambda line: figure(line.get("loss_before"), 5)),
        (Column("loss after", after), lambda line: figure(line.get("loss_after"), 5)),
        (Column("criterion", rule, figures=False), judge),
        (
            Column("accepted", note("", "a removed op is accepted or rejected with its stage"), figures=False),
            lambda line: {True: "yes", False: "no"}.get(line.get("accepted"), NONE),  # type: ignore[arg-type]
        ),
    ]
    if any(line.get("predicted_change") for line in lines):
        columns += [
            (
                Column("predicted", "predicted change of the loss caused by the move itself"),
                lambda line: small(line.get("predicted_change")),
            ),
            (
                Column(
                    "measured",
                    "measured change of the loss: for a split on the data of the prediction, else on validation data",
                ),
                lambda line: small(line.get("measured_change")),
            ),
        ]
    return [
        *columns,
        (Column("params", "number of parameters before and after the move"), _parameters),
        (
            Column("seconds", note("", "removed ops: time of the fine-tuning, in the row of the last removed op")),
            lambda line: seconds(line.get("wall_s")),
        ),
    ]


def _first_stage(line: Entry) -> Entry:
    l2_sp = f", L2-SP {plain(line['l2_sp'])}" if line.get("l2_sp") else ""
    shown = {"kind": f"train the start{l2_sp}", "params_after": line.get("params"), "wall_s": line.get("seconds")}
    return {**line, **shown}


def _parameters(line: Entry) -> str:
    before, after = line.get("params_before"), line.get("params_after")
    return count(after) if before in (None, after) else f"{count(before)} → {count(after)}"


def ends_stage(line: Entry) -> bool:
    """Return whether a move ends a stage, after its training: any removal, or a replacement after step 0."""
    kind = line.get("kind")
    return kind == "prune_op" or (kind == "replace_op" and bool(line.get("step")))


def is_loser(line: Entry) -> bool:
    """Return whether a move was only tried for a few epochs, and another kind of move was chosen."""
    return line.get("trial") is not None and line.get("part") == line["trial"]


def move(line: Entry) -> str:
    """Describe a move as text, with nodes and ops counted from 1; an op has a name if the line has its name."""
    kind, node, name, op = (line.get(key) for key in ("kind", "node", "op_name", "op"))
    words = str(line.get("words") or kind or "").replace("_", " ")
    if node is None or (op is None and name is None):
        return words if node is None else f"{words} {node + 1}"
    name = op if name is None and isinstance(op, str) else name
    if name is not None:
        words = f"{words.removesuffix(' op')} {op_label(name)}"
    elif op is not None:
        words = f"{words} {op + 1}"
    if isinstance(edge := line.get("edge"), list) and len(edge) == 2:  # of a DAG
        return f"{words} of the edge from state {edge[1]} to state {edge[0]}"
    by = "" if line.get("new_op") is None else f" by {op_label(line['new_op'])}"
    return f"{words} of node {node + 1}{by}"


def op_label(name: Any) -> str:
    """Return an op's name with the sign used in the diagram; the ops of a DAG have no sign, they are all gated."""
    combine, _, activation = str(name).partition("/")
    if combine == GATED:
        return activation
    return f"{RINGED[combine]} {activation}" if combine in RINGED else str(name)


def judge(line: Entry) -> str:
    """Return the value that decided about a move, with the name of the rule."""
    value = line.get("judge")
    if not isinstance(value, Mapping):
        return small(value) if isinstance(value, int | float) else str(value or NONE)
    name = "trial" if is_loser(line) else JUDGES.get(str(value.get("rule")), str(value.get("rule")))
    figure = value.get("figure")
    return f"{name} {small(figure) if isinstance(figure, int | float) else NONE}"
