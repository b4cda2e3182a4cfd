"""Record what the modules with a VERSION put out now: `python -m tests.versions.record [module ...] [--case-changed]`.

Without names: whatever has no record yet, or one of another version. A record whose version still holds is not written
over by another output, because results that were made with that version would pass for new ones: raise VERSION first.
`--case-changed` says that the code is as it was, and only its case puts out something else.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from tests.versions.registry import COMMAND, cases, differences, file_of, record_of, stated, versions

LINE = 120

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> int:
    """Record; 2 if something was refused or has no case."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="module", help="such as stages.filter or methods.clip")
    parser.add_argument("--case-changed", action="store_true", help="write over what the same version put out")
    options = parser.parse_args(arguments)
    known, now = cases(), versions()
    for module in options.modules:
        if module not in known or module not in now:
            parser.error(f"{module} states no VERSION or has no case; there are {', '.join(sorted(known))}")
    due = options.modules or [module for module in sorted(known.keys() & now.keys()) if is_due(module)]
    refused = [module for module in due if not record(module, case_changed=options.case_changed)]
    without = [] if options.modules else sorted(now.keys() - known.keys())
    for module in without:
        log.error("%s states a VERSION and has no case: add one to tests/versions/cases_*.py", file_of(module))
    log.info("%d recorded, %d refused", len(due) - len(refused), len(refused))
    return 2 if refused or without else 0


def is_due(module: str) -> bool:
    """Whether there is no record of it, or one of other versions."""
    return _read(module).get("belongs") != stated(module, cases()[module], versions())


def record(module: str, *, case_changed: bool = False) -> bool:
    """Write down the output of a module; False if that was refused."""
    one = cases()[module]
    before, belongs, output = _read(module), stated(module, one, versions()), one.output()
    if before.get("belongs") == belongs and not case_changed:
        changes = list(differences(before["output"], output, one))
        if changes:
            log.error(
                "%s: version %d is recorded already, and now puts out something else (%s). Raise VERSION in %s first;"
                " if only its case changed, say --case-changed.",
                module, belongs["version"], changes[0], file_of(module),
            )  # fmt: skip
            return False
    record_of(module).write_text(laid_out(belongs | {"output": output}) + "\n", encoding="utf-8")
    log.info("%s: version %d recorded", module, belongs["version"])
    return True


def laid_out(value: Any, depth: int = 0) -> str:
    """JSON in which whatever fits on a line stands on one, so that a change of a record is read as such."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + depth <= LINE or not isinstance(value, dict | list):
        return flat
    inside = "\n" + " " * (depth + 1)
    items = [laid_out(one, depth + 1) for one in (value.values() if isinstance(value, dict) else value)]
    if isinstance(value, dict):
        items = [f"{json.dumps(name, ensure_ascii=False)}: {text}" for name, text in zip(value, items, strict=True)]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}{inside}{(',' + inside).join(items)}\n{' ' * depth}{closing}"


def _read(module: str) -> dict[str, Any]:
    path = record_of(module)
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {"output": content.pop("output"), "belongs": content}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("fineclip").setLevel(logging.ERROR)
    sys.exit(main(sys.argv[1:]))
