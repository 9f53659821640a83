"""A config written out for people: YAML with every key, its value, what else it may be and what it means."""

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

COMMENTS_AT = 40  # column at which comments stand where the values leave room


def is_config(name: str) -> bool:
    """Say whether a name means a config: a YAML file, or no file but a shipped config's name, or nearly so."""
    path = Path(name)
    if os.path.exists(path):  # False also for a name too long to be one
        return path.is_file() and path.suffix in (".yaml", ".yml")
    return path.suffix in (".yaml", ".yml") or bool(difflib.get_close_matches(name, shipped(), n=1))


def listing(config: Section) -> str:
    """Return a config as YAML that reads back as the same config, with comments."""
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
    """Return a value without sections in YAML; it is set as a list of one, whose brackets are taken away."""
    text = yaml.safe_dump([value], default_flow_style=True, width=math.inf).strip()
    if "\n" in text:  # in quotes that can hold the end of a line
        text = yaml.safe_dump([value], default_flow_style=True, width=math.inf, default_style='"').strip()
    return text[1:-1]


def meaning(field: FieldInfo) -> str:
    """Return the words that a field takes, if there is a choice, and what it means."""
    words = list(words_of(field.annotation))
    return ": ".join(part for part in (" | ".join(words) if len(words) > 1 else "", field.description or "") if part)


def words_of(annotation: Any) -> Iterator[str]:
    """Yield the words that a type allows, also within lists and beside other types."""
    for one in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield str(one)
        else:
            yield from words_of(one)
