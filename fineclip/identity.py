"""Keys of jobs: the values that determine a result, as canonical JSON.

The key of a job is the version of its code, its configuration and the hashes of its inputs. Of a configuration only the
values that differ from their defaults count: a new key with a default computes nothing again, and a key that is written
out at its default equals one that is left out. The Snakefile passes version and configuration as `--config`, so that a
change of either plans the job; the manifest of the job records all three, and an equal key means there is nothing to do.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def identity(section: BaseModel) -> dict[str, Any]:
    """Return the values of a section that differ from their defaults, as plain JSON values.

    Keys without a default are always included.
    """
    return section.model_dump(mode="json", exclude_defaults=True, by_alias=True)


def canonical(value: Any) -> str:
    """Return the canonical JSON of a value: sorted keys, no white space.

    Args:
        value: JSON value; text is not escaped to ASCII.

    Returns:
        Equal text for equal values.

    Examples:
        >>> canonical({"b": 1, "a": [2, None]})
        '{"a":[2,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def planned_key(version: int, config: Mapping[str, Any]) -> str:
    """Return the part of a key that is known before the job runs, as JSON: version and configuration."""
    return canonical({"version": version, **config})
