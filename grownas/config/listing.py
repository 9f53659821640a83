"""Prints a config as YAML: every key with its value, its allowed words and its meaning."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import yaml

from grownas.config.schema import Section
from grownas.config.shipped import shipped

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

COMMENTS_AT = 40  # column of the comments, unless a value is longer


def is_config(name: str) -> bool:
    """Return whether a name means a config: a YAML file, or the (perhaps misspelt) name of a shipped config."""
    path = Path(name)
    if os.path.exists(path):  # False also for a name that is too long for a path
        return path.is_file() and path.suffix in (".yaml", ".yml")
    return path.suffix in (".yaml", ".yml") or bool(difflib.get_close_matches(name, shipped(), n=1))


def listing(config: Section) -> str:
    """Return a config as YAML with comments; loading the text gives the same config."""
    return "\n".join(_lines(config, ""))


def _lines(section: Section, indent: str) -> Iterator[str]:
    plain = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield _with_comment(f"{indent}{name}:", (type(value).__doc__ or "").partition("\n")[0])
            yield from _lines(value, f"{indent}  ")
        else:
            yield _with_comment(f"{indent}{name}: {_on_one_line(plain[name])}", meaning(field))


def _with_comment(text: str, comment: str) -> str:
    return f"{text:<{COMMENTS_AT - 2}}  # {' '.join(comment.split())}" if comment else text


def _on_one_line(value: Any) -> str:
    """Return a value that holds no sections as one line of YAML: dump a list of one value, then strip the brackets."""
    text = yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()
    if "\n" in text:  # only double quotes can write a line break on one line
        text = yaml.safe_dump([value], default_flow_style=True, width=math.inf, default_style='"').strip()
    return text[1:-1]


def meaning(field: FieldInfo) -> str:
    """Return a field's allowed words, if there are several, and its description."""
    words = list(words_of(field.annotation))
    return ": ".join(part for part in (" | ".join(words) if len(words) > 1 else "", field.description or "") if part)


def words_of(annotation: Any) -> Iterator[str]:
    """Yield the words that a type allows, also inside lists and unions."""
    for one in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield str(one)
        else:
            yield from words_of(one)
