"""Loads configs from files or shipped names, applies overrides, and finds tasks and strategies by entry point."""

from __future__ import annotations

import copy
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, create_model

from grownas.config.messages import Outline, explain, hint, moved_keys, unknown_names
from grownas.config.sections import SECTIONS, Config
from grownas.config.shipped import shipped
from grownas.errors import ConfigError
from grownas.evaluation.groups import rows_of
from grownas.evaluation.models import MODELS
from grownas.protocols import KINDS, Strategy, Task

GROUPS = {"task": "grownas.tasks", "strategy": "grownas.strategies"}  # section -> group of entry points
OPTIONS = ".options"  # suffix of the group in which a package may also register the options of a task or strategy
NOTES = ("versions", "data_checksum")  # a run folder's config.yaml also holds these keys


def load(name: str | os.PathLike[str], overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Load a config and apply overrides.

    Args:
        name: a path, or the name of a shipped config such as `index_returns/growing`.
        overrides: items `section.key=value` with the value in YAML, or a mapping from dotted keys to values.

    Raises:
        ConfigError: the config is wrong; the message lists every problem with key, value and nearest name.
    """
    tree = _read(find(name))
    for key in NOTES:  # notes of a finished run are not config keys
        tree.pop(key, None)
    if isinstance(overrides, Mapping):
        own = copy.deepcopy(dict(overrides))  # a later key may write into the section that an earlier one sets
        problems = [problem for key, value in own.items() if (problem := _put(tree, key, value))]
    else:
        problems = [problem for item in overrides if (problem := _override(tree, item))]
    model: type[Config] = Config
    config = task = None
    try:
        task_name, strategy_name = _used(tree, "task", "index_returns"), _used(tree, "strategy", "growing")
        task, model = outline(task_name), config_class(task_name, strategy_name)
    except ConfigError as error:
        problems.append(str(error))
    problems += moved_keys(tree)
    try:
        config = model.model_validate(tree)
    except ValidationError as error:
        problems += explain(error, model, tree)
    problems += unknown_names(tree, task)
    if problems or config is None:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        raise ConfigError("\n  ".join([f"{os.fspath(name)}: {count}", *problems]))
    return config


def class_for(name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> type[Config]:
    """Return the class of a config, whose fields are the allowed keys; values are not validated.

    Args:
        name: as in `load`.
        overrides: as in `load`; they may set the task or the strategy.

    Raises:
        ConfigError: the config cannot be read, or its task or strategy does not exist.
    """
    tree = _read(find(name))
    for item in overrides:
        _override(tree, item)
    return config_class(_used(tree, "task", "index_returns"), _used(tree, "strategy", "growing"))


def plugin_names(kind: str) -> list[str]:
    """Return the installed names for `task.use` or `strategy.use`; `kind` is `task` or `strategy`."""
    return sorted(entry.name for entry in metadata.entry_points(group=GROUPS[kind]))


def notes_of(path: Path) -> dict[str, Any]:
    """Return the notes in a run folder's config.yaml: package versions and the checksum of the data."""
    tree = _read(path)
    return {key: tree[key] for key in NOTES if key in tree}


def find(name: str | os.PathLike[str]) -> Path:
    """Return the path of a config, given its path or its shipped name.

    Raises:
        ConfigError: there is no such config.
    """
    path = Path(os.path.expanduser(name))  # unchanged if `~USER` names no user; the file check below then fails
    if os.path.isfile(path):  # False also for a name that is too long for a path
        return path
    known = shipped()
    key = os.fspath(name).removesuffix(".yaml")
    if key in known:
        return known[key]
    near = hint(key, known) or f"; shipped: {', '.join(known)}"
    what = "a folder" if os.path.isdir(path) else "no such file, and no shipped config"
    raise ConfigError(f"{os.fspath(name)}: {what}{near}")


@cache
def config_class(task: str, strategy: str) -> type[Config]:
    """Return the config class for a task and a strategy, with their sections and the sections of the task's kind."""
    found = outline(task)
    sections = {"task": found.section, "strategy": strategy_section(strategy), **SECTIONS.get(found.kind, {})}
    made: dict[str, Any] = {name: (section, Field(default_factory=section)) for name, section in sections.items()}
    return create_model("Config", __base__=Config, **made)


def outline(name: str) -> Outline:
    """Return the facts about a task that a config needs; import the task only if its options are not an entry point.

    Raises:
        ConfigError: no task has this name, or the class lacks something that a task needs.
    """
    if (section := _options("task", name)) is not None:
        return Outline(section, section.KIND, section.LOSSES)
    found = task_class(name)
    return Outline(found.section, found.kind, found.losses)


def strategy_section(name: str) -> Any:
    """Return the class of a strategy's options; import the strategy only if they are not an entry point.

    Raises:
        ConfigError: no strategy has this name, or the class lacks something that a strategy needs.
    """
    section = _options("strategy", name)
    return strategy_class(name).section if section is None else section


def task_class(name: str) -> type[Task]:
    """Return a task's class, found through the entry-point group `grownas.tasks`.

    Raises:
        ConfigError: there is no task of this name, or the class does not fulfil the task protocol.
    """
    found: type[Task] = _plugin("task", name)
    kind = getattr(found, "kind", None)
    if kind not in KINDS:
        raise ConfigError(f"task.use={name}: its kind is {kind!r}, expected one of {', '.join(KINDS)}")
    _check_members(f"task.use={name}", found, KINDS[found.kind], ("name", "metric", "section", "losses"))
    return found


def strategy_class(name: str) -> type[Strategy]:
    """Return a strategy's class, found through the entry-point group `grownas.strategies`.

    Raises:
        ConfigError: there is no strategy of this name, or the class does not fulfil the protocol `Strategy`.
    """
    found: type[Strategy] = _plugin("strategy", name)
    _check_members(f"strategy.use={name}", found, Strategy, ("section",))
    return found


def strategy_of(section: Any, *, refit: bool) -> Strategy:
    """Create the strategy of a section.

    Raises:
        ConfigError: the options contradict each other, or `refit` is set and the strategy cannot refit.
    """
    found = strategy_class(section.use)
    if refit and found.refit is Strategy.refit:
        raise ConfigError(f"refit=true: strategy.use={section.use} cannot refit its result; set refit=false")
    return found(section)


def strategies_of(config: Config) -> list[Any]:
    """Return the section of each strategy in a comparison; the config's own strategy comes first.

    Raises:
        ConfigError: an entry is not a strategy, or two entries have the same name.
    """
    entries = config.strategies or tuple(dict.fromkeys((config.strategy.use, "random")))
    sections = []
    for number, entry in enumerate(entries):
        given = {"use": entry} if isinstance(entry, str) else entry
        if not isinstance(given, Mapping) or not isinstance(given.get("use"), str):
            raise ConfigError(f"strategies: expected names, or sections with the key use, got {entry!r}")
        if number == 0 and given["use"] == config.strategy.use:
            if given not in ({"use": given["use"]}, {"use": given["use"], "name": config.strategy.name}):
                raise ConfigError(
                    f"strategies: set the options of {given['use']} in the section strategy, got {given!r}"
                )
            sections.append(config.strategy)
            continue
        section: Any = strategy_section(given["use"])
        try:
            sections.append(section.model_validate(given))
        except ValidationError as error:
            raise ConfigError("\n  ".join(["strategies:", *explain(error, section, given)])) from error
    names = [section.row for section in sections]
    if sections[0] is not config.strategy:
        raise ConfigError(f"strategies: got {', '.join(names)}; expected first strategy.use={config.strategy.use}")
    check_names(sections)
    for section in sections:
        if names.count(section.row) > 1:
            raise ConfigError(
                f"strategies: {section.row} is listed twice; give the second a name of its own, such as "
                f"{{use: {section.use}, name: {section.row}_2}}"
            )
    return sections


def check_names(sections: Sequence[Any]) -> None:
    """Check that the names that strategies were given are not those of other strategies or of other rows of a table.

    Raises:
        ConfigError: a name is taken.
    """
    rows = {section.row: rows_of(section.row) for section in sections}
    for section in sections:
        if section.row == section.use:
            continue
        others = {row for name, own in rows.items() if name != section.row for row in own}
        taken = [row for row in rows[section.row] if row in MODELS or row in others]
        if section.row in plugin_names("strategy") or taken:
            what = f"{taken[0]} is a row of another model" if taken else "another strategy is called so"
            raise ConfigError(f"strategy.name={section.row}: {what}; choose another name for this {section.use}")


@cache
def _plugin(kind: str, name: str) -> Any:
    return _loaded(kind, _entry(kind, name))


def _entry(kind: str, name: str) -> metadata.EntryPoint:
    found = {entry.name: entry for entry in metadata.entry_points(group=GROUPS[kind])}
    if name not in found:
        installed = ", ".join(sorted(found))
        raise ConfigError(f"{kind}.use: unknown {kind} {name!r}; installed: {installed}{hint(name, list(found))}")
    return found[name]


def _options(kind: str, name: str) -> Any:
    """Return the options that a package registers for a task or strategy; None if it registers none."""
    _entry(kind, name)  # raises if no such task or strategy is installed
    found = {entry.name: entry for entry in metadata.entry_points(group=GROUPS[kind] + OPTIONS)}
    return _loaded(kind, found[name]) if name in found else None


def _loaded(kind: str, entry: metadata.EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # another package's code may raise anything
        raise ConfigError(
            f"{kind}.use={entry.name}: {entry.value} cannot be loaded: {type(error).__name__}: {error}; "
            f"`python -m {entry.module}` shows where"
        ) from error


def _check_members(key: str, found: Any, protocol: Any, attributes: Sequence[str]) -> None:
    """Check that a class has all members of its protocol.

    Raises:
        ConfigError: members are missing; the message names all of them.
    """
    missing = [name for name in attributes if not hasattr(found, name)]
    missing += [
        name for name in members(protocol) if callable(getattr(protocol, name, None)) and not hasattr(found, name)
    ]
    missing += sorted(getattr(found, "__abstractmethods__", ()))
    _refuse_without(missing, key, found, protocol)


def check_task(task: Task) -> None:
    """Check that a loaded task has all members of its protocol.

    Raises:
        ConfigError: members are missing; the message names all of them.
    """
    protocol = KINDS[task.kind]
    nothing = object()  # a static lookup does not compute properties
    missing = [name for name in members(protocol) if inspect.getattr_static(task, name, nothing) is nothing]
    _refuse_without(missing, f"task.use={task.name}", type(task), protocol)


def _refuse_without(missing: Sequence[str], key: str, found: Any, protocol: Any) -> None:
    if missing:
        raise ConfigError(
            f"{key}: {found.__module__}.{found.__qualname__} lacks {', '.join(dict.fromkeys(missing))}, which "
            f"grownas.protocols.{protocol.__name__} requires"
        )


def members(protocol: Any) -> list[str]:
    """Return the public names of a protocol, in the order of declaration."""
    found = [
        name
        for base in reversed(protocol.__mro__)
        if getattr(base, "_is_protocol", False)
        for name in (*inspect.get_annotations(base), *vars(base))
    ]
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # in C where libyaml is installed
    """Safe YAML without surprises: repeated keys are errors, 010 is not 8, 1:30 is not 90, dates are text."""

    yaml_implicit_resolvers = {  # noqa: RUF012, as the base class has it
        first: [(tag, form) for tag, form in known if tag.rpartition(":")[2] not in ("int", "timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not text; put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is repeated", key_node.start_mark)
            seen.add(key)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506, the loader is safe
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not a config in YAML: {error}") from error
    tree = {} if tree is None else tree  # an empty file
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections such as task: and strategy:, got {tree!r:.80}")
    return tree


def _override(tree: dict[str, Any], item: str) -> str | None:
    """Write `a.b=value` into a tree; return a message if the item is wrong, else None."""
    key, equals, text = item.partition("=")
    if not equals:
        return f"{item}: expected section.key=value"
    try:
        value = text if key.strip() in ("name", "runs") else yaml.load(text, _Loader)  # noqa: S506
    except (yaml.YAMLError, RecursionError) as error:
        return f"{item}: {text!r} is not a value in YAML: {str(error).splitlines()[0]}"
    return _put(tree, key, value, item)


def _put(tree: dict[str, Any], key: str, value: Any, item: str | None = None) -> str | None:
    """Write a value into a tree by its dotted key; return a message if the key is wrong, else None."""
    item, parts = item or f"{key}={value}", [part.strip() for part in key.split(".")]
    if not all(parts):
        return f"{item}: expected section.key=value"
    *parents, leaf = parts
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        return f"{item}: {'.'.join(parents)} is not a section"
    node[leaf] = value
    return None


def _used(tree: Mapping[str, Any], key: str, default: str) -> str:
    """Return the value of a section's `use`, or the default."""
    section = tree.get(key, {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"{key}: expected a section, got {section!r}")
    return str(section.get("use", default))
