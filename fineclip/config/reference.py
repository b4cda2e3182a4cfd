"""Generate the JSON schema of the configuration (for editors) and its reference page (for readers).

Both follow from the pydantic models, so a key is described in one place: the section that has it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Template

from fineclip.config.base import OURS
from fineclip.config.root import Config

Schema = Mapping[str, Any]

TEMPLATE = Path(__file__).with_name("reference.md.jinja")


def editor_schema() -> str:
    """Generate the JSON schema of a configuration file.

    Returns:
        JSON text. An overlay holds a part of the keys, so the schema requires none; `fineclip config` checks the merged
        configuration.
    """
    keys = _without_requirements(Config.model_json_schema())
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **keys}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def reference_page() -> str:
    """Return the reference of all keys as Markdown: one table per section and kind of section."""
    schema = Config.model_json_schema()
    headings: dict[str, str] = {}
    parts = {
        name: list(_tables(node, f"{name}.NAME" if _is_map(node) else name, schema["$defs"], headings))
        for name, node in schema["properties"].items()
    }
    template = Template(TEMPLATE.read_text(encoding="utf-8"), trim_blocks=True, lstrip_blocks=True)
    functions = {"references": _references, "is_map": _is_map, "type": _type, "short": _short, "anchor": _anchor}
    page: str = template.render(schema=schema, parts=parts, headings=headings, ours=OURS, **functions)
    return page.rstrip() + "\n"


def _without_requirements(node: Schema) -> dict[str, Any]:
    """Return the schema without required keys, with unit and origin as a part of each description."""
    result: dict[str, Any] = {}
    for name, value in node.items():
        if name in ("properties", "$defs"):
            result[name] = {key: _without_requirements(part) for key, part in value.items()}
        elif name in ("oneOf", "anyOf", "prefixItems"):
            parts = [_without_requirements(part) for part in value]
            result["anyOf" if name == "oneOf" else name] = parts  # an overlay may leave out the key that decides
        elif name in ("items", "additionalProperties") and isinstance(value, Mapping):
            result[name] = _without_requirements(value)
        elif name == "description":
            unit = f" Unit: {node['unit']}." if node.get("unit") else ""
            origin = f" Origin of the default: {node.get('origin', OURS)}." if "default" in node else ""
            result[name] = f"{value}{unit}{origin}"
        elif name == "default" and isinstance(value, Mapping):
            continue  # defaults of a section are those of its keys
        elif name not in ("title", "required", "discriminator", "unit", "origin"):
            result[name] = value
    return result


def _tables(node: Schema, path: str, sections: Schema, headings: dict[str, str]) -> Iterator[str]:
    """Yield the sections that a key holds and those inside them, and add their headings. Each section is yielded once.

    Args:
        node: Schema of the key.
        path: Names of the keys that lead to it, with dots.
        sections: Schema of each section by its name.
        headings: Heading of each section so far, by its name.

    Yields:
        Name of a section that has no heading yet.
    """
    for name in _references(node):
        if name not in headings:
            keys = sections[name]["properties"]
            headings[name] = f"`{path}`" + "".join(
                f", `{key}: {inner['const']}`"  # of several kinds, the key that decides
                for key, inner in keys.items()
                if "const" in inner and "default" not in inner
            )
            yield name
            for key, inner in keys.items():
                yield from _tables(inner, f"{path}.{key}", sections, headings)


def _is_map(node: Schema) -> bool:
    """Return whether a key holds entries whose names the user chooses."""
    return isinstance(node.get("additionalProperties"), Mapping)


def _type(node: Schema) -> str:
    """Return the type of a key and its range, as text."""
    if "anyOf" in node:
        return " or ".join(_type(part) for part in node["anyOf"])
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return ", ".join(f"`{choice}`" for choice in node["enum"])
    if "prefixItems" in node:
        return "[" + ", ".join(_type(part) for part in node["prefixItems"]) + "]"
    if node["type"] == "array":
        return f"list of {_type(node['items'])}"
    names = {"string": "text", "boolean": "true, false", "object": "map", "null": "null"}
    kind = str(node["type"])
    return names.get(kind, kind) + _range(node)


def _range(node: Schema) -> str:
    if "minimum" in node and "maximum" in node:
        return f" {node['minimum']:g} to {node['maximum']:g}"
    signs = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"))
    limits = [f"{sign} {node[name]:g}" for name, sign in signs if name in node]
    return " " + ", ".join(limits) if limits else ""


def _references(node: Schema) -> list[str]:
    """Return the names of the sections that a key holds: one, one of several kinds, or a map of them."""
    if _is_map(node):
        return _references(node["additionalProperties"])
    parts = [node, *node.get("anyOf", ()), *node.get("oneOf", ())]
    return [part["$ref"].rsplit("/", 1)[1] for part in parts if "$ref" in part]


def _anchor(heading: str) -> str:
    """Return the anchor that GitHub and the docs site give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _short(value: Any) -> str:
    """Return a default as YAML; of a long list, the first entries."""
    if isinstance(value, float):
        return f"{value:g}"
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[: text.rindex(",", 0, 60)] + ", ...]"
