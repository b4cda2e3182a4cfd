"""What the Snakefile asks: which shards, runs and benchmarks are planned, and what identifies each. No torch here."""

import logging
import os
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from fineclip.config import (
    Blip2Caption,
    BoxesJsonDetect,
    CaptionsJsonCaption,
    CocoSource,
    Config,
    FolderSource,
    Run,
    WeightsConfig,
    YoloDetect,
    canonical,
    identity,
)
from fineclip.errors import ConfigError
from fineclip.evals.index import missing
from fineclip.stages.given.tables import claim as given_claim
from fineclip.stages.source.files import glance
from fineclip.stages.source.plan import (
    PlannedShard,
    captions_table,
    image_folder,
    longest_prefix,
    planned_shards,
    prefix_length,
    require_outside,
)
from fineclip.versions import version_of

log = logging.getLogger(__name__)


class Plan:
    """A configuration, looked at together with what lies on disk."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.dataset = config.dataset.folder
        require_outside(config.source, Path("data") / self.dataset)
        of_source = planned_shards(config.source)
        self._available = len(of_source)
        self.shards: dict[str, PlannedShard] = {shard.name: shard for shard in longest_prefix(config, of_source)}
        self._require_given()
        self.runs: dict[str, Run] = config.runs()

    def prefix(self, scale: str) -> list[str]:
        """Names of the shards that a scale may need, in order."""
        return list(self.shards)[: prefix_length(self.config, scale, available=self._available)]

    @cached_property
    def benchmarks(self) -> list[str]:
        """Planned benchmarks whose data is there.

        Raises:
            ConfigError: the data of one is absent that says `if_missing: error`.
        """
        return [name for name in self.config.plan.benchmarks if self._is_there(name)]

    @cached_property
    def left_out(self) -> list[str]:
        """Benchmarks whose images no selection takes."""
        return [name for name in self.config.select.leave_out if self._is_there(name)]

    @property
    def annotations(self) -> list[str]:
        """Files that a listing of the source reads, beside the images."""
        match self.config.source:
            case CocoSource(root=root, captions=captions, instances=instances):
                return [f"{root}/{name}" for name in (captions, instances) if name]
            case FolderSource() as folder:
                table = captions_table(folder)
                return [str(table)] if table else []
        return []

    @property
    def glance(self) -> str | None:
        """What a look at the folder of images shows, for the kinds of source that have a listing."""
        folder = image_folder(self.config.source)
        return None if folder is None else glance(folder)

    def given(self, kind: str, name: str) -> list[str]:
        """The JSON of boxes or captions that one entry of `detect` or `caption` reads; nothing where it reads none."""
        entry = self._entry(kind, name)
        return [entry.path] if isinstance(entry, BoxesJsonDetect | CaptionsJsonCaption) else []

    @property
    def trained(self) -> list[str]:
        """Ids of the runs that are trained."""
        return [name for name, run in self.runs.items() if run.method]

    @property
    def untrained(self) -> list[str]:
        """Ids of the encoders as they come."""
        return [name for name, run in self.runs.items() if not run.method]

    def weights(self, kind: str, name: str) -> WeightsConfig | None:
        """The weights of one entry of a catalogue, None where it needs none."""
        if kind == "encoders":
            return self.config.encoders[name].weights
        if kind == "tokenizers":
            return self.config.encoders[name].tokenizer
        entry = self._entry(kind, name)
        return entry.weights if isinstance(entry, YoloDetect | Blip2Caption) else None

    def needed_weights(self) -> list[tuple[str, str]]:
        """(kind, name) of every model that the planned jobs use."""
        models = [("detect", self.config.regions), ("caption", self.config.captions)]
        for encoder in self.config.planned_encoders:
            models += [("encoders", encoder), ("tokenizers", encoder)]
        return [(kind, name) for kind, name in models if self.weights(kind, name)]

    def section(self, stage: str, **names: str) -> str:
        """What identifies a job's result beside its inputs, as JSON: the keys that differ from defaults, the versions."""
        return canonical(
            {"version": version_of(*_MODULES.get(stage, ("stages", stage))), **self._identity(stage, names)}
        )

    def _identity(self, stage: str, names: Mapping[str, str]) -> dict[str, Any]:
        config = self.config
        match stage:
            case "source" | "list":
                return identity(config.source)
            case "filter" | "concepts":
                return identity(getattr(config, stage))
            case "select":
                scale = config.scales[names["scale"]]
                return identity(config.select) | {"scale": {"images": scale.images, "at_most": scale.at_most}}
            case "detect":
                return identity(config.detect[names["regions"]])
            case "caption":
                return identity(config.caption[names["captions"]])
            case "texts":
                return identity(config.encoders[names["encoder"]])
            case "given":
                return given_claim(self._entry(names["kind"], names["model"]))
            case "weights":
                weights = self.weights(names["kind"], names["model"])
                return {} if weights is None else identity(weights)
            case "index":
                return identity(config.benchmarks[names["benchmark"]])
            case "evaluate":
                return {"benchmarks": {name: self._benchmark(name) for name in self.benchmarks}}
            case "report":
                return config.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"runtime"})
            case "train" | "pretrained":
                return self._training(self.runs[names["run"]])
        return {}

    def _benchmark(self, name: str) -> dict[str, Any]:
        benchmark = self.config.benchmark(name)
        return identity(benchmark) | {"benchmark_version": version_of("evals/benchmarks", benchmark.kind)}

    def _training(self, run: Run) -> dict[str, Any]:
        encoder = {"encoder": identity(self.config.encoders[run.encoder])}
        if run.method is None:
            return encoder
        return encoder | {
            "method": run.method,
            "method_version": version_of("methods", run.method),
            "options": identity(self.config.options(run)),
            "loader": self._loader(run),
            "train": identity(self.config.training(run)),
        }

    def _loader(self, run: Run) -> dict[str, Any]:
        """What a run has no use for does not train it again."""
        unused = () if self.config.options(run).takes_embedded_texts else ("cached_texts",)
        return {name: value for name, value in identity(self.config.loader).items() if name not in unused}

    def _entry(self, kind: str, name: str) -> Any:
        catalogue: Mapping[str, Any] = self.config.detect if kind == "detect" else self.config.caption
        return catalogue[name]

    def _require_given(self) -> None:
        for kind, name in (("detect", self.config.regions), ("caption", self.config.captions)):
            for path in self.given(kind, name):
                if not Path(path).is_file():
                    raise ConfigError(f"{kind}.{name}.path: {path}: no such file. Put it there, or name another.")

    def _is_there(self, name: str) -> bool:
        benchmark = self.config.benchmarks[name]
        absent = missing(benchmark)
        if absent and benchmark.if_missing == "error":
            raise ConfigError(f"benchmarks.{name}: {absent} Bring it, or set benchmarks.{name}.if_missing: skip.")
        if absent:
            log.warning("benchmark %s is left out: %s", name, absent)
        return not absent


def run_this_checkout(workflow_folder: str) -> None:
    """Let jobs run the checkout that `workflow/` stands in, with the Python of this Snakemake.

    Under `--sdm conda` it is the Python of the job's environment, which comes first on the path then.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    root, others = str(Path(workflow_folder).parent), os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([root, others]) if others else root


_MODULES = {
    "list": ("stages", "source"),
    "index": ("evals", "index"),
    "train": ("train", "run"),
    "pretrained": ("train", "run"),
    "evaluate": ("evals", "evaluate"),
    "report": ("report", "page"),
}
