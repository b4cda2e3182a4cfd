"""Options that verbs share, and reading of a configuration section."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fineclip.cli.devices import claim
from fineclip.config import parse
from fineclip.errors import ConfigError
from fineclip.models.device import DEVICE
from fineclip.shards import invalidate

Call = Callable[[argparse.Namespace], None]
Verbs = Any  # argparse keeps the type of its sub-parsers private
S = TypeVar("S")


def add_verb(verbs: Verbs, name: str, call: Call, *, about: str, config: bool = True) -> argparse.ArgumentParser:
    """Add a verb with the options that all verbs have.

    Args:
        verbs: Sub-parsers of the command line.
        name: Name of the verb.
        call: Runs the verb; receives its parsed options.
        about: One line for `--help`.
        config: Whether the verb takes one section of the configuration as JSON.

    Returns:
        Parser of the verb, to which its own options are added.
    """
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
    verb.set_defaults(call=call)
    if config:
        verb.add_argument(
            "--config",
            type=json_object,
            default={},
            metavar="JSON",
            help="section of the configuration: keys that differ from the defaults",
        )
    verb.add_argument("--log", type=Path, metavar="FILE", help="also write the log to this file")
    return verb


def add_job(verbs: Verbs, name: str, call: Call, *, about: str) -> argparse.ArgumentParser:
    """Add a verb that writes a manifest, and does nothing if that is up to date.

    Args:
        verbs: Sub-parsers of the command line.
        name: Name of the verb.
        call: Runs the verb; receives its parsed options. Under `--force` the manifest is invalidated before.
        about: One line for `--help`.

    Returns:
        Parser of the verb, to which its own options are added.
    """

    def run(options: argparse.Namespace) -> None:
        if options.force:
            invalidate(options.manifest)
        call(options)

    verb = add_verb(verbs, name, run, about=about)
    verb.add_argument(
        "--manifest",
        type=Path,
        required=True,
        metavar="FILE",
        help="path of the manifest to write; its data is written beside it",
    )
    verb.add_argument("--force", action="store_true", help="run even if nothing has changed")
    return verb


def add_compute(verb: argparse.ArgumentParser, *, batch_size: int | None = None) -> None:
    """Add the options of verbs that run a model. The verb starts when it has locked the GPUs."""
    if batch_size is not None:
        verb.add_argument(
            "--batch-size", type=positive, default=batch_size, metavar="N", help=f"rows at once (default {batch_size})"
        )
    verb.add_argument(
        "--device",
        type=device,
        default="auto",
        metavar="NAME",
        help="where the model runs: auto, cpu, cuda, cuda:N or mps (default auto)",
    )
    verb.add_argument(
        "--devices",
        type=devices,
        default="auto",
        metavar="N,N",
        help="GPUs that --gpus may lock, by number (default auto: all of this machine)",
    )
    add_resources(verb)
    call: Call = verb.get_default("call")

    def run(options: argparse.Namespace) -> None:
        if options.device != "cpu":
            claim(options.gpus, options.devices)
        call(options)

    verb.set_defaults(call=run)


def add_resources(verb: argparse.ArgumentParser) -> None:
    """Add the options for GPUs and threads."""
    verb.add_argument(
        "--gpus",
        type=partial(positive, least=0),
        default=0,
        metavar="N",
        help="number of GPUs to reserve, waiting until they are free (default 0: use the visible ones)",
    )
    verb.add_argument("--threads", type=positive, default=1, metavar="N", help="CPU threads (default 1)")


def section(model: type[S] | Any, values: dict[str, Any], *, where: str, version: int | None = None) -> Any:
    """Return the configuration section of a verb.

    Args:
        model: A section or a union of sections.
        values: Values from the command line, perhaps with `version`.
        where: Place of the section in the configuration, for messages.
        version: Version of the stage; None skips the check.

    Returns:
        Validated section.

    Raises:
        ConfigError: A key is wrong, or the job was planned for another version.
    """
    values = dict(values)
    planned = values.pop("version", version)
    if version is not None and planned != version:
        raise ConfigError(
            f"{where}: planned for version {planned} of this stage, but the code is of version {version}. Start snakemake again."
        )
    return parse(model, values, where=where)


def one(paths: list[Path]) -> Path | None:
    """Return the path of an optional option, or None."""
    return paths[0] if paths else None


def json_object(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is not a JSON object")
    return value


def device(text: str) -> str:
    """Parse the name of a device; whether this machine has it is found out where the model is loaded."""
    if not DEVICE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a device: expected auto, cpu, cuda, cuda:N or mps")
    return text


def devices(text: str) -> tuple[int, ...] | str:
    """Parse numbers separated by commas, or auto."""
    if text == "auto":
        return text
    numbers = text.split(",")
    if not all(number.isdigit() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor numbers such as 0,1")
    return tuple(map(int, numbers))


def positive(text: str, *, least: int = 1) -> int:
    """Parse an integer of at least `least`."""
    if not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
    return int(text)
