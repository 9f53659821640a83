"""The config of a run: YAML and overrides into frozen sections, all errors at once (see `Config`)."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, create_model, model_validator

from grownas.errors import ConfigError
from grownas.schema import Count, NonNegative, Number, OneOrMore, Positive, Section, Share, Whole

TASKS = "grownas.tasks"  # entry-point group
NOTES = ("versions", "data_checksum")  # what a run folder's config.yaml holds beside the config
WHERE_AND_HOW = ("runs", "name", "quiet", "threads", "workers", "checkpoint_seconds", "seeds")  # do not change a result


class Start(Section):
    """Where growth begins."""

    use: Literal["var", "random"] = "var"  # a fitted VAR, or random weights
    nodes: Count = 1  # nodes of the start
    max_order: Count = 10  # highest VAR order that blocked folds try


class Space(Section):
    """Which cells are allowed."""

    combine: Annotated[tuple[Literal["add", "hadamard"], ...], OneOrMore, Field(min_length=1)] = ("add", "hadamard")
    activation: Annotated[tuple[str, ...], OneOrMore, Field(min_length=1)] = ("identity", "tanh", "sigmoid", "relu")
    hidden_size: Count | Literal["auto"] = "auto"  # units; auto: by the order of the start
    highway: bool = False
    share_projection: bool = False


class Optimizer(Section):
    """One optimiser."""

    optimizer: Literal["adam", "sgd"] = "adam"
    rate: Positive = 1e-3
    momentum: Annotated[Number, Field(ge=0, lt=1)] = 0.9  # of sgd
    weight_decay: NonNegative = 0.0  # decoupled for adam, L2 for sgd


class WeightOptimizer(Optimizer):
    """The weights' optimiser."""

    clip: Positive = 1.0  # largest gradient norm


class Growing(Section):
    """Growth (see `strategies.growing.Growth`)."""

    use: Literal["growing"] = "growing"
    max_epochs: Count = 200  # of a stage
    patience: Count = 12  # epochs without a lower validation loss before a stage ends
    bilevel: Literal["joint", "first", "second"] = "joint"
    architecture_share: Share = 0.2  # of the training part, for alpha, unless joint
    weights: WeightOptimizer = WeightOptimizer()
    alpha: Optimizer = Optimizer()
    pull: Annotated[tuple[NonNegative, ...], OneOrMore, Field(min_length=1)] = (100.0, 0.0)  # tried in order
    judge: Literal["significant", "better"] = "significant"
    threshold: Number = 1.645  # least t of `significant`
    outer_patience: Count = 1  # stages in a row without an accepted one before growth ends
    max_nodes: Count = 3
    max_params: Count | None = None
    max_seconds: Positive | None = None  # no new stage begins after it
    carrier_share: Share = 0.5  # of an appended node's carrier
    noise: NonNegative = 0.01  # sd, on all weights of a new node but the carrier's
    position: Literal["first", "middle", "last"] = "last"  # where a node is inserted
    prune: Literal["none", "each_stage", "at_end"] = "none"
    prune_threshold: Annotated[Number, Field(ge=0, lt=1)] = 0.05  # ops with a smaller share go
    top_k: Count | None = None  # ops a node keeps at most
    fine_tune_epochs: Count = 50  # after a pruning, at most


class Retrain(Section):
    """The budget of every model that is trained from random weights."""

    epochs: Count = 200
    patience: Count = 12
    rate: Positive = 1e-3  # of Adam


class Baselines(Section):
    """What the grown cell is compared with."""

    use: Annotated[tuple[str, ...], OneOrMore] = ("zero", "var1", "var", "var_robust", "lstm", "gru")
    compare: Annotated[tuple[str, ...], OneOrMore] = ("gru_var", "random")  # further ones of `grownas compare`
    hidden_sizes: Annotated[tuple[Count, ...], OneOrMore, Field(min_length=1)] = (8, 16, 32)  # and the grown cell's
    losses: Annotated[tuple[str, ...], OneOrMore, Field(min_length=1)] = ("squared", "huber")


