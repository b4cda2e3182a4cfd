"""What every section of the configuration is: frozen, typed, documented, and strict about unknown keys."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails

from fineclip.errors import ConfigError

Slug = Annotated[
    str,
    BeforeValidator(lambda name: str(name) if type(name) is int else name),  # YAML reads 500 as a number
    StringConstraints(pattern=r"^[a-z0-9.]+$"),
]
DatasetName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9.]+(-[a-z0-9.]+)*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NotNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NotNegativeFloat = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A part of the configuration. Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def key(default: Any = ..., *, unit: str | None = None, origin: str, about: str, **limits: Any) -> Any:
    """A documented key: one line about it, its unit, and where its default comes from. No default: it is required."""
    extra: dict[str, JsonValue] = {"unit": unit, "origin": origin}
    if callable(default) and not isinstance(default, type):
        return Field(default_factory=default, description=about, json_schema_extra=extra, **limits)
    return Field(default, description=about, json_schema_extra=extra, **limits)


def parse(model: Any, values: Any, *, where: str) -> Any:
    """`values` as a `model` (a Section, or a union of some).

    Raises:
        ConfigError: with a line for each thing that is wrong: where it is, what was expected, did you mean.
    """
    try:
        return TypeAdapter(model).validate_python(values)
    except ValidationError as error:
        lines = [_sentence(detail, model, values, where) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _sentence(detail: ErrorDetails, model: Any, values: Any, where: str) -> str:
    path = _path_as_written(detail["loc"], values, is_missing=detail["type"] == "missing")
    dotted = ".".join(path)
    place = f"{where}: {dotted}" if dotted else where
    if detail["type"] == "extra_forbidden":
        close = difflib.get_close_matches(path[-1], sorted(_spelling(model)), n=1, cutoff=0.6)
        hint = f", did you mean {'.'.join([*path[:-1], close[0]])}?" if close else "; config.yaml lists those there are"
        return f"{place}: unknown key{hint}"
    if detail["type"] == "missing":
        return f"{place}: this key is required and has no default"
    message = detail["msg"].removeprefix("Value error, ")
    shown = (
        ""
        if isinstance(detail["input"], Mapping | list) or detail["type"] == "value_error"
        else f", not {detail['input']!r}"
    )
    return f"{place}: {message[0].lower()}{message[1:]}{shown}"


def _path_as_written(location: tuple[int | str, ...], values: Any, *, is_missing: bool) -> list[str]:
    """The keys that the user wrote: pydantic puts the tags of discriminated unions among them."""
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


def _spelling(model: Any) -> set[str]:
    """Every key that the model or a model inside it knows."""
    return {info.alias or name for section in sections_of(model) for name, info in section.model_fields.items()}


def sections_of(model: Any) -> Iterator[type[BaseModel]]:
    """The model, and every model that its annotations reach."""
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
