"""Files that users bring are decoded and parsed in fineclip/readers; elsewhere only files that the package wrote or ships."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "fineclip"
PARSERS = {"json": {"load", "loads"}, "csv": {"reader", "DictReader"}, "codecs": {"open", "decode"}}

# Calls that read no file of a user, by file: what they read.
INTERNAL = {
    "check/page.py": {".decode"},  # base64
    "cli/options.py": {"json.loads"},  # a word of the command line
    "evals/evaluate.py": {"json.loads"},  # scores of an earlier job
    "evals/index.py": {"json.loads"},  # classes beside an index
    "models/flops.py": {"csv.DictReader"},  # a table of the package
    "report/costs.py": {"csv.DictReader"},  # Snakemake's benchmark files
    "report/result_files.py": {".decode"},  # the end of a log
    "report/runs.py": {"json.loads"},  # metrics of a run
    "report/samples.py": {".decode"},  # base64, and the beginning of a page shown instead of an image
    "shards/manifest.py": {"json.loads"},
    "shards/packed.py": {"json.loads"},
    "shards/texts.py": {"json.loads"},
    "stages/weights.py": {"json.loads"},  # the record beside fetched weights
    "train/checkpoint.py": {"json.loads"},
    "train/metrics.py": {"json.loads"},
    "train/selection.py": {".decode"},  # keys of samples
}


def parsing_calls(source: str) -> Iterator[str]:
    """Yield `.decode` for each call of a method of this name, and the names of parsers of text, also imported by name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in PARSERS:
            yield from (f"{node.module}.{name.name}" for name in node.names if name.name in PARSERS[node.module])
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner, method = ast.unparse(node.func.value), node.func.attr
        if method in PARSERS.get(owner, ()):
            yield f"{owner}.{method}"
        elif method == "decode":
            yield ".decode"


def test_users_files_are_parsed_by_the_readers_alone() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): calls
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent.name != "readers" and (calls := set(parsing_calls(path.read_text(encoding="utf-8"))))
    }
    assert found == INTERNAL, "read files of users with fineclip.readers; name other calls in INTERNAL"


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("path.read_bytes().decode('utf-8')", [".decode"]),
        ("json.loads(path.read_text())", ["json.loads"]),
        ("with path.open() as file:\n    json.load(file)", ["json.load"]),
        ("for row in csv.reader(file): pass", ["csv.reader"]),
        ("from csv import DictReader as Rows", ["csv.DictReader"]),
        ("from json import dumps, loads", ["json.loads"]),
        ("codecs.decode(b, 'utf-8')", ["codecs.decode"]),
        ("decode_text(content), parse_json(content), json.dumps({}), 'a'.encode()", []),
    ],
)
def test_a_parsing_call_is_noticed(source: str, calls: list[str]) -> None:
    assert list(parsing_calls(source)) == calls