class Config(Section):
    """A whole run. `task` holds the task's own options, `use` among them."""

    task: Any
    start: Start = Start()
    space: Space = Space()
    strategy: Growing = Growing()
    retrain: Retrain = Retrain()
    baselines: Baselines = Baselines()
    refit: bool = False  # fit all models anew on training + validation data before the test part is read
    seed: Whole = 1
    seeds: Annotated[tuple[Whole, ...], OneOrMore, Field(min_length=1)] = (1, 2, 3, 4, 5)  # of `grownas compare`
    workers: Count | None = None  # processes of `grownas compare`; None: one a core
    threads: Count = 1  # of torch, in each process
    runs: str = "runs"  # where run folders go
    name: str | None = None  # of the run folder; None: task, strategy and seed
    quiet: bool = False
    checkpoint_seconds: NonNegative = 30.0  # between snapshots of a fit

    @model_validator(mode="after")
    def _name_is_one_folder(self) -> Config:
        if self.name is not None and (not self.name.strip(". ") or Path(self.name).name != self.name):
            raise ValueError(f"name: expected the name of one folder, got {self.name!r}; use runs=DIR for the place")
        return self

    @property
    def folder_name(self) -> str:
        """Name of the run folder."""
        return self.name or f"{self.task.use}-{self.strategy.use}-{self.seed}"

    def dump(self, notes: Mapping[str, Any]) -> str:
        """Return YAML with every default written out, and notes such as versions at its end."""
        tree = json.loads(self.model_dump_json())
        return yaml.safe_dump({**tree, **notes}, sort_keys=False, allow_unicode=True, width=120)

    def fingerprint(self) -> str:
        """Return a checksum of all that fixes the result: where it is written and how fast it runs do not."""
        tree = json.loads(self.model_dump_json(exclude=set(WHERE_AND_HOW)))
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def load(name: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Load a config and apply overrides.

    Args:
        name: a path, or the name of a shipped config such as `index_returns/growing`.
        overrides: `section.key=value`, the value in YAML.

    Raises:
        ConfigError: anything is wrong; the message lists every problem with its key, value and nearest name.

    """
    path = find(name)
    tree = _read(path)
    notes = {key: tree.pop(key) for key in NOTES if key in tree}
    problems = [problem for item in overrides if (problem := _override(tree, item))]
    config = None
    try:
        model = config_class(_task_name(tree))
        config = model.model_validate(tree)
    except ConfigError as error:
        problems.append(str(error))
    except ValidationError as error:
        keys = list(_keys(model))
        problems += [_explain(dict(one), keys) for one in error.errors(include_url=False)]
    else:
        problems += _unknown_names(config)
    if problems or config is None:
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        raise ConfigError("\n  ".join([f"{os.fspath(name)}: {count}", *problems]))
    del notes  # what a run folder says about the past does not govern the present
    return config


def notes_of(path: Path) -> dict[str, Any]:
    """Return the notes in a run folder's config.yaml: versions and the data's checksum."""
    tree = _read(path)
    return {key: tree[key] for key in NOTES if key in tree}


def shipped() -> dict[str, Path]:
    """Return name and path of every shipped config."""
    root = Path(str(resources.files("grownas.configs")))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def find(name: str | os.PathLike[str]) -> Path:
    """Return the path of a config given by path or by shipped name.

    Raises:
        ConfigError: there is none.

    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = shipped()
    key = os.fspath(name).removesuffix(".yaml")
    if key in known:
        return known[key]
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; shipped: {', '.join(known)}"
    what = "a folder" if path.is_dir() else "no such file, and no shipped config"
    raise ConfigError(f"{os.fspath(name)}: {what}{hint}")


@cache
def config_class(task: str) -> type[Config]:
    """Return the class of configs for a task; its section `task` is the task's own `Options`."""
    options = task_class(task).Options
    return create_model("Config", __base__=Config, task=(options, Field(default_factory=options)))


@cache
def task_class(name: str) -> Any:
    """Return a task's class, found through the entry-point group `grownas.tasks`.

    Raises:
        ConfigError: there is none of this name.

    """
    found = {entry.name: entry for entry in metadata.entry_points(group=TASKS)}
    if name not in found:
        near = difflib.get_close_matches(str(name), found, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"task.use: unknown task {name!r}; installed: {', '.join(sorted(found))}{hint}")
    return found[name].load()


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key that stands twice: plain YAML lets the last one win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not text; put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: not a config in YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections such as task: and strategy:, got {tree!r:.80}")
    return tree


def _override(tree: dict[str, Any], item: str) -> str | None:
    """Write `a.b=value` into a tree; return what is wrong with it, or None."""
    key, equals, text = item.partition("=")
    *parents, leaf = key.strip().split(".")
    if not equals or not leaf:
        return f"{item}: expected section.key=value"
    node: Any = tree
    for parent in parents:
        node = node.setdefault(parent, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        return f"{item}: {'.'.join(parents)} is not a section"
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        return f"{item}: {text!r} is not a value in YAML: {str(error).splitlines()[0]}"
    node[leaf] = str(text) if leaf in ("name", "runs") else value
    return None


def _task_name(tree: Mapping[str, Any]) -> str:
    section = tree.get("task", {})
    if not isinstance(section, Mapping):
        raise ConfigError(f"task: expected a section, got {section!r}")
    return str(section.get("use", "index_returns"))


def _explain(error: Mapping[str, Any], keys: Sequence[str]) -> str:
    key = ".".join(str(part) for part in error["loc"] if "[" not in str(part) and part not in ("int", "float"))
    if error["type"] == "extra_forbidden":
        leaf = key.rpartition(".")[2]
        near = (
            difflib.get_close_matches(key, keys, n=1)
            or [other for other in keys if other.rpartition(".")[2] == leaf]
            or [
                k
                for k in keys
                if k.rpartition(".")[2] in difflib.get_close_matches(leaf, [o.rpartition(".")[2] for o in keys], n=1)
            ]
        )
        return f"{key}: unknown key" + (f"; did you mean {near[0]}?" if near else "")
    message = str(error["msg"]).removeprefix("Value error, ")
    if not key:
        return message
    if isinstance(error["input"], str) and error["type"] == "literal_error":
        allowed = [str(word).strip("'") for word in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(error["input"], allowed, n=1)
        message += f"; did you mean {near[0]}?" if near else ""
    return f"{key}: {message}, got {error['input']!r}"


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield every field's dotted name."""
    for name, field in model.model_fields.items():
        yield prefix + name
        inner = [field.annotation, *get_args(field.annotation)]
        for one in inner:
            if isinstance(one, type) and issubclass(one, BaseModel):
                yield from _keys(one, f"{prefix}{name}.")


def _unknown_names(config: Config) -> list[str]:
    """Return what is wrong with names that refer to tables elsewhere."""
    from grownas.baselines import NAMES
    from grownas.ops import ACTIVATION

    tables: list[tuple[str, Sequence[str], Sequence[str]]] = [
        ("space.activation", config.space.activation, list(ACTIVATION)),
        ("baselines.use", config.baselines.use, NAMES),
        ("baselines.compare", config.baselines.compare, NAMES),
        ("baselines.losses", config.baselines.losses, list(task_class(config.task.use).LOSSES)),
    ]
    problems = []
    for key, given, known in tables:
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                problems.append(f"{key}: unknown {name!r}, expected some of {', '.join(known)}{hint}")
    return problems
