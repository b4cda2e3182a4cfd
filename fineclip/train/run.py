"""One run, from manifests to a folder of results: the verbs `train` and `export-baseline`.

    results/<dataset>/<run>/train.json          manifest
                            model.safetensors   exported encoder
                            config.yaml         complete configuration of the run
                            metrics.jsonl       losses, reproducible
                            speed.jsonl         images per second, waiting, memory
                            state/              during training: checkpoints, lock, marker of failure

A pretrained encoder without fine-tuning is a run too, without method and steps.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
import yaml
from pydantic import SerializeAsAny, ValidationInfo, field_validator, model_validator

from fineclip.config import (
    EncoderConfig,
    LoaderConfig,
    MethodConfig,
    RuntimeConfig,
    Section,
    TrainConfig,
    parse,
)
from fineclip.environment import text_of
from fineclip.errors import ConfigError
from fineclip.identity import canonical, identity
from fineclip.methods import METHODS
from fineclip.methods.texts import CachedTexts
from fineclip.methods.transforms import DataSpec
from fineclip.models.checkpoints import ARCHITECTURE, VOCABULARY, WEIGHTS, load_encoder, save_encoder
from fineclip.models.embed_texts import text_tower_hash
from fineclip.models.encoder import RegionEncoder
from fineclip.models.tokenizer import load_tokenizer
from fineclip.shards import Job, hashes_of, write_text
from fineclip.shards.atomic import remove_stale_temp_files
from fineclip.stages.concepts import read_concepts
from fineclip.stages.embed_texts import text_files
from fineclip.stages.upstream import keys_by_shard, manifests_of
from fineclip.stages.weights import vocabulary_at, weights_at
from fineclip.train.checkpoint import CheckpointManager
from fineclip.train.data import Collate, PackedDataset
from fineclip.train.distributed import init_distributed
from fineclip.train.selection import Selection, read_selection
from fineclip.train.train import TrainingRun, train

log = logging.getLogger(__name__)

VERSION = 2  # of the training loop: a change trains again


class RunConfig(Section):
    """Configuration that identifies a training beside its inputs.

    Attributes:
        method: Name of a method.
        method_version: Version of its code.
        encoder: Initial encoder.
        options: Section of the method.
        loader: Section of the loader.
        train: Section of the training, with the seed of the run.
    """

    method: str
    method_version: int
    encoder: EncoderConfig
    options: SerializeAsAny[MethodConfig]
    loader: LoaderConfig = LoaderConfig()
    train: TrainConfig = TrainConfig()

    @field_validator("method")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"{name!r} is not a method; methods are {', '.join(METHODS)}")
        return name

    @field_validator("method_version")
    @classmethod
    def _is_current(cls, version: int, info: ValidationInfo) -> int:
        name = info.data.get("method")
        if name is not None and version != METHODS[name].version:
            raise ValueError(
                f"planned for version {version} of {name}, but the code has version {METHODS[name].version};"
                " start snakemake again"
            )
        return version

    @field_validator("options", mode="before")
    @classmethod
    def _of_the_method(cls, values: Any, info: ValidationInfo) -> Any:
        name = info.data.get("method")
        if name is None or isinstance(values, MethodConfig):
            return values
        return parse(METHODS[name].config_type, values, where=f"methods.{name}")

    @model_validator(mode="after")
    def _check_batch_size(self) -> Self:
        least = self.options.min_batch_size
        if self.train.batch_size < least:
            raise ValueError(
                f"train.batch_size: {self.train.batch_size}, but {self.method} needs at least {least} images per step:"
                f" {self.options.min_batch_reason}. Raise it"
            )
        return self


class BaselineConfig(Section):
    """Configuration that identifies a pretrained encoder beside its inputs.

    Attributes:
        encoder: The encoder.
    """

    encoder: EncoderConfig


def train_run(
    select: Path,
    packed: Sequence[Path],
    weights: Path,
    manifest: Path,
    config: RunConfig,
    *,
    tokenizer: Path | None = None,
    concepts: Path | None = None,
    texts: Sequence[Path] = (),
    runtime: RuntimeConfig | None = None,
    threads: int = 1,
) -> None:
    """Train, export the encoder, and write the manifest last. Resumes an interrupted attempt.

    Args:
        select: Manifest of `select`.
        packed: Manifests of `pack`; those that the selection does not use are ignored.
        weights: Manifest of the initial weights.
        manifest: `results/<dataset>/<run>/train.json`; all outputs are in its folder.
        config: Configuration of the run.
        tokenizer: Manifest of the tokenizer's vocabulary; None for the default of the encoder.
        concepts: Manifest of `concepts`; None if the method needs none.
        texts: Manifests of `texts`, if embeddings of captions are computed beforehand.
        runtime: Resources; they change results by rounding only. None: defaults.
        threads: CPU threads of this process.

    Raises:
        FineclipError: Nothing has been exported.
        SystemExit: A stop was requested; a checkpoint has been saved.
    """
    runtime = runtime or RuntimeConfig()
    torch.set_num_threads(threads)
    keys = keys_by_shard(select)
    manifests = manifests_of(keys, packed, stage="pack", select=select)
    embedded = manifests_of(keys, texts, stage="texts", select=select) if texts else {}
    optional = [path for path in (tokenizer, concepts) if path is not None]
    inputs = [select, *manifests.values(), weights, *optional, *embedded.values()]
    job, folder = _job(manifest, config, inputs), manifest.parent
    with init_distributed(runtime.device) as context, ExitStack() as stack:
        state = _state_identity(config, inputs)
        checkpoints = CheckpointManager(folder / "state", state, keep=runtime.keep_checkpoints)
        if context.run_on_main(job.is_up_to_date):
            context.run_on_main(checkpoints.clear)  # left by a process that was killed at the very end
            return
        context.run_on_main(lambda: stack.enter_context(checkpoints.locked()))
        context.run_on_main(checkpoints.raise_if_failed_before)
        set_deterministic(config.train.deterministic, context.device)
        vocabulary = vocabulary_at(tokenizer, config.encoder)
        encoder = load_encoder(config.encoder, weights_at(weights, config.encoder.weights)).to(context.device)
        selection = read_selection(keys, manifests, config.train)
        if selection.left_out:
            counts = ", ".join(f"{count} {reason}" for reason, count in selection.left_out.items())
            log.info("using %d of %d selected samples; dropped: %s", selection.samples, selection.selected, counts)
        cached = _cached_texts(config, encoder, embedded, packed=manifests, tokenizer=tokenizer)
        data_spec = _data_spec(config, vocabulary, concepts, cached)
        method = METHODS[config.method].build(encoder, config.options, data_spec)
        transform = method.build_transform(data_spec, config.options, max_regions=config.train.max_regions)
        run = TrainingRun(
            method,
            config.train,
            samples=PackedDataset(selection.shards, transform, seed=config.train.seed),
            collate=Collate(data_spec),
            folder=folder,
            checkpoints=checkpoints,
            context=context,
            runtime=runtime,
        )
        train(run)
        context.run_on_main(lambda: _finish(job, method.export_encoder(), config, vocabulary, selection=selection))
        context.run_on_main(checkpoints.clear)


def export_baseline(weights: Path, manifest: Path, config: BaselineConfig, *, tokenizer: Path | None = None) -> None:
    """Export a pretrained encoder without fine-tuning as a run to compare with.

    Args:
        weights: Manifest of the weights.
        manifest: `results/<dataset>/<run>/train.json`; all outputs are in its folder.
        config: The encoder.
        tokenizer: Manifest of the tokenizer's vocabulary; None for the default of the encoder.
    """
    job = _job(manifest, config, [weights, *([tokenizer] if tokenizer else [])])
    if job.is_up_to_date():
        return
    encoder = load_encoder(config.encoder, weights_at(weights, config.encoder.weights))
    _finish(job, encoder, config, vocabulary_at(tokenizer, config.encoder))


def set_deterministic(wanted: bool, device: torch.device) -> None:
    """Use deterministic kernels on a GPU if `train.deterministic` is set; a CPU always has them."""
    if wanted and device.type == "cuda":
        # read by cuBLAS at its first use
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = text_of("CUBLAS_WORKSPACE_CONFIG", os.environ) or ":4096:8"
        torch.use_deterministic_algorithms(mode=True)


def _job(manifest: Path, config: Section, inputs: Sequence[Path]) -> Job:
    """Return the job. Its stage is `train` for a baseline too, so that readers of runs need no distinction."""
    for name in (WEIGHTS, ARCHITECTURE, VOCABULARY, "config.yaml", "metrics.jsonl", "speed.jsonl"):
        remove_stale_temp_files(manifest.parent, name)
    return Job(manifest, stage="train", version=VERSION, config=config, inputs=inputs)


def _state_identity(config: RunConfig, inputs: Sequence[Path]) -> str:
    """Return the hash of everything that checkpoints belong to."""
    content = {"version": VERSION, "config": identity(config), "inputs": hashes_of(inputs)}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def _data_spec(
    config: RunConfig, vocabulary: Path | None, concepts: Path | None, embedded: CachedTexts | None
) -> DataSpec:
    """Return the inputs of the encoder, with the concepts of the method.

    Args:
        config: Configuration of the run.
        vocabulary: BPE file; None for the default of the encoder.
        concepts: Manifest of `concepts`; None if the method needs none.
        embedded: Embeddings of captions; None if the encoder embeds texts.

    Returns:
        Data spec.

    Raises:
        ConfigError: The method needs concepts that are absent, or has concepts that it does not use.
    """
    if (concepts is not None) != config.options.needs_concepts:
        needs = "needs concepts: set" if config.options.needs_concepts else "does not use concepts: omit"
        raise ConfigError(f"method {config.method} {needs} --concepts FILE, the manifest of `concepts`")
    return DataSpec(
        load_tokenizer(config.encoder, vocabulary),
        config.encoder.image_size,
        config.encoder.crop_size,
        concepts=() if concepts is None else read_concepts(concepts),
        embedded=embedded,
        loader=config.loader,
    )


def _cached_texts(
    config: RunConfig,
    encoder: RegionEncoder,
    texts: Mapping[str, Path],
    *,
    packed: Mapping[str, Path],
    tokenizer: Path | None,
) -> CachedTexts | None:
    """Return the embeddings of captions if they were computed beforehand.

    Args:
        config: Configuration of the run.
        encoder: Its text tower must be the one that computed them.
        texts: Manifest of `texts` of each shard.
        packed: Manifest of `pack` of each shard.
        tokenizer: Manifest of the tokenizer's vocabulary.

    Returns:
        Lookup of embeddings, or None if the encoder embeds texts.

    Raises:
        ConfigError: They are required and absent, or present and not used.
        ShardError: They belong to another encoder or to other shards.
    """
    if bool(texts) != (config.loader.cached_texts and config.options.can_cache_texts):
        needs = "needs embedded texts: set" if config.loader.cached_texts else "embeds texts itself: omit"
        needs = needs if config.options.can_cache_texts else "does not use embedded texts: omit"
        raise ConfigError(
            f"method {config.method} with loader.cached_texts {str(config.loader.cached_texts).lower()} {needs} --texts FILE,"
            " manifests of `texts`"
        )
    if not texts:
        return None
    files = text_files(texts, packed=packed, text_tower=text_tower_hash(encoder), tokenizer=tokenizer)
    log.info("reading embeddings of captions from %d files", len(files))
    return CachedTexts(files, encoder.width)


def _finish(
    job: Job,
    encoder: RegionEncoder,
    config: RunConfig | BaselineConfig,
    vocabulary: Path | None,
    *,
    selection: Selection | None = None,
) -> None:
    """Export the encoder with its configuration, then write the manifest."""
    folder = job.manifest.parent
    save_encoder(encoder, folder, config=config.encoder, vocabulary=vocabulary)
    write_text(folder / "config.yaml", _described(config, folder))
    names = [WEIGHTS, ARCHITECTURE, "config.yaml"]
    names += [VOCABULARY] if vocabulary else []
    names += ["metrics.jsonl"] if selection else []
    job.finish(
        [folder / name for name in names],
        read=selection.selected if selection else 0,
        kept=selection.samples if selection else 0,
        dropped=selection.left_out if selection else {},
        regions=selection.regions if selection else 0,
    )


def _described(config: RunConfig | BaselineConfig, folder: Path) -> str:
    """Return all keys with their values, defaults included, as YAML."""
    names = {"dataset": folder.absolute().parent.name, "run": folder.name, "method": None}
    values = names | config.model_dump(mode="json", by_alias=True)
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
