"""Planned shards, runs and benchmarks, and the key of each job, for the Snakefile. Imports no torch."""

import logging
import os
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from fineclip.config import (
    Blip2Caption,
    BoxesFilesDetect,
    BoxesJsonDetect,
    CaptionsJsonCaption,
    CocoSource,
    Config,
    EncoderConfig,
    FolderSource,
    Run,
    WeightsConfig,
    YoloDetect,
)
from fineclip.errors import ConfigError
from fineclip.evals.index import annotations_of, folders_of, missing
from fineclip.identity import canonical, identity, planned_key
from fineclip.readers.box_files import names_file, require_names
from fineclip.readers.files import directory_fingerprint
from fineclip.stages.declaration import Stage, stages
from fineclip.stages.source.shard_plan import (
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
    """The configuration together with the inputs on disk.

    Args:
        config: The validated configuration.

    Attributes:
        config: The validated configuration.
        dataset: Name of the folder under data/ and results/.
        shards: Planned shards by name, in the order in which scales use them.
        runs: Planned runs by id, pretrained encoders included.
        trained: Ids of the runs that are trained.
        untrained: Ids of the runs that are pretrained encoders without training.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._fingerprints: dict[Path, str] = {}
        self.dataset = config.dataset.folder
        require_outside(config.source, Path("data") / self.dataset)
        of_source = planned_shards(config.source)
        self._available = len(of_source)
        self.shards: dict[str, PlannedShard] = {shard.name: shard for shard in longest_prefix(config, of_source)}
        self._require_external()
        self.runs: dict[str, Run] = config.runs()
        self.trained = [name for name, run in self.runs.items() if run.method]
        self.untrained = [name for name, run in self.runs.items() if not run.method]

    def prefix(self, scale: str) -> list[str]:
        """Return the names of the shards that a scale may need, in order."""
        return list(self.shards)[: prefix_length(self.config, scale, available=self._available)]

    @cached_property
    def benchmarks(self) -> list[str]:
        """Return the planned benchmarks whose data exists.

        Returns:
            Names in the order of `plan.benchmarks`.

        Raises:
            ConfigError: The data of a benchmark with `if_missing: error` does not exist.
        """
        return [name for name in self.config.plan.benchmarks if self._is_there(name)]

    @cached_property
    def left_out(self) -> list[str]:
        """Return the benchmarks of `select.exclude` whose data exists."""
        return [name for name in self.config.select.exclude if self._is_there(name)]

    @property
    def source_annotations(self) -> list[str]:
        """Return the JSON files or the table of captions that `index-source` reads beside the images."""
        source = self.config.source
        if isinstance(source, CocoSource):
            return [f"{source.root}/{name}" for name in (source.captions, source.instances) if name]
        table = captions_table(source) if isinstance(source, FolderSource) else None
        return [str(table)] if table else []

    @property
    def source_fingerprint(self) -> str | None:
        """Return the fingerprint of names, sizes and times in the folder of images; None for a source without a listing."""
        folder = image_folder(self.config.source)
        return None if folder is None else self._fingerprint(folder)

    def benchmark_annotations(self, name: str) -> list[str]:
        """Return the JSON file that `index` reads beside the images of a benchmark, if it exists."""
        return [str(path) for path in annotations_of(self.config.benchmarks[name]) if path.is_file()]

    def benchmark_fingerprint(self, name: str) -> list[str]:
        """Return the fingerprint of names, sizes and times in each folder of images and masks of a benchmark."""
        folders = [folder for folder in folders_of(self.config.benchmarks[name]) if folder.is_dir()]
        return [self._fingerprint(folder) for folder in folders]

    @property
    def check_config(self) -> str:
        """Return the sections of the configuration that an audit reads, as JSON of a whole configuration."""
        unread: Any = dict.fromkeys(("runtime", "encoders", "concepts", "methods", "loader", "train", "variants"), True)
        unread |= {"plan": {"encoders", "methods", "variants", "seeds"}, "substitutes": {"encoder"}}
        values = self.config.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=unread)
        return canonical(values | {"encoders": {}, "plan": values["plan"] | {"encoders": []}})

    def is_external(self, kind: str, name: str) -> bool:
        """Return whether an entry of `detect` or `caption` reads the table of `import-annotations`."""
        return isinstance(getattr(self.config, kind)[name], BoxesJsonDetect | BoxesFilesDetect | CaptionsJsonCaption)

    def external_json(self, kind: str, name: str) -> list[str]:
        """Return the files that `import-annotations` reads for an entry: a JSON, a table, or class names. None for other engines."""
        entry = getattr(self.config, kind)[name]
        if isinstance(entry, BoxesFilesDetect) and entry.format != "csv":
            names = names_file(entry)
            return [] if names is None else [str(names)]
        return [entry.path] if self.is_external(kind, name) else []

    def external_fingerprint(self, kind: str, name: str) -> str | None:
        """Return the fingerprint of the folder of boxes of an entry; None for entries without one."""
        entry = getattr(self.config, kind)[name]
        has_folder = isinstance(entry, BoxesFilesDetect) and entry.format != "csv"
        return directory_fingerprint(Path(entry.path)) if has_folder else None

    def weights(self, kind: str, name: str) -> WeightsConfig | None:
        """Return the weights of a catalog entry, or None if it needs none."""
        if kind == "tokenizers":
            return self.config.encoders[name].tokenizer
        entry = getattr(self.config, kind)[name]
        return entry.weights if isinstance(entry, YoloDetect | Blip2Caption | EncoderConfig) else None

    def local_weights(self, kind: str, name: str) -> list[str]:
        """Return the file or folder of weights that the user brings, if the entry names one that exists."""
        found = self.weights(kind, name)
        return [found.path] if found and found.path and Path(found.path).exists() else []

    def needed_weights(self) -> list[tuple[str, str]]:
        """Return (kind, name) of every model that planned jobs use."""
        models = [("detect", self.config.regions), ("caption", self.config.captions)]
        for encoder in self.config.planned_encoders:
            models += [("encoders", encoder), ("tokenizers", encoder)]
        return [(kind, name) for kind, name in models if self.weights(kind, name)]

    def key(self, stage: str, **names: str) -> str:
        """Return the part of a job's key that is known before it runs, as JSON: version and configuration.

        Args:
            stage: Name of a stage, or `index`, `evaluate`, `train`, `pretrained` or `report`.
            **names: Wildcards of the job.

        Returns:
            Equal text for jobs that need not run again.
        """
        config = self.config
        match stage:
            case "index":
                return planned_key(version_of("evals", "index"), identity(config.benchmarks[names["benchmark"]]))
            case "evaluate":
                benchmarks = {name: self._benchmark(name) for name in self.benchmarks}
                return planned_key(version_of("evals", "evaluate"), {"benchmarks": benchmarks})
            case "train" | "pretrained":
                return planned_key(version_of("train", "run"), self._training(self.runs[names["run"]]))
            case "report":
                values = config.model_dump(
                    mode="json", by_alias=True, exclude_defaults=True, exclude={"runtime", "check"}
                )
                return planned_key(version_of("report", "page"), values)
        return planned_key(stages()[stage].version, self._stage_config(stages()[stage], names))

    def _stage_config(self, declared: Stage, names: Mapping[str, str]) -> dict[str, Any]:
        """Return the values of a stage's section that are part of its key."""
        match declared.name:
            case "select":
                scale = self.config.scales[names["scale"]]
                return identity(self.config.select) | {
                    "scale": {"images": scale.images, "allow_fewer": scale.allow_fewer}
                }
            case "weights":
                weights = self.weights(names["kind"], names["name"])
                return {} if weights is None else identity(weights)
            case _ if not declared.section:
                return {}
        found: Any = self.config
        for part in declared.section.split("."):
            name = part.format(**names)
            found = found[name] if isinstance(found, Mapping) else getattr(found, name)
        return declared.key(found)

    def _benchmark(self, name: str) -> dict[str, Any]:
        benchmark = self.config.benchmark(name)
        return identity(benchmark) | {"benchmark_version": version_of("evals/benchmarks", benchmark.kind)}

    def _training(self, run: Run) -> dict[str, Any]:
        encoder = {"encoder": identity(self.config.encoders[run.encoder])}
        if run.method is None:
            return encoder
        options = self.config.options(run)
        unused = () if options.can_cache_texts else ("cached_texts",)  # without effect on this run
        return encoder | {
            "method": run.method,
            "method_version": version_of("methods", run.method),
            "options": identity(options),
            "loader": {name: value for name, value in identity(self.config.loader).items() if name not in unused},
            "train": identity(self.config.training(run)),
        }

    def _fingerprint(self, folder: Path) -> str:
        """Return the fingerprint of a folder, read once: benchmarks share folders."""
        if folder not in self._fingerprints:
            self._fingerprints[folder] = directory_fingerprint(folder)
        return self._fingerprints[folder]

    def _require_external(self) -> None:
        for kind, name in (("detect", self.config.regions), ("caption", self.config.captions)):
            entry = getattr(self.config, kind)[name]
            if isinstance(entry, BoxesFilesDetect) and entry.format != "csv" and not Path(entry.path).is_dir():
                raise ConfigError(f"{kind}.{name}.path: {entry.path}: no such folder. Put it there, or name another.")
            if isinstance(entry, BoxesFilesDetect):
                require_names(entry, where=f"{kind}.{name}")
            for path in self.external_json(kind, name):
                if not Path(path).is_file():
                    wrong = "path" if path == entry.path else "names"
                    raise ConfigError(f"{kind}.{name}.{wrong}: {path}: no such file. Put it there, or name another.")

    def _is_there(self, name: str) -> bool:
        benchmark = self.config.benchmarks[name]
        absent = missing(benchmark)
        if absent and benchmark.if_missing == "error":
            raise ConfigError(f"benchmarks.{name}: {absent} Provide it, or set benchmarks.{name}.if_missing: skip.")
        if absent:
            log.warning("benchmark %s is left out: %s", name, absent)
        return not absent


def run_this_checkout(workflow_folder: str) -> None:
    """Let jobs run the code of this checkout with the Python of this Snakemake.

    Under `--sdm conda` the Python of the job's environment comes first on PATH.

    Args:
        workflow_folder: The folder `workflow/` of the checkout.
    """
    os.environ["PATH"] = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), os.environ.get("PATH")]))
    root, others = str(Path(workflow_folder).parent), os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([root, others]) if others else root
