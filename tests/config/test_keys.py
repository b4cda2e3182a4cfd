"""Every key of every section, against `keys.yaml`: default, valid values, invalid values, and its part of the identity."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from fineclip.config import ConceptsConfig, Config, parse
from fineclip.config.base import sections_of
from fineclip.errors import ConfigError
from fineclip.identity import canonical, identity

TABLE: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "keys.yaml").read_text())
SECTIONS = {model.__name__: model for model in sections_of(Config) if model is not Config}
KEYS = [(section, key) for section, keys in TABLE.items() for key in keys if key != "base"]


def case(section: str, key: str) -> tuple[type[BaseModel], dict[str, Any], dict[str, Any]]:
    """Return the model of a section, the other keys that the key needs, and its row of the table."""
    row = TABLE[section][key]
    base = TABLE[section].get("base", {}) | row.get("given", {})
    return SECTIONS[section], base, row


def dumped(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(mode="json", by_alias=True)


def values_of(field: str) -> Iterator[Any]:
    for section, key in KEYS:
        for value in TABLE[section][key].get(field, []):
            yield pytest.param(section, key, value, id=f"{section}.{key}={value}"[:60])


def test_the_table_has_every_key_of_every_section() -> None:
    known = {name: {info.alias or key for key, info in model.model_fields.items()} for name, model in SECTIONS.items()}
    assert {name: set(keys) - {"base"} for name, keys in TABLE.items()} == known


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_default(section: str, key: str) -> None:
    model, _, row = case(section, key)
    info = next(info for name, info in model.model_fields.items() if (info.alias or name) == key)
    assert info.is_required() == ("default" not in row)
    if info.is_required():
        return
    default = info.get_default(call_default_factory=True)
    if section == "MethodsConfig":
        assert identity(default) == {}
    else:
        as_json = dumped(default) if isinstance(default, BaseModel) else default
        assert (list(as_json) if isinstance(as_json, tuple) else as_json) == row["default"]


@pytest.mark.parametrize(("section", "key", "value"), values_of("valid"))
def test_a_valid_value_changes_this_key_of_the_identity_only(section: str, key: str, value: Any) -> None:
    model, base, _ = case(section, key)
    before, after = parse(model, base, where="x"), parse(model, base | {key: value}, where="x")
    changed = {name for name in dumped(after) if dumped(after)[name] != dumped(before)[name]}
    assert changed == {key}
    found = identity(after)
    assert key in found
    assert {name: found[name] for name in found if name != key} == {
        name: part for name, part in identity(before).items() if name != key
    }
    assert canonical(found) != canonical(identity(before))
    assert parse(model, found, where="x") == after  # the identity is complete


@pytest.mark.parametrize(("section", "key", "value"), values_of("invalid"))
def test_an_invalid_value_is_an_error(section: str, key: str, value: Any) -> None:
    model, base, _ = case(section, key)
    parse(model, base, where="x")
    with pytest.raises(ConfigError, match=r"x\b.*" + key):
        parse(model, base | {key: value}, where="x")


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_default_is_not_part_of_the_identity(section: str, key: str) -> None:
    model, base, row = case(section, key)
    if "default" in row and section != "MethodsConfig" and key not in base:
        assert identity(parse(model, base | {key: row["default"]}, where="x")) == identity(
            parse(model, base, where="x")
        )
    elif "default" not in row:
        assert key in identity(parse(model, base, where="x"))


@pytest.mark.parametrize("section", TABLE)
def test_unknown_and_missing_keys_are_errors(section: str) -> None:
    model, base = SECTIONS[section], TABLE[section].get("base", {})
    with pytest.raises(ConfigError, match=r"x: unknown_one: unknown key"):
        parse(model, base | {"unknown_one": 1}, where="x")
    for key in TABLE[section]:
        if key != "base" and "default" not in TABLE[section][key]:
            with pytest.raises(ConfigError, match=rf"x: {key}: this key is required"):
                parse(model, {name: value for name, value in base.items() if name != key}, where="x")


@pytest.mark.parametrize("section", TABLE)
def test_a_section_is_frozen(section: str) -> None:
    model, base = SECTIONS[section], TABLE[section].get("base", {})
    made = parse(model, base, where="x")
    name = next(iter(model.model_fields))
    with pytest.raises(ValueError, match="frozen"):
        setattr(made, name, getattr(made, name))


def test_canonical_form() -> None:
    assert canonical({"b": [1.5, "é"], "a": {"d": None, "c": True}}) == '{"a":{"c":true,"d":null},"b":[1.5,"é"]}'


METHOD_FACTS = [
    # section, values, uses_captions, can_cache_texts, needs_concepts, min_batch_size
    ("CLIPConfig", {}, True, True, False, 2),
    ("CLIPConfig", {"train_text": True}, True, False, False, 2),
    ("FineCLIPConfig", {}, True, True, False, 2),
    ("FineCLIPConfig", {"train_text": True}, True, False, False, 2),
    ("FineCLIPConfig", {"weights": {"global": 0}}, True, True, False, 1),
    ("FineCLIPConfig", {"weights": {"region": 0}}, True, True, False, 2),
    ("FineCLIPConfig", {"weights": {"global": 0, "region": 0}}, False, False, False, 1),
    ("CLIPSelfConfig", {}, False, False, False, 1),
    ("RegionCLIPConfig", {}, False, False, True, 1),
    ("RegionCLIPConfig", {"targets": "pseudo"}, True, True, True, 2),
    ("RegionCLIPConfig", {"targets": "pseudo", "weights": {"global": 0}}, False, False, True, 1),
    ("RegionCLIPConfig", {"targets": "pseudo", "weights": {"contrast": 0, "distill": 0}}, True, True, True, 2),
    ("CLIMConfig", {}, True, True, False, 29),
    ("CLIMConfig", {"mosaics": [2, 2], "train_text": True}, True, False, False, 8),
]


@pytest.mark.parametrize(("section", "values", "captions", "embedded", "concepts", "images"), METHOD_FACTS)
def test_properties_of_method_sections(
    section: str, values: dict[str, Any], captions: bool, embedded: bool, concepts: bool, images: int
) -> None:
    made = parse(SECTIONS[section], values, where="x")
    assert (made.uses_captions, made.can_cache_texts) == (captions, embedded)
    assert (made.needs_concepts, made.min_batch_size) == (concepts, images)


@pytest.mark.parametrize(
    ("values", "least"),
    [({}, 1), ({"from": "captions"}, 100), ({"min_count": 3}, 3), ({"from": "captions", "min_count": 3}, 3)],
)
def test_minimum_count_of_concepts(values: dict[str, Any], least: int) -> None:
    assert parse(ConceptsConfig, values, where="x").effective_min_count == least
