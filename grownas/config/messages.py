"""Error messages for configs: one line per wrong key, with its value and the nearest valid name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from grownas.genotype import NONE

MOVED = {  # key of an earlier version -> present key
    "strategy.judge": "strategy.accept",
    "strategy.pull": "strategy.l2_sp",
    "strategy.max_seconds": "budget.seconds",
}


def moved_keys(tree: dict[str, Any]) -> list[str]:
    """Remove keys of an earlier version from a tree; return a message for each, with the key to write instead."""
    problems = []
    for old, new in MOVED.items():
        section, _, key = old.partition(".")
        if isinstance(tree.get(section), dict) and key in tree[section]:
            value = tree[section].pop(key)
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            problems.append(f"{old}: renamed to {new}; write {new}={text}")
    return problems


def explain(errors: ValidationError, model: type[BaseModel], tree: Mapping[str, Any]) -> list[str]:
    """Return one line per wrong key, also for a key that allows several types."""
    keys = list(_keys(model))
    by_key: dict[str, list[Mapping[str, Any]]] = {}
    for error in errors.errors(include_url=False):
        by_key.setdefault(_dotted(error["loc"], model, tree), []).append(dict(error))
    return [
        f"{key}: unknown key{_near_key(key, keys)}"
        if found[0]["type"] == "extra_forbidden"
        else f"{key}: {' or '.join(map(_expected, found)).replace(' or expected', ' or')}, got {found[0]['input']!r}"
        + hint(found[0]["input"], [word for one in found for word in _allowed(one)])
        + _list_hint(key, found[0]["input"])
        for key, found in by_key.items()
    ]


def _list_hint(key: str, value: Any) -> str:
    return f"; write a list as {key}=[{value}]" if isinstance(value, str) and "," in value else ""


def _dotted(loc: Sequence[str | int], model: type[BaseModel], tree: Mapping[str, Any]) -> str:
    """Return the dotted key of an error, without the names of types that pydantic adds to it.

    List positions stay in the key only where the config holds a list; a single value may stand for a list of one.
    """
    section: type[BaseModel] | None = model
    parts: list[str] = []
    value: Any = tree
    for part in loc:
        if isinstance(part, int):
            inside = isinstance(value, list) and part < len(value)
            value = value[part] if inside else value
            parts += [str(part)] * inside
        elif section is not None:
            parts.append(part)
            value = value.get(part) if isinstance(value, Mapping) else None
            field = section.model_fields.get(part)
            section = next(sections_in(field.annotation), None) if field else None
    return ".".join(parts)


def _expected(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    plain = {
        "model_type": "expected a section of keys",
        "string_type": "expected text (in quotes if YAML reads it as something else)",
        "too_short": f"expected at least {error.get('ctx', {}).get('min_length')} value(s)",
    }
    return plain.get(error["type"]) or message.replace("Input should be", "expected", 1)


def _allowed(error: Mapping[str, Any]) -> list[str]:
    """Return the words that the wrong key allows; none if it does not take words."""
    return re.findall(r"'([^']*)'", error["ctx"]["expected"]) if error["type"] == "literal_error" else []


def _near_key(key: str, keys: Sequence[str]) -> str:
    """Return a hint that names the likely keys: the same last word in another section, or a similar word."""
    leaves = {other: other.rpartition(".")[2] for other in keys}
    leaf = key.rpartition(".")[2]
    same = difflib.get_close_matches(key, [other for other in keys if leaves[other] == leaf], n=3, cutoff=0)
    similar = difflib.get_close_matches(leaf, list(leaves.values()), n=1)
    near = (
        same or difflib.get_close_matches(key, keys, n=1) or [other for other in keys if [leaves[other]] == similar][:3]
    )
    return f"; did you mean {' or '.join(near)}?" if near else ""


def hint(given: Any, known: Sequence[str] | Mapping[str, Any]) -> str:
    """Return `; did you mean ..?` with the known name nearest to the given one; an empty string if none is near."""
    near = difflib.get_close_matches(given, known, n=1) if isinstance(given, str) else []
    return f"; did you mean {near[0]}?" if near else ""


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every field."""
    for name, field in model.model_fields.items():
        yield prefix + name
        for section in sections_in(field.annotation):
            yield from _keys(section, f"{prefix}{name}.")


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections that a field's type allows."""
    for one in (annotation, *get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield one


class Outline(NamedTuple):
    """The facts about a task that a config needs.

    Attributes:
        section: class of the task's options.
        kind: see `grownas.protocols.Task`.
        losses: see `grownas.protocols.Task`.
    """

    section: Any
    kind: str
    losses: Sequence[str]


def unknown_names(tree: Mapping[str, Any], task: Outline | None) -> list[str]:
    """Return a message for each unknown activation, start, baseline or loss; the rest of the config need not be valid.

    Args:
        tree: the config as read from the file, with overrides.
        task: the task; None if the task itself is unknown.
    """
    problems = []
    space = tree.get("space")
    backbone = space.get("backbone", "chain") if isinstance(space, Mapping) else "chain"
    for key, names in known_names(task, backbone).items():
        section, _, leaf = key.partition(".")
        given = tree[section].get(leaf, []) if isinstance(tree.get(section), Mapping) else []
        known = names() if given else ()
        for name in given if isinstance(given, list) else [given]:
            if isinstance(name, str) and name not in known:
                if name == "random" and key.startswith("baselines."):
                    problems.append(f"{key}: random is a strategy now; write strategies=[growing,random]")
                    continue
                problems.append(f"{key}: unknown {name!r}, expected some of {', '.join(known)}{hint(name, known)}")
    return problems


def known_names(task: Outline | None, backbone: str = "chain") -> dict[str, Callable[[], Sequence[str]]]:
    """Return functions that list the allowed names of activations, starts, baselines and losses, by config key.

    They are functions because the table of activations imports PyTorch.

    Args:
        task: the task; None if the task itself is unknown.
        backbone: `space.backbone` of the config.
    """
    from grownas.baselines.table import names as baseline_names

    tables: dict[str, Callable[[], Sequence[str]]] = {"space.activation": partial(_activations, backbone)}
    if task is not None:
        names = partial(baseline_names, task.kind, task.section.BASELINES)
        tables |= {"baselines.use": names, "baselines.compare": names, "baselines.losses": lambda: task.losses}
        if task.kind == "plain":
            tables["start.use"] = lambda: ["random", *task.section.STARTS]
    return tables


def _activations(backbone: str) -> list[str]:
    from grownas.ops import ACTIVATION

    return [*([NONE] if backbone == "dag" else []), *ACTIVATION]
