"""Verbs of the data stages, derived from their declarations."""

import argparse
import re
from functools import partial
from pathlib import Path

from fineclip.cli.options import Verbs, add_compute, add_job, one, section
from fineclip.stages.declaration import Input, Stage, function_of, stages, verb_of


def add_verbs(verbs: Verbs) -> None:
    """Add one verb per stage, in the order of the workflow."""
    for declared in stages().values():
        verb = add_job(verbs, declared.verb or declared.name, partial(run_stage, declared), about=declared.help)
        for parameter, needed in declared.inputs.items():
            add_input(verb, parameter, needed)
        for parameter, settings in declared.options.items():
            verb.add_argument(f"--{parameter.replace('_', '-')}", dest=parameter, **settings)
        if declared.batch_size is not None:
            add_compute(verb, batch_size=declared.batch_size)


def run_stage(declared: Stage, options: argparse.Namespace) -> None:
    """Call the function of a stage with the values of its verb.

    Args:
        declared: Declaration of the stage.
        options: Parsed options of its verb.

    Raises:
        ConfigError: The configuration is wrong, or was planned for another version of the stage.
    """
    values = vars(options)
    arguments = {name: values[name] for name in declared.options}
    for parameter, needed in declared.inputs.items():
        arguments[parameter] = values[parameter] if needed.many or needed.required else one(values[parameter])
    if declared.batch_size is not None:
        arguments |= {"batch_size": options.batch_size, "device": options.device}
    where = _place(declared, values)
    config = section(declared.config, options.config, where=where, version=declared.version)
    function_of(declared.name)(manifest=options.manifest, config=config, **arguments)


def add_input(verb: argparse.ArgumentParser, parameter: str, needed: Input) -> None:
    """Add the option for an input: one manifest, none or one, or several.

    Args:
        verb: Parser of the verb.
        parameter: Name of the value in the parsed options.
        needed: Stage that makes the manifest, and how many are needed.
    """
    text = f"manifest{'s' if needed.many else ''} of `{verb_of(needed.stage)}`"
    verb.add_argument(
        needed.flag,
        dest=parameter,
        type=Path,
        nargs=None if needed.required and not needed.many else "+" if needed.required else "*",
        required=needed.required,
        default=[],
        metavar="FILE",
        help=f"{text}, {needed.note}" if needed.note else text,
    )


def _place(declared: Stage, values: dict[str, object]) -> str:
    """Return the place of the section in the configuration as far as the options determine it, for messages."""
    filled = re.sub(r"{(\w+)}", lambda part: str(values.get(part[1], part[0])), declared.section or declared.name)
    return filled.partition(".{")[0]
