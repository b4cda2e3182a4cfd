"""Base class of configuration sections, and validation messages."""

import difflib
import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from fineclip.errors import ConfigError

OURS = "our choice"

Slug = Annotated[
    str,
    BeforeValidator(  # YAML reads 500 as a number
        lambda name: str(name) if type(name) is int else name, json_schema_input_type=str | int
    ),
    StringConstraints(pattern=r"^[a-z0-9.]+$"),
]
DatasetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9.]+(-[a-z0-9.]+)*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the configuration. It is frozen, and unknown keys are errors.

    The docstring of a section describes each key under `Attributes`; the JSON schema and the reference page take it from there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(core_schema)
        schema = handler.resolve_ref_schema(reference)
        schema["description"], _ = _parsed_docstring(cls)
        meanings = {name: text for base in reversed(cls.__mro__) for name, text in _parsed_docstring(base)[1]}
        for name, info in cls.model_fields.items():
            schema["properties"][info.alias or name]["description"] = meanings[name]
        return reference


def _parsed_docstring(section: type) -> tuple[str, list[tuple[str, str]]]:
    """Return the text of a docstring, and name and meaning of each attribute that it describes."""
    text, _, attributes = inspect.cleandoc(section.__doc__ or "").partition("\n\nAttributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return text, [(name, re.sub(r"\n +", " ", meaning)) for name, meaning in entries]


def key(default: Any = ..., *, unit: str | None = None, origin: str = OURS, **more: Any) -> Any:
    """Declare a key that has a unit, a limit, an alias, or a default that is not our choice.

    Args:
        default: Value or section; a key without default is required.
        unit: Unit of the value, such as `px`.
        origin: Source of the default: a paper, or the authors' code.
        **more: Alias, and limits of the value, as pydantic names them: `ge`, `gt`, `le`, `min_length`.

    Returns:
        The pydantic field.
    """
    extra: dict[str, JsonValue] = {"unit": unit, "origin": origin}
    return Field(default, json_schema_extra=extra, **more)


def parse(model: Any, values: Any, *, where: str) -> Any:
    """Validate values.

    Args:
        model: A Section, or a union of Sections.
        values: Map from YAML or JSON.
        where: Place of the values, for messages: a file, or a section such as `train`.

    Returns:
        The instance of `model`.

    Raises:
        ConfigError: one line for each error: place, expected value, and the closest known key.
    """
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        lines = [_message(detail, model, values, where) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _message(detail: ErrorDetails, model: Any, values: Any, where: str) -> str:
    path = _path_as_written(detail["loc"], values, is_missing=detail["type"] == "missing")
    dotted = ".".join(path)
    place = f"{where}: {dotted}" if dotted else where
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(path[-1], sorted(_known_keys(model)), n=1, cutoff=0.6)
        hint = (
            f", did you mean {'.'.join([*path[:-1], close[0]])}?" if close else "; docs/configuration.md lists all keys"
        )
        return f"{place}: unknown key{hint}"
    if detail["type"] == "missing":
        return f"{place}: this key is required and has no default"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] != "value_error" and not isinstance(detail["input"], Mapping | list):
        message += f", not {detail['input']!r}"
    return f"{place}: {message[0].lower()}{message[1:]}"


def _path_as_written(location: tuple[int | str, ...], values: Any, *, is_missing: bool) -> list[str]:
    """Return the path of an error as the user wrote it, without the union tags that pydantic inserts."""
    path: list[str] = []
    for depth, part in enumerate(location):
        is_last = depth == len(location) - 1
        if isinstance(values, Mapping) and part not in values and not (is_last and is_missing):
            continue
        path.append(str(part))
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
            values = values[part]
    return path


def _known_keys(model: Any) -> set[str]:
    """Return all keys of a model and of the models inside it."""
    return {info.alias or name for section in sections_of(model) for name, info in section.model_fields.items()}


def sections_of(model: Any) -> Iterator[type[BaseModel]]:
    """Yield a model and all models that its annotations contain."""
    seen: set[Any] = set()
    todo = [model]
    while todo:
        current = todo.pop()
        if isinstance(current, type) and issubclass(current, BaseModel):
            if current not in seen:
                seen.add(current)
                yield current
                todo.extend(info.annotation for info in current.model_fields.values())
        else:
            todo.extend(get_args(current))
