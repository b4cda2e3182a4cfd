"""Each kind of benchmark is declared in its own file, named as its configuration section."""

import doctest
import subprocess
import sys
from importlib import import_module
from typing import get_args

import pytest

from fineclip.config import BenchmarkConfig
from fineclip.evals.benchmarks import KINDS, benchmark_of


def test_each_section_has_a_benchmark() -> None:
    sections = get_args(get_args(BenchmarkConfig)[0])
    kinds = [get_args(section.model_fields["kind"].annotation) for section in sections]
    assert sorted(kind for [kind] in kinds) == list(KINDS) == ["boxes", "retrieval"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_declaration_is_whole(kind: str) -> None:
    benchmark = benchmark_of(kind)
    assert benchmark.version == import_module(f"fineclip.evals.benchmarks.{kind}").VERSION
    assert benchmark.title
    assert all(sentence.count("{value}") == 1 for sentence in benchmark.sentences.values())


def test_declarations_import_no_torch() -> None:
    code = "import sys; from fineclip.evals.benchmarks import KINDS, benchmark_of; [benchmark_of(k) for k in KINDS]"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


MODULES = ("benchmarks", "benchmarks.boxes", "benchmarks.retrieval", "metrics")


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str) -> None:
    found = doctest.testmod(import_module(f"fineclip.evals.{module}"))
    assert (found.failed, found.attempted > 0) == (0, True)
