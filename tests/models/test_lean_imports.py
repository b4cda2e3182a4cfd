"""Heavy libraries that the modules of each verb import; deferred and hidden libraries still work."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    "huggingface_hub",
    "matplotlib",
    "open_clip",
    "pandas",
    "polars",
    "scipy",
    "sympy",
    "timm",
    "torch",
    "torch._dynamo",
    "torchvision",
    "transformers",
    "triton",
    "ultralytics",
]
ENCODER = {"torch", "torchvision", "timm", "open_clip"}
VERBS = {  # module of the verb: what it may import at its start
    "fineclip": set(),
    "fineclip.stages.source.shard": set(),
    "fineclip.stages.filter": set(),
    "fineclip.stages.select": set(),
    "fineclip.stages.detect": set(),
    "fineclip.stages.caption": set(),
    "fineclip.stages.pack": set(),
    "fineclip.stages.embed_texts": set(),
    "fineclip.evals.index": set(),
    "fineclip.report.page": set(),
    "fineclip.models.detector": {"torch"},
    "fineclip.evals.evaluate_file": ENCODER,
    "fineclip.train.run": ENCODER,
    "fineclip.models.features": ENCODER,
}


def run(code: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_modules_of_a_verb_import_only_what_it_runs() -> None:
    """Light modules first, so that one process shows what each of them adds."""
    code = f"""
import importlib, sys
from fineclip.models.lean_imports import hide_hugging_face
hide_hugging_face()
for name in {list(VERBS)}:
    importlib.import_module(name)
    print(name, *(heavy for heavy in {HEAVY} if heavy in sys.modules))
"""
    found = {name: set(rest) for name, *rest in (line.split() for line in run(code).splitlines())}
    assert found == VERBS


def test_jobs_of_tables_import_no_heavy_library(tmp_path: Path) -> None:
    """The verbs `source` and `filter` write and read tables; pyarrow imports pandas in some of its functions."""
    code = f"""
import json, sys
from pathlib import Path
from fineclip.cli.main import main
folder, source = Path({str(tmp_path)!r}), dict(kind="miniature", images=8, images_per_shard=8)
job = ["--shard", "s", "--shard-index", "0/1", "--config", json.dumps(source)]
for words in (
    ["source", "--manifest", str(folder / "source.json"), *job],
    ["filter", "--source", str(folder / "source.json"), "--manifest", str(folder / "filter.json")],
):
    sys.argv[1:] = words
    assert main() == 0
assert (folder / "filter.json").is_file()
print(*(heavy for heavy in {HEAVY} if heavy in sys.modules))
"""
    assert run(code) == ""


def test_hidden_libraries_can_be_imported_afterwards() -> None:
    code = """
from fineclip.models.lean_imports import hide_hugging_face
hide_hugging_face()
import open_clip.hf_model, timm.models._hub
import huggingface_hub, transformers
print(open_clip.hf_model.transformers, timm.models._hub._has_hf_hub, transformers.__name__)
"""
    assert run(code) == "None False transformers"


def test_pandas_can_be_imported_afterwards() -> None:
    """Also pyarrow works with its types, but does not know them."""
    pytest.importorskip("pandas")
    code = """
import sys, warnings
from fineclip.models.lean_imports import hide_pandas
warnings.simplefilter("error")
hide_pandas()
warnings.resetwarnings()
import pyarrow
assert pyarrow.array([[1], None]).to_pylist() == [[1], None] and "pandas" not in sys.modules
import pandas
print(pandas.Series([1]).sum())
"""
    assert run(code) == "1"


def test_a_program_keeps_the_libraries_and_the_compiler() -> None:
    """Without a command nothing is hidden; the compiler is imported by the first call that needs it, and works."""
    pytest.importorskip("transformers")
    code = """
import sys, torch
before = torch.compiler.disable
import fineclip.models.encoder
import open_clip.hf_model, timm.layers, torchvision
assert "torch._dynamo" not in sys.modules and torch.compiler.disable is before
assert timm.layers.disable_compiler(lambda: 1)() == 1 and "torch._dynamo" in sys.modules
supported = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert supported("cpu") == sys.modules["torch._dynamo.utils"].is_compile_supported("cpu")
map_, boxes = torch.rand(1, 3, 8, 8), torch.tensor([[0, 0, 0, 4.0, 4.0]])
pool = lambda map_: torchvision.ops.roi_align(map_, boxes, (1, 1))
assert torch.equal(torch.compile(pool, backend="eager")(map_), pool(map_))
print(open_clip.hf_model.transformers.__name__)
"""
    assert run(code) == "transformers"


def test_other_names_of_the_compiler_are_imported_at_once() -> None:
    """Another version of torchvision may import more than the one function."""
    code = """
import sys, torch
from fineclip.models.lean_imports import _function_of_compiler
with _function_of_compiler():
    from torch._dynamo.utils import is_compile_supported, counters
import torch._dynamo.utils
print(counters is torch._dynamo.utils.counters, is_compile_supported("cpu"))
"""
    assert run(code) == "True True"


def test_collection_of_garbage_resumes_after_the_imports() -> None:
    code = """
import gc
from fineclip.models.lean_imports import import_without_collection
import_without_collection()
seen = []
gc.callbacks.append(lambda phase, info: seen.append(phase))
import fineclip.models.encoder
during = len(seen)
cycles = [[] for _ in range(100_000)]
print(during < 20, gc.isenabled(), len(seen) > during)
"""
    assert run(code) == "True True True"
