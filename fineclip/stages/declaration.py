"""Declaration of a stage: name, version, configuration, inputs, row type and drop reasons, stated once beside its function.

The verb of the command line, the key of a job, the order of the stages and the table in the docs follow from it.
A module below `fineclip.stages` that holds a function under `@stage(...)` is found automatically.
"""

import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from fineclip.identity import identity
from fineclip.shards import Job, Row, TableWriter

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True, kw_only=True)
class Input:
    """A manifest that a stage reads, or several.

    Attributes:
        stage: Name of the stage that made it; also the name of its option, unless `option` is set.
        reads: Types of the rows that are read, of its table and of tables that it leads to. None for files of a model.
        note: Text after the name of the verb in the help of the option.
        option: Name of the option without dashes.
        required: Whether a job always has one.
        many: Whether a job may have several; the function then gets a list.
    """

    stage: str
    reads: tuple[type[Row], ...] = ()
    note: str = ""
    option: str = ""
    required: bool = True
    many: bool = False

    @property
    def flag(self) -> str:
        """Name of the option with dashes."""
        return f"--{self.option or self.stage}"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the workflow.

    Attributes:
        name: Name in manifests and paths; also of the verb, unless `verb` is set.
        version: Version of the output for the same inputs; after a change every job runs again.
        help: One line about the verb.
        config: Type of the section of the configuration: a model or a union of models.
        section: Place of that section in the configuration, such as `detect.{regions}`.
        inputs: Manifests that are read, by the parameter of the function that takes them.
        row: Type of the rows of the table that is written; None for a stage that writes other files.
        reasons: Why a row is dropped, by the reason that the table states.
        options: Other options of the verb, by parameter: keyword arguments of `argparse`'s `add_argument`.
        batch_size: Default batch size of a stage that runs a model; None for the others.
        key: Function from the section to the values that are part of the key of a job.
        verb: Name of the verb.
    """

    name: str
    version: int
    help: str
    config: Any
    section: str = ""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    row: type[Row] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch_size: int | None = None
    key: Callable[[Any], dict[str, Any]] = identity
    verb: str = ""

    def job(
        self, manifest: Path, config: BaseModel | Mapping[str, Any], inputs: Sequence[Path] | Mapping[str, str]
    ) -> Job:
        """Return a job of this stage.

        Args:
            manifest: File that the job writes last.
            config: Section of the configuration, or the values that are part of the key.
            inputs: Manifests, or a map of names to hashes for inputs that are no manifests.

        Returns:
            The job, with the name and version of the stage.
        """
        return Job(manifest, stage=self.name, version=self.version, config=config, inputs=inputs)

    def table(self, job: Job, *, also: tuple[Path, ...] = ()) -> TableWriter[Any]:
        """Return the writer of the table of a job, which accepts only declared reasons; `also` are other outputs."""
        if self.row is None:
            raise AssertionError(f"stage {self.name} declares no row type")
        return TableWriter(job, self.row, also=also, reasons=self.reasons)

    def write_table(
        self,
        manifest: Path,
        config: BaseModel | Mapping[str, Any],
        inputs: Sequence[Path] | Mapping[str, str],
        rows: Callable[[], Iterable[Row]],
        *,
        also: tuple[Path, ...] = (),
    ) -> None:
        """Write the table of a job and then its manifest, or nothing if both are up to date.

        Args:
            manifest: File that the job writes last; the table is written beside it.
            config: Section of the configuration, or the values that are part of the key.
            inputs: Manifests, or a map of names to hashes for inputs that are no manifests.
            rows: Function that makes the rows, called if the job must run. If it raises, nothing is written.
            also: Other outputs, complete after the last row.
        """
        job = self.job(manifest, config, inputs)
        if job.is_up_to_date():
            return
        with self.table(job, also=also) as table:
            for row in rows():
                table.write(row)


def catalog_entry(*kinds: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the options of a verb that takes an entry of a catalog; `kinds` are the catalogs."""
    return {
        "kind": {"required": True, "choices": kinds, "help": "catalog of the entry"},
        "name": {"required": True, "help": "name of the entry in the catalog"},
    }


_FUNCTIONS: dict[str, Callable[..., None]] = {}
_DECLARED: dict[str, Stage] = {}


def stage(declared: Stage) -> Callable[[F], F]:
    """Decorate the function of a stage.

    The verb calls it with `manifest`, `config`, each input and each option by its parameter and, if the stage runs a
    model, `batch_size` and `device`.
    """

    def register(function: F) -> F:
        _DECLARED[declared.name], _FUNCTIONS[declared.name] = declared, function
        return function

    return register


def function_of(name: str) -> Callable[..., None]:
    """Return the function of a stage."""
    return _FUNCTIONS[name]


@cache
def stages() -> Mapping[str, Stage]:
    """Return every stage by its name, each after the stages that it reads from; otherwise in reverse alphabetical order."""
    package = import_module("fineclip.stages")
    for module in pkgutil.walk_packages(package.__path__, "fineclip.stages."):
        import_module(module.name)
    ordered: dict[str, Stage] = {}
    while waiting := [one for name, one in sorted(_DECLARED.items(), reverse=True) if name not in ordered]:
        ready = [one for one in waiting if not {needed.stage for needed in one.inputs.values()} - {*ordered, "index"}]
        if not ready:
            raise AssertionError(
                f"stages {[one.name for one in waiting]} read from a stage that is not declared, or in a circle"
            )
        ordered |= {one.name: one for one in ready}
    return ordered


def lineage(name: str) -> tuple[str, ...]:
    """Return the stages that a shard passes through up to this one: each is the first required input of the next."""
    required = [needed.stage for needed in stages()[name].inputs.values() if needed.required]
    return (*lineage(required[0]), name) if required else (name,)


def verb_of(name: str) -> str:
    """Return the verb that makes the manifest of a stage."""
    made_by = stages().get(name)
    return made_by.verb or name if made_by else name


def markdown() -> str:
    """Return the tables of stages and of drop reasons for the docs."""
    lines = ["| verb | reads | writes | what it does |", "|---|---|---|---|"]
    for name, one in stages().items():
        reads = ", ".join(dict.fromkeys(f"`{verb_of(needed.stage)}`" for needed in one.inputs.values()))
        row = f"`{one.row.__name__}`" if one.row else ""
        lines.append(f"| `{verb_of(name)}` | {reads} | {row} | {one.help} |")
    lines += ["", "| verb | reason | a sample is dropped because |", "|---|---|---|"]
    lines += [
        f"| `{verb_of(name)}` | `{reason}` | {text} |"
        for name, one in stages().items()
        for reason, text in one.reasons.items()
    ]
    return "\n".join(lines) + "\n"
