"""One run, from manifests to a folder of results: what the verbs `train` and `pretrained` do.

    results/<dataset>/<run>/train.json          manifest
                            model.safetensors   the encoder, as the last step left it
                            config.yaml         what was run
                            metrics.jsonl       losses; the same in every repetition
                            speed.jsonl         images per second, waiting, memory
                            state/              while it trains: checkpoints, lock, marker of failure

An encoder as it comes is a run too, without method and without steps.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from fineclip.config import RuntimeConfig, Section
from fineclip.errors import ConfigError
from fineclip.identity import canonical, identity
from fineclip.methods import METHODS
from fineclip.methods.items import Inputs
from fineclip.methods.texts import CachedTexts
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
from fineclip.train.claims import PretrainedConfig, RunConfig
from fineclip.train.data import Collate, PackedDataset
from fineclip.train.distributed import Processes, joined
from fineclip.train.loop import train
from fineclip.train.selection import Selection, read_selection
from fineclip.train.state import StateFolder
from fineclip.train.training import Training

log = logging.getLogger(__name__)

VERSION = 2  # of what the loop makes of the same inputs: a change of it trains again


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
    """Train, save_encoder, and write the manifest last; goes on where an earlier attempt was stopped.

    Args:
        select: manifest of the selection.
        packed: manifests of packed shards; those that the selection does not use are not looked at.
        weights: manifest of the weights that training starts from.
        manifest: `results/<dataset>/<run>/train.json`; everything else lies beside it.
        config: what identifies the training beside its inputs.
        tokenizer: manifest of the tokenizer's vocabulary, None where the encoder takes the usual one.
        concepts: manifest of the concepts of the scale, None where the method needs none.
        texts: manifests of embedded texts, of packed shards as above; none where they are embedded at every visit.
        runtime: the means; no result changes with them beyond rounding. None takes the defaults.
        threads: of each training process, on the CPU.

    Raises:
        FineclipError: of any kind; nothing is published then.
        SystemExit: a signal asked to stop; a checkpoint is saved.
    """
    runtime = runtime or RuntimeConfig()
    torch.set_num_threads(threads)
    keys = keys_by_shard(select)
    manifests = manifests_of(keys, packed, stage="pack", select=select)
    embedded = manifests_of(keys, texts, stage="texts", select=select) if texts else {}
    optional = [path for path in (tokenizer, concepts) if path is not None]
    job = _job(manifest, config, [select, *manifests.values(), weights, *optional, *embedded.values()])
    with joined(runtime.device) as processes, ExitStack() as stack:
        state = StateFolder(manifest.parent / "state", _state_identity(job), kept=runtime.keep_checkpoints)
        if processes.first_does(job.is_up_to_date):
            processes.first_does(state.clear)  # a process killed at the very end leaves it behind
            return
        processes.first_does(lambda: stack.enter_context(state.locked()))
        processes.first_does(state.require_hope)
        vocabulary = vocabulary_at(tokenizer, config.encoder)
        encoder = load_encoder(config.encoder, weights_at(weights, config.encoder.weights)).to(processes.device)
        selection = read_selection(keys, manifests, config.train)
        inputs = replace(
            _inputs(config, vocabulary, concepts),
            embedded=_embedded(config, encoder, embedded, packed=manifests, tokenizer=tokenizer),
        )
        training = _training(
            config, encoder, selection, inputs=inputs, state=state, processes=processes, runtime=runtime
        )
        train(training)
        processes.first_does(
            lambda: _finish(job, training.method.export_encoder(), config, vocabulary, selection=selection)
        )
        processes.first_does(state.clear)


def publish_pretrained(
    weights: Path, manifest: Path, config: PretrainedConfig, *, tokenizer: Path | None = None
) -> None:
    """An encoder as it comes, as a run to compare with: the same files, no method, no steps."""
    job = _job(manifest, config, [weights, *([tokenizer] if tokenizer else [])])
    if job.is_up_to_date():
        return
    encoder = load_encoder(config.encoder, weights_at(weights, config.encoder.weights))
    _finish(job, encoder, config, vocabulary_at(tokenizer, config.encoder))


def _job(manifest: Path, config: Section, inputs: Sequence[Path]) -> Job:
    """The manifest's stage is `train` for an untrained encoder too: what reads runs need not tell them apart."""
    for name in (WEIGHTS, ARCHITECTURE, VOCABULARY, "config.yaml", "metrics.jsonl", "speed.jsonl"):
        remove_stale_temp_files(manifest.parent, name)
    return Job(manifest, stage="train", version=VERSION, config=config, inputs=inputs)


