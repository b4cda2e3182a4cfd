"""The registry follows from the sections of the configuration: one file and one class per method."""

import pytest

from fineclip.config import MethodsConfig
from fineclip.methods import METHODS
from fineclip.versions import version_of


def test_every_section_has_a_method() -> None:
    assert list(METHODS) == list(MethodsConfig.model_fields)


@pytest.mark.parametrize("name", METHODS)
def test_name_section_and_version_follow_from_the_class(name: str) -> None:
    method = METHODS[name]
    assert method.__module__ == f"fineclip.methods.{name}"
    assert method.__name__.lower() == name  # the class has the name that reports show
    assert method.config_type is MethodsConfig.model_fields[name].annotation
    assert method.version == version_of("methods", name)
