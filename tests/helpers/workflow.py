"""A workflow that looks finished although no job ran, and the commands that a dry run prints."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from tests.helpers.dag import run_all, snakemake


class Command(NamedTuple):
    """A planned job: its rule, the verb that it runs, and the values of each option."""

    rule: str
    verb: str
    options: dict[str, list[str]]


def commands(folder: Path, *arguments: str) -> list[Command]:
    """The commands of the jobs that a run would start."""
    done = snakemake(folder, "--dry-run", "--printshellcmds", *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    jobs = re.findall(
        r"^(?:local)?rule (\w+):\n(.*?)^Shell command: (.*?)\n\s*\n", done.stdout + done.stderr, re.M | re.S
    )
    return [_command(rule, shell) for rule, _, shell in jobs if "fineclip" in shell]


def _command(rule: str, shell: str) -> Command:
    words = shlex.split(shell.replace("\\\n", " "))
    verb, *rest = words[words.index("fineclip") + 1 :]
    options: dict[str, list[str]] = {}
    for word in rest:
        if word.startswith("--"):
            options[word] = []
        else:
            options[list(options)[-1]].append(word)
    return Command(rule, verb, options)


def pretend_finished(folder: Path, *targets: str) -> None:
    """Let Snakemake record every job as done; the outputs are empty maps."""
    done = snakemake(folder, "--dry-run", *targets)
    for outputs in re.findall(r"^    output: (.*)$", done.stdout + done.stderr, flags=re.MULTILINE):
        for name in outputs.split(", "):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    run_all(folder, "--touch", "--forceall", *targets)
