"""Every module that states a VERSION, the case that runs it on a small fixed input, and what was recorded of that.

    cases_<family>.py         the cases: each gives what came out in plain JSON values
    recorded/<module>.json    {"version": n, "after": {module: version}, "output": ...}
    record.py                 writes what is recorded

A case runs in an empty working directory with one thread. What it gives must be the same on every machine, but for
rounding inside the tolerance that it states: inputs are made by whole numbers, and what an encoder of JPEG or PNG made is
never hashed. `after` names the modules whose output the case starts from or passes on: when one of them has a new
version, the case is recorded again and its own module's version stays.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import fineclip
from fineclip.stages.declaration import function_of, stages
from fineclip.versions import version_of

HERE = Path(__file__).parent
RECORDED = HERE / "recorded"
PACKAGE = Path(fineclip.__file__).parent
COMMAND = "python -m tests.versions.record"
MOST_SHOWN = 8  # differences in one message


@dataclass(frozen=True)
class Case:
    """How one module is run, and how far numbers may lie from those recorded.

    Two numbers are the same if they differ by less than `relative` of the larger or less than `absolute`; under a place
    that `loose` names, by less than the number given there.
    """

    run: Callable[[], Any]
    after: tuple[str, ...] = ()
    relative: float = 1e-6
    absolute: float = 1e-6
    loose: Mapping[str, float] = field(default_factory=dict)

    def is_same(self, recorded: Any, found: Any, place: str) -> bool:
        """Whether a value stands for the one recorded; only numbers have a tolerance."""
        kinds = {type(recorded), type(found)}
        if float in kinds and kinds <= {int, float}:
            loose = [value for prefix, value in self.loose.items() if place.startswith(f"output.{prefix}")]
            return math.isclose(recorded, found, rel_tol=self.relative, abs_tol=max(loose, default=self.absolute))
        return type(recorded) is type(found) and recorded == found

    def output(self) -> Any:
        """What comes out, as it will be read back from JSON."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with TemporaryDirectory() as folder, chdir(folder):
                return json.loads(json.dumps(self.run()))
        finally:
            torch.set_num_threads(threads)


_CASES: dict[str, Case] = {}


def add_case(module: str, case: Case) -> None:
    """Let `case` stand for `fineclip.<module>`."""
    if module in _CASES:
        raise AssertionError(f"{module} has two cases")
    _CASES[module] = case


def case(module: str, **more: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Decorates the function that runs `fineclip.<module>`; `more` are the other fields of `Case`."""

    def added(run: Callable[[], Any]) -> Callable[[], Any]:
        add_case(module, Case(run, **more))
        return run

    return added


@cache
def cases() -> Mapping[str, Case]:
    """Of every `cases_*.py` beside this file, by module."""
    for path in sorted(HERE.glob("cases_*.py")):
        import_module(f"tests.versions.{path.stem}")
    return _CASES


def versions() -> dict[str, int]:
    """Return the version of each stage, and of each module of the package that states a VERSION, by its name.

    The listing of a source is part of the case of `stages.source`.
    """
    found = {f"stages.{name}": declared.version for name, declared in stages().items() if name != "list"}
    for path in sorted(PACKAGE.rglob("*.py")):
        if re.search(r"^VERSION\b", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            place = (path.parent if path.name == "__init__.py" else path.with_suffix("")).relative_to(PACKAGE)
            found[".".join(place.parts)] = version_of(place.parent.as_posix(), place.name)
    return found


def file_of(module: str) -> str:
    """Where a module is written, for messages."""
    family, _, name = module.partition(".")
    if family == "stages" and name in stages():
        return f"{function_of(name).__module__.replace('.', '/')}.py"
    path = PACKAGE.joinpath(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).relative_to(PACKAGE.parent).as_posix()


def record_of(module: str) -> Path:
    """The file of what was recorded."""
    return RECORDED / f"{module}.json"


def stated(module: str, one: Case, now: Mapping[str, int]) -> dict[str, Any]:
    """The versions that a record belongs to."""
    return {"version": now[module], "after": {name: now[name] for name in one.after}}


def complaint(module: str, known: Mapping[str, Case], now: Mapping[str, int]) -> str | None:
    """What is wrong with the output of a module or with its record, and what to do; None if nothing is."""
    if module not in known:
        return (
            f"{file_of(module)} states a VERSION, but nothing is recorded of what it puts out. Add a case for {module} to"
            f" one of tests/versions/cases_*.py, then run `{COMMAND} {module}`"
        )
    path, one = record_of(module), known[module]
    if not path.is_file():
        return f"nothing is recorded of {module}. Run `{COMMAND} {module}`"
    recorded = json.loads(path.read_text(encoding="utf-8"))
    output, belongs = recorded.pop("output"), stated(module, one, now)
    if recorded != belongs:
        return f"{path.name} was recorded for {recorded}, and the code says {belongs}. Run `{COMMAND} {module}`"
    changes = list(differences(output, one.output(), one))
    if not changes:
        return None
    more = [f"and {len(changes) - MOST_SHOWN} more"] if len(changes) > MOST_SHOWN else []
    shown = "\n  ".join([*changes[:MOST_SHOWN], *more])
    return (
        f"the output of {module} changed:\n  {shown}\nIf that is meant: raise VERSION in {file_of(module)}, so that results"
        f" are made again, and run `{COMMAND}`. If only its case in tests/versions changed: `{COMMAND} {module} --case-changed`"
    )


def differences(recorded: Any, found: Any, one: Case, place: str = "output") -> Iterator[str]:
    """A sentence for each value that is not the one recorded, with its place."""
    if isinstance(recorded, dict) and isinstance(found, dict):
        for name in [*recorded, *(name for name in found if name not in recorded)]:
            inside = f"{place}.{name}"
            if name not in found or name not in recorded:
                yield f"{inside}: {'is gone' if name in recorded else 'is new'}"
            else:
                yield from differences(recorded[name], found[name], one, inside)
    elif isinstance(recorded, list) and isinstance(found, list):
        if len(recorded) != len(found):
            yield f"{place}: {len(recorded)} values were recorded, now there are {len(found)}"
        for index, (before, now) in enumerate(zip(recorded, found, strict=False)):
            yield from differences(before, now, one, f"{place}[{index}]")
    elif not one.is_same(recorded, found, place):
        yield f"{place}: {json.dumps(recorded)} was recorded, now {json.dumps(found)}"
