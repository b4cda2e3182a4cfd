"""Generate the JSON schema of the configuration (for editors) and its reference page (for readers).

Both follow from the pydantic models, so a key is described in one place: its `key(...)`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fineclip.config.root import Config

Schema = Mapping[str, Any]

INTRODUCTION = """\
# Configuration reference

Every key of `config.yaml` and of the presets. `make config` generates this page and `workflow/config.schema.json` from
`fineclip/config`; do not edit it by hand.

* A configuration is one or more YAML files: `--configfile a.yaml b.yaml` merges them from left to right. Maps are merged,
  lists and values are replaced.
* A key without a default is required. Unknown keys are errors.
* **Origin** names the source of a default: a paper, the authors' code, or `our choice` if neither gives a value.
* `plan` and `runtime` never change a result. Other keys are part of the cache key of the jobs that read them.
"""


def editor_schema() -> str:
    """Generate the JSON schema of a configuration file.

    Returns:
        JSON text. An overlay holds a part of the keys, so the schema requires none; `fineclip config` checks the merged
        configuration.
    """
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_requirements(_full_schema())}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def reference_page() -> str:
    """Return the reference of all keys as Markdown: one table per section and kind of section."""
    schema = _full_schema()
    definitions = schema["$defs"]
    printed: dict[str, str] = {}  # definition -> heading under which its table is
    lines = [INTRODUCTION]
    for name, node in schema["properties"].items():
        is_map = isinstance(node.get("additionalProperties"), Mapping)
        path = f"{name}.NAME" if is_map else name
        references = _references(node)
        lines += [f"## `{name}`", ""]
        if is_map:
            lines += [f"{node['description']} A map of entries `{path}` with these keys:", ""]
        elif len(references) > 1:
            lines += [node["description"], ""]
        for reference in references:
            lines += _section(reference, path, definitions, printed, heading=len(references) > 1)
    return "\n".join(lines).rstrip() + "\n"


def _full_schema() -> dict[str, Any]:
    return Config.model_json_schema()


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
        elif name == "description" and "origin" in node:
            unit = f" Unit: {node['unit']}." if node["unit"] else ""
            origin = f" Origin of the default: {node['origin']}." if "default" in node else ""
            result[name] = f"{value}{unit}{origin}"
        elif name == "default" and isinstance(value, Mapping):
            continue  # defaults of a section are those of its keys
        elif name not in ("title", "required", "discriminator", "unit", "origin"):
            result[name] = value
    return result


def _section(name: str, path: str, definitions: Schema, printed: dict[str, str], *, heading: bool) -> Iterator[str]:
    """Yield the table of one definition, then the tables of the sections inside it that are not printed yet."""
    definition = definitions[name]
    keys: Schema = definition["properties"]
    title = _title(path, keys)
    printed[name] = title
    if heading:
        yield from (f"### {title}", "")
    yield from (definition["description"], "")
    if not keys:
        return
    yield from ("| key | type | default | meaning | origin |", "|---|---|---|---|---|")
    inner = [
        (reference, f"{path}.{key}")
        for key, node in keys.items()
        for reference in _references(node)
        if reference not in printed
    ]
    for reference, where in inner:
        printed[reference] = _title(where, definitions[reference]["properties"])
    for key, node in keys.items():
        yield _row(key, node, printed)
    yield ""
    for reference, where in inner:
        yield from _section(reference, where, definitions, printed, heading=True)


def _title(path: str, keys: Schema) -> str:
    """Return the heading of a section: its path and, for one kind of several, the key that decides."""
    decides = [f", `{key}: {node['const']}`" for key, node in keys.items() if "const" in node and "default" not in node]
    return f"`{path}`" + "".join(decides)


def _row(key: str, node: Schema, printed: Mapping[str, str]) -> str:
    unit = f" ({node['unit']})" if node["unit"] else ""
    references = _references(node)
    links = ", ".join(f"[{printed[name].replace('`', '')}](#{_anchor(printed[name])})" for name in references)
    kind = f"section {links}" if references else _type(node)
    default = "**required**"
    if "default" in node:
        default = "" if references and node["default"] is not None else f"`{_short(node['default'])}`"
    origin = node["origin"] if "default" in node and not references else ""
    cells = (f"`{key}`", kind + unit, default, node["description"], origin)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


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
    if isinstance(node.get("additionalProperties"), Mapping):
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
