"""config.yaml as a page to read: every key with its meaning, type, unit, default and origin, generated from the models.

Keys that are set stand as they are; the others stand as comments at their defaults. The page is a fixed point: reading it
and rendering it again gives the same page, which a test checks.
"""

import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fineclip.config.base import Section, sections_of
from fineclip.config.root import Config

INDENT = "  "
WRAP = 118


def render(values: Mapping[str, Any], *, heading: str) -> str:
    """The page for a configuration as it was written (before validation, so that what is set stays set)."""
    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    for name, info in Config.model_fields.items():
        lines += ["", *_section(name, info, values)]
    return "\n".join(lines) + "\n"


def heading_of(path: Path) -> str:
    """The comment lines that a configuration file opens with."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


def _section(name: str, info: FieldInfo, values: Mapping[str, Any]) -> Iterator[str]:
    yield f"# {info.description}"
    given = values.get(name, {})
    if get_origin(info.annotation) is dict:
        yield from _catalogue(name, info, given)
        return
    model = _chosen(info.annotation, given)
    yield f"{name}:" if given else f"# {name}:"
    yield from _keys(model, given, depth=1)


def _catalogue(name: str, info: FieldInfo, entries: Mapping[str, Any]) -> Iterator[str]:
    """A map of named entries: each kind of entry explains its keys where it comes first."""
    yield f"{name}:" if entries else f"{name}: {{}}"
    explained: set[type[BaseModel]] = set()
    for entry, given in entries.items():
        model = _chosen(get_args(info.annotation)[1], given)
        yield f"{INDENT}{entry}:" if given else f"{INDENT}{entry}: {{}}"
        yield from _keys(model, given, depth=2, explain=model not in explained)
        explained.add(model)


def _keys(model: type[BaseModel], given: Mapping[str, Any], *, depth: int, explain: bool = True) -> Iterator[str]:
    pad = INDENT * depth
    for name, info in model.model_fields.items():
        key = info.alias or name
        nested = _nested(info.annotation, given.get(key))
        if key in given and nested is not None and isinstance(given[key], Mapping):
            if explain:
                yield f"{pad}# {info.description}"
            yield f"{pad}{key}:"
            yield from _keys(nested, given[key], depth=depth + 1, explain=explain and nested is not model)
        elif key in given:
            yield from _key(f"{pad}{key}: {_spell(given[key])}", info, pad=pad, explain=explain)
        elif explain and nested is not None and issubclass(nested, Section) and _all_optional(nested):
            yield f"{pad}# {key}:  # {info.description}"
            for line in _keys(nested, {}, depth=depth):
                yield f"{pad}# {INDENT}{line.removeprefix(f'{pad}# ')}"
        elif explain:
            default = _spell(info.get_default(call_default_factory=True)) if not info.is_required() else "(required)"
            yield from _key(f"{pad}# {key}: {default}", info, pad=pad, explain=True)


def _key(line: str, info: FieldInfo, *, pad: str, explain: bool) -> Iterator[str]:
    if not explain:
        yield line
        return
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    parts = [str(info.description), _type_of(info, extra.get("unit"))]
    if not info.is_required() and not line.lstrip().startswith("#"):
        parts.append(f"default {_spell(info.get_default(call_default_factory=True))}")
    comment = "; ".join([*parts, f"from {extra.get('origin')}"])
    if len(line) + 4 + len(comment) <= WRAP:
        yield f"{line}  # {comment}"
    else:
        yield f"{pad}# {comment}"
        yield line


def _type_of(info: FieldInfo, unit: Any) -> str:
    choices = [choice for part in _parts(info.annotation) if get_origin(part) is Literal for choice in get_args(part)]
    if len(choices) > 1:
        return " | ".join(map(str, choices))
    names = {bool: "true | false", int: "integer", float: "number", str: "text", tuple: "list"}
    for part in _parts(info.annotation):
        base = get_origin(part) or part
        if base in names and not choices:
            return f"{names[base]} ({unit})" if unit else names[base]
    return str(unit) if unit else "section" if not choices else "text"


def _parts(annotation: Any) -> list[Any]:
    """The members of a union, and what stands behind Annotated, flat."""
    if hasattr(annotation, "__metadata__"):
        return _parts(annotation.__origin__)
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for member in get_args(annotation) for part in _parts(member)]
    return [annotation]


def _chosen(annotation: Any, given: Any) -> type[BaseModel]:
    """The model that given values belong to: of a union the one whose tag they carry."""
    models = [part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
    for model in models if isinstance(given, Mapping) else ():
        tags = [
            (info.alias or name, get_args(info.annotation)[0])
            for name, info in model.model_fields.items()
            if get_origin(info.annotation) is Literal and info.is_required()
        ]
        if all(given.get(name) == value for name, value in tags):
            return model
    return models[0]


def _nested(annotation: Any, given: Any) -> type[BaseModel] | None:
    has_model = any(isinstance(part, type) and issubclass(part, BaseModel) for part in _parts(annotation))
    return _chosen(annotation, given) if has_model else None


def _all_optional(model: type[BaseModel]) -> bool:
    """Whether the section may be left out whole."""
    return all(not info.is_required() for section in sections_of(model) for info in section.model_fields.values())


def _spell(value: Any) -> str:
    if isinstance(value, BaseModel):
        return json.dumps(value.model_dump(mode="json", by_alias=True))
    if isinstance(value, str):
        plain = value and value.replace(".", "").replace("-", "").replace("_", "").replace("/", "").isalnum()
        return value if plain and not value.replace(".", "").isdigit() else json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_spell, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}" if "e" not in f"{value:g}" else f"{value:.1e}"
    return json.dumps(value)
