"""Read the JSON files of model folders. A key that is absent is an error that names it. torch is not imported."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fineclip.errors import CheckpointError, FineclipError
from fineclip.readers.json_documents import parse_json

MOST_BYTES = 50_000_000  # the index of the largest published models has 1 MB


def read_object(path: Path, *, what: str, error: type[FineclipError] = CheckpointError) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: The file.
        what: What it is, for messages, such as "a model config".
        error: Class of the errors that are raised.

    Returns:
        Its content.

    Raises:
        FineclipError: The file cannot be read, is too large, is not JSON, or holds another value. It is of the class `error`.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise error(f"{path}: has {path.stat().st_size:,} bytes, which is too large for {what}")
        content = parse_json(path.read_bytes())
    except OSError as problem:
        raise error(f"{path}: cannot be read as {what}: {problem.strerror}") from None
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: is not valid JSON: {problem}") from None
    if not isinstance(content, dict):
        raise error(f"{path}: holds a {type(content).__name__}, expected {what}, which is an object of keys")
    return content


def absent_keys(content: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """Return the keys that an object lacks, in order.

    Args:
        content: Content of a JSON file.
        keys: With dots between nested keys, such as `text_config.model_type`. Each nested object must be an object.

    Returns:
        Those that are absent or null.

    Examples:
        >>> absent_keys({"a": {"b": 1}, "c": None}, ["a.b", "a.d", "c"])
        ['a.d', 'c']
    """
    return [name for name in keys if _value(content, name) is None]


def require_keys(
    content: Mapping[str, Any],
    keys: Iterable[str],
    *,
    where: str,
    what: str,
    error: type[FineclipError] = CheckpointError,
) -> None:
    """Check that an object has keys.

    Args:
        content: Content of a JSON file.
        keys: As in `absent_keys`.
        where: Start of the message: the file.
        what: What it is, for the message.
        error: Class of the error that is raised.

    Raises:
        FineclipError: A key is absent or null. It is of the class `error`.
    """
    absent = absent_keys(content, keys)
    if absent:
        raise error(
            f"{where}: is not {what}: it lacks {', '.join(absent)}. Add what is missing, or take the file of its authors."
        )


def _value(content: Any, name: str) -> Any:
    for part in name.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content
