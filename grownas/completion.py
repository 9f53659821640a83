"""Shell completion: the candidates for each argument, and the scripts for Bash and Zsh.

click finds the argument at the cursor and calls a function below with the text typed so far. Names and run folders
need no heavy import. Keys need pydantic; they need PyTorch only if a task or strategy of another package does not
register its options as an entry point.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from click import Command, Context, Parameter
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

from grownas.errors import GrownasError
from grownas.export import FORMS

Items = Iterator[CompletionItem[str]]
MARK = "run.json"  # every run folder has this file, see `runs.rundir`
CHOSEN = ("task", "strategy")  # sections whose keys depend on `use`
OWN_KEYS = {  # command -> its key that is not a key of the config
    "train": "genotype",
    "evaluate": "since",
    "predict": "out",
    "export": "form",
    "tabulate": "out",
    "update": "how",  # short for update.how
}

SAME_VALUES = {"how": "update.how", "panels": "task.data"}  # key -> the key that takes the same values

# The shell adds no space after a completion that ends in `=`, `.` or `/`. fish does this without help.
BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' line
    COMPREPLY=()
    while read -r line; do
        COMPREPLY+=("${line#*,}")
        [[ $line == *[=./] ]] && compopt -o nospace
    done < <(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" %(complete_var)s=bash_complete "$1")
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

ZSH = """\
#compdef %(prog_name)s
%(complete_func)s() {
    local -a response open open_told closed closed_told
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
%(complete_var)s=zsh_complete %(prog_name)s)}")
    for type key told in ${response}; do
        local list=closed
        [[ $key == *[=./] ]] && list=open
        if [[ $told == _ ]]; then
            set -A $list "${(@P)list}" "$key"
        else
            set -A ${list}_told "${(@P)${:-${list}_told}}" "$key:$told"
        fi
    done
    (( $#open_told )) && _describe -V unsorted open_told -U -S ''
    (( $#closed_told )) && _describe -V unsorted closed_told -U
    (( $#open )) && compadd -U -S '' -V unsorted -a open
    (( $#closed )) && compadd -U -V unsorted -a closed
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


class Bash(BashComplete):
    """Completion for Bash, which splits words at `=` and adds a space after every completion."""

    source_template = BASH
    kept = 0  # characters at the start of the word that Bash keeps

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor and the word at the cursor, each `key=value` joined again."""
        before, here = super().get_completion_args()
        words: list[str] = []
        joins = False
        for word in (*before, here) if here else before:
            is_break = not word.strip("=:")
            if words and (is_break or joins):
                words[-1] += word
            else:
                words.append(word)
            joins = is_break
        if not here:
            return words, ""
        self.kept = len(words[-1]) - len(here.strip("=:"))
        return words[:-1], words[-1]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return a completion without the part that Bash keeps: everything up to the last `=` or `:`."""
        return f"{item.type},{item.value[self.kept :]}"


class Zsh(ZshComplete):
    """Completion for Zsh, which adds a space after every completion."""

    source_template = ZSH


def register() -> None:
    """Register our Bash and Zsh scripts with click; click's fish script works unchanged."""
    add_completion_class(Bash, "bash")
    add_completion_class(Zsh, "zsh")


def script(command: Command, shell: str, variable: str) -> str:
    """Return the script that connects a shell to our completions.

    Args:
        command: the top-level command.
        shell: `bash`, `zsh` or `fish`.
        variable: environment variable that the script sets to request completions.
    """
    register()
    found = get_completion_class(shell)
    assert found is not None, shell
    return found(command, {}, "grownas", variable).source()


def complete(context: Context, parameter: Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return the completions of an argument; none if the words before it are wrong.

    Args:
        context: the command's context, with the arguments before the cursor.
        parameter: the argument at the cursor; its name selects the completions.
        incomplete: the text typed so far.
    """
    try:
        return list(PLACES[str(parameter.name)](context, incomplete))
    except GrownasError:  # a prompt cannot show an error; the command will print it
        return []


def _config(context: Context, incomplete: str) -> Items:
    """Yield shipped configs and YAML files."""
    from grownas.config.shipped import shipped

    yield from _starting(shipped(), incomplete)
    yield from _paths(incomplete, lambda path: path.suffix in (".yaml", ".yml"))


def _run(context: Context, incomplete: str) -> Items:
    """Yield run folders; for an empty word also the run folders in `runs/`."""
    yield from _paths(incomplete or "runs/", lambda path: (path / MARK).is_file())
    if not incomplete:
        yield from _paths("", lambda path: (path / MARK).is_file())


def _onnx_file(context: Context, incomplete: str) -> Items:
    """Yield ONNX files."""
    yield from _paths(incomplete, lambda path: path.suffix == ".onnx")


def _cell_or_config(context: Context, incomplete: str) -> Items:
    """Yield everything that `show` accepts: published cells, configs, genotype files and run folders."""
    from grownas.genotype import published

    yield from _starting(published(), incomplete)
    yield from _config(context, incomplete)
    yield from _paths(incomplete, lambda path: path.suffix == ".json" or (path / MARK).is_file(), folders=False)


def _override(context: Context, incomplete: str) -> Items:
    """Yield the keys of the config before the cursor, or the values of a key."""
    config = context.params.get("config") or context.params.get("what")
    run = context.params.get("run")
    config = str(Path(run) / "config.yaml" if run is not None else config)
    given = context.params.get("overrides") or ()
    command = str(context.command.name)
    key, equals, value = incomplete.partition("=")
    if not equals:
        taken = {item.partition("=")[0] for item in given}
        keys = _keys(config, given, key, _allowed(command, config))
        yield from (item for item in keys if item.value.rstrip("=") not in taken)
        if command in OWN_KEYS and OWN_KEYS[command] not in taken:
            yield from _starting([f"{OWN_KEYS[command]}="], incomplete)
        return
    start, bracket, last = _last_of_list(value)
    for item in _values(config, given, key, last):
        item.value = f"{key}={start}{bracket}{item.value}"
        yield item


def _last_of_list(value: str) -> tuple[str, str, str]:
    """Split `[a,b` into the text before the last separator, the separator (`[` or `,`), and the last element."""
    cut = max(value.rfind("["), value.rfind(","))
    return (value[:cut], value[cut], value[cut + 1 :]) if value.startswith("[") else ("", "", value)


def _allowed(command: str, config: str) -> Callable[[str], bool]:
    """Return a predicate: whether a command accepts a key, or a section that has such a key."""
    if command == "resume":
        from grownas.config.sections import WHERE_AND_HOW

        return lambda key: key in WHERE_AND_HOW
    if command in ("evaluate", "predict", "export"):
        from grownas.config.loading import class_for
        from grownas.config.sections import COMPUTING

        task: Any = class_for(config).model_fields["task"].annotation  # class of the section `task`
        free = {f"task.{key}" for key in (*task.WHERE, *task.EVALUATION)}
        return lambda key: key == "task" or key in free or key in COMPUTING
    return lambda key: True


def _keys(config: str, given: Sequence[str], incomplete: str, allowed: Callable[[str], bool]) -> Items:
    """Yield the matching keys of one level; if a single section matches, yield the keys inside it."""
    from grownas.config.listing import meaning
    from grownas.config.messages import sections_in

    parent, dot, leaf = incomplete.rpartition(".")
    fields = _fields(config, given, parent)
    names = [name for name in fields if name.startswith(leaf) and allowed(f"{parent}{dot}{name}")]
    is_section = {name: name in CHOSEN or any(sections_in(fields[name].annotation)) for name in names}
    if len(names) == 1 and is_section[names[0]]:
        yield from _keys(config, given, f"{parent}{dot}{names[0]}.", allowed)
        return
    for name in names:
        value = f"{parent}{dot}{name}{'.' if is_section[name] else '='}"
        yield CompletionItem(value, help=None if is_section[name] else meaning(fields[name]) or None)


def _fields(config: str, given: Sequence[str], path: str) -> dict[str, Any]:
    """Return the fields of a section by its dotted path; none if there is no such section."""
    from grownas.config.messages import sections_in
    from grownas.config.sections import SECTIONS, Config

    own = {*CHOSEN, *(name for sections in SECTIONS.values() for name in sections)}  # sections that depend on the task
    names = path.split(".") if path else []
    section: Any = Config
    if names and names[0] in own:
        from grownas.config.loading import class_for

        section = class_for(config, given)
    for name in names:
        field = section.model_fields.get(name)
        section = next(sections_in(field.annotation), None) if field else None
        if section is None:
            return {}
    return dict(section.model_fields)


def _values(config: str, given: Sequence[str], key: str, incomplete: str) -> Items:
    """Yield the values of a key: its words if it has a fixed choice, paths if it takes text."""
    from grownas.config.listing import words_of
    from grownas.config.loading import class_for, outline, plugin_names
    from grownas.config.messages import known_names

    if key == "genotype":
        from grownas.baselines.table import BASELINES
        from grownas.genotype import published

        yield from _starting(dict.fromkeys([*BASELINES, *published()]), incomplete)
        yield from _paths(incomplete, lambda path: path.suffix == ".json")
        return
    if key == "form":
        yield from _starting(FORMS, incomplete)
        return
    if key in ("task.use", "strategy.use"):
        yield from _starting(plugin_names(key.partition(".")[0]), incomplete)
        return
    parent, _, leaf = SAME_VALUES.get(key, key).rpartition(".")
    field = _fields(config, given, parent).get(leaf)
    if field is None:
        return
    words = list(words_of(field.annotation)) or ["true", "false"] * (field.annotation is bool)
    if not words and parent in ("space", "baselines", "start"):
        task: Any = class_for(config, given).model_fields["task"].annotation
        known = known_names(outline(task.model_fields["use"].default))
        words = list(known[key]()) if key in known else []
    yield from _starting([*words, *(field.examples or ())], incomplete)
    if not words and field.annotation in (str, str | None):
        yield from _paths(incomplete, lambda path: path.is_file() and key != "runs")


def _starting(words: Iterable[str], incomplete: str) -> Items:
    yield from (CompletionItem(word) for word in words if word.startswith(incomplete))


def _paths(incomplete: str, wanted: Callable[[Path], bool], *, folders: bool = True) -> Items:
    """Yield matching paths: those that satisfy `wanted`, and other folders, with a `/` at the end."""
    head, leaf = os.path.split(incomplete)
    folder = Path(os.path.expanduser(head))
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # no such folder
        return
    for name in names:
        if name.startswith(leaf) and not (name.startswith(".") and not leaf):
            path, value = folder / name, os.path.join(head, name)
            if wanted(path):
                yield CompletionItem(value)
            elif path.is_dir() and folders:
                yield CompletionItem(f"{value}/")


PLACES: dict[str, Callable[[Context, str], Items]] = {  # keyed by the argument's name
    "config": _config,
    "file": _onnx_file,
    "overrides": _override,
    "run": _run,
    "runs": _run,
    "what": _cell_or_config,
}