def _state_identity(job: Job) -> str:
    """What a checkpoint belongs to."""
    config = identity(job.config) if isinstance(job.config, Section) else job.config
    inputs = job.inputs if isinstance(job.inputs, Mapping) else hashes_of(job.inputs)
    claim = {"version": job.version, "config": config, "inputs": dict(inputs)}
    return hashlib.sha256(canonical(claim).encode()).hexdigest()


def _inputs(config: RunConfig, vocabulary: Path | None, concepts: Path | None) -> Inputs:
    """What the encoder takes, and the names that the method tells regions apart by.

    Raises:
        ConfigError: it needs some, and their manifest is not given; or the other way round.
    """
    if (concepts is not None) != config.options.needs_concepts:
        needs = "needs the concepts of its scale: give" if config.options.needs_concepts else "has no use for"
        raise ConfigError(f"method {config.method} {needs} --concepts FILE, the manifest of `concepts`")
    return Inputs(
        load_tokenizer(config.encoder, vocabulary),
        config.encoder.image_size,
        config.encoder.crop_size,
        concepts=() if concepts is None else read_concepts(concepts),
        loader=config.loader,
    )


def _embedded(
    config: RunConfig,
    encoder: RegionEncoder,
    texts: Mapping[str, Path],
    *,
    packed: Mapping[str, Path],
    tokenizer: Path | None,
) -> CachedTexts | None:
    """The captions' embeddings, where they were made beforehand; by shard, `texts` and `packed` are manifests.

    Raises:
        ConfigError: they are to be, and their manifests are not given; or the other way round.
        ShardError: they are of another encoder, or of other shards.
    """
    if bool(texts) != (config.loader.cached_texts and config.options.takes_embedded_texts):
        needs = "takes embedded texts: give" if config.loader.cached_texts else "is to embed texts itself, so leave out"
        needs = needs if config.options.takes_embedded_texts else "has no use for"
        raise ConfigError(
            f"method {config.method}, loader.cached_texts {str(config.loader.cached_texts).lower()}: it {needs} --texts FILE,"
            " manifests of `texts`"
        )
    if not texts:
        return None
    files = text_files(texts, packed=packed, text_tower=text_tower_hash(encoder), tokenizer=tokenizer)
    log.info("captions are looked up, not embedded: %d files", len(files))
    return CachedTexts(files, encoder.width)


def _training(
    config: RunConfig,
    encoder: RegionEncoder,
    selection: Selection,
    *,
    inputs: Inputs,
    state: StateFolder,
    processes: Processes,
    runtime: RuntimeConfig,
) -> Training:
    """What the loop needs. A GPU is asked for the same bits at every run where that is wanted."""
    if config.train.deterministic and processes.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        torch.use_deterministic_algorithms(mode=True)
    if processes.is_first and selection.left_out:
        counts = ", ".join(f"{count} {reason}" for reason, count in selection.left_out.items())
        log.info("%d of %d selected samples are used; left out: %s", selection.samples, selection.selected, counts)
    method = METHODS[config.method].build(encoder, config.options, inputs)
    prepare = method.preparation(inputs, config.options, max_regions=config.train.max_regions)
    return Training(
        method,
        config.train,
        samples=PackedDataset(selection.shards, prepare, seed=config.train.seed),
        collate=Collate(inputs),
        folder=state.folder.parent,
        state=state,
        processes=processes,
        runtime=runtime,
    )


def _finish(
    job: Job,
    encoder: RegionEncoder,
    config: RunConfig | PretrainedConfig,
    vocabulary: Path | None,
    *,
    selection: Selection | None = None,
) -> None:
    """Publish the encoder with what was run, then the manifest."""
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


def _described(config: RunConfig | PretrainedConfig, folder: Path) -> str:
    """Every key with its value, defaults too, so that the file stands for itself."""
    names = {"dataset": folder.absolute().parent.name, "run": folder.name, "method": None}
    values = names | config.model_dump(mode="json", by_alias=True)
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
