"""Import torchvision, timm, open_clip and pyarrow without libraries that they import but no job uses.

* `torch._dynamo`, the compiler of torch. torchvision imports it for one function that `roi_align` calls on a GPU under
  deterministic algorithms, and timm for a decorator in one of its models. `defer_compiler` defers it to the first call.
* `transformers` and `huggingface_hub`, which open_clip and timm import where they are installed, for text towers of
  Hugging Face (rejected by `architecture`) and for downloads (done by `fineclip weights`). `hide_hugging_face` hides them
  while open_clip and timm are imported.
* `pandas`, which pyarrow imports to test whether a list is a Series. `hide_pandas` lets pyarrow work without.

`import_without_collection` stops garbage collection while large libraries are imported, and excludes their objects from later
collections: they are never garbage, and a collection visits every object.

Only commands hide libraries: a program that imports `fineclip` gets them unchanged. The first two change the imports of one
upstream module while it is executed for the first time.
"""

import gc
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo.utils"
LARGE = ("torch", "fineclip.models.encoder", "fineclip.models.detector", "fineclip.models.captioner.blip2")


def defer_compiler() -> None:
    """Let later imports of torchvision and timm leave torch._dynamo to the first call that needs it."""
    contexts = {"torchvision.ops.roi_align": _function_of_compiler, "timm.layers.typing": _decorator_of_compiler}
    sys.meta_path.insert(0, _ContextFinder(contexts))


def hide_hugging_face() -> None:
    """Let later imports of open_clip and timm find neither transformers nor huggingface_hub."""
    sys.meta_path.insert(0, _ContextFinder({"open_clip": _without_hugging_face, "timm": _without_hugging_face}))


def hide_pandas() -> None:
    """Let pyarrow search for pandas now, without a result. It does not search again."""
    import pyarrow as pa

    finders, sys.meta_path[:] = list(sys.meta_path), []
    try:
        with warnings.catch_warnings(action="ignore", category=ImportWarning):  # there is no finder
            pa.array([])
    finally:
        sys.meta_path[:] = finders


def import_without_collection() -> None:
    """Let later imports of torch, open_clip, ultralytics and transformers run without garbage collection, and enable it now."""
    gc.freeze()
    gc.enable()
    sys.meta_path.insert(0, _ContextFinder(dict.fromkeys(LARGE, _without_collection)))


class _ContextFinder(MetaPathFinder):
    """Find modules where Python finds them, and execute each within a context.

    Args:
        contexts: By name of the module.
    """

    def __init__(self, contexts: Mapping[str, Callable[[], AbstractContextManager[None]]]) -> None:
        self._contexts = contexts

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module that has a context.

        Args:
            name: Full name of the module.
            path: `__path__` of its package; None for a top-level module.
            target: Not used.

        Returns:
            Spec whose `exec_module` runs within the context; None for other modules, so that Python goes on searching.
        """
        context = self._contexts.get(name)
        spec = None if context is None else PathFinder.find_spec(name, path, target)
        if context is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_in_context(module: ModuleType) -> None:
            with context():
                execute(module)

        spec.loader.exec_module = execute_in_context  # type: ignore[method-assign]
        return spec


@contextmanager
def _in_place_of(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Replace modules that are not imported yet; imports of None fail as if the library were not installed."""
    added = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(added)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in added.items():
            if sys.modules.get(name, ...) is module:
                del sys.modules[name]


class _StandIn(ModuleType):
    @staticmethod
    def is_compile_supported(device: Any) -> Any:
        """Import the compiler and return its answer."""
        return import_module(COMPILER).is_compile_supported(device)

    def __getattr__(self, name: str) -> Any:
        """Import the compiler for any other name, which another version of torchvision may import."""
        if name.startswith("__"):
            raise AttributeError(name)
        del sys.modules[COMPILER]
        return getattr(import_module(COMPILER), name)


@contextmanager
def _without_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def _without_hugging_face() -> AbstractContextManager[None]:
    """Let imports of both libraries fail."""
    return _in_place_of({"transformers": None, "huggingface_hub": None})


def _function_of_compiler() -> AbstractContextManager[None]:
    """Replace the module that `is_compile_supported` is imported from."""
    return _in_place_of({COMPILER: _StandIn(COMPILER)})


@contextmanager
def _decorator_of_compiler() -> Iterator[None]:
    """Replace `torch.compiler.disable`, which imports the compiler to decorate, by torch's own decorator that does not."""
    import torch
    from torch._compile import _disable_dynamo

    disable, torch.compiler.disable = torch.compiler.disable, _disable_dynamo  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compiler.disable = disable
