"""VERSION of a stage, method or benchmark, read from the text of its module: importing it might import torch."""

import ast
from functools import cache
from pathlib import Path

from fineclip.errors import ConfigError


@cache
def version_of(package: str, module: str) -> int:
    """Return `VERSION` of `fineclip.<package>.<module>`.

    Args:
        package: Name of a package in `fineclip`.
        module: Name of a module or package in it.

    Returns:
        The assigned integer.

    Raises:
        ConfigError: The module does not exist, or has no `VERSION`.
    """
    base = Path(__file__).parent / package
    path = next((p for p in (base / f"{module}.py", base / module / "__init__.py") if p.is_file()), None)
    for statement in ast.parse(path.read_text(encoding="utf-8")).body if path else ():
        match statement:
            case ast.Assign(targets=[ast.Name(id="VERSION")], value=ast.Constant(value=int(version))):
                return version
    raise ConfigError(f"fineclip.{package}.{module} states no VERSION")
