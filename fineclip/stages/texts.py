"""Embed every text of a shard once, with an encoder whose text tower stays as it is, for trainings that only look them up.

    <shard>.safetensors    an embedding for each different caption, of images and of regions: float32, not normalised
    <shard>.json           manifest

An embedding belongs to a text tower, of which the hash of parameters is kept, and to a text. A training that trains its text
tower has no use for any. No sample is dropped; one without captions has the empty text, which is what training draws for it.

What is looked up equals what a training computes up to rounding: there a text has other neighbours in its batch, and
under `train.precision` bf16 or fp16 its embedding is rounded, which these are not. A million texts of 512 numbers are 2 GB.

Legend: T texts, D embedding width.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fineclip.config import EncoderConfig
from fineclip.errors import ShardError
from fineclip.shards import (
    ByteRangeReader,
    Job,
    PackRow,
    TextsFile,
    kept_rows,
    read_description,
    read_manifest,
    sha256_of,
    write_texts,
)
from fineclip.stages.weights import vocabulary_at, weights_at
from fineclip.types import Sample

log = logging.getLogger(__name__)

VERSION = 1  # of the embeddings that this file writes: a change of it makes them again


def texts_of(sample: Sample) -> Iterator[str]:
    """Every text that a training may draw of a sample."""
    yield from sample.captions or ("",)
    yield from (region.caption for region in sample.regions if region.caption)


def texts_shard(
    packed: Path,
    weights: Path,
    manifest: Path,
    config: EncoderConfig,
    *,
    tokenizer: Path | None = None,
    batch_size: int,
    device: str,
) -> None:
    """Write the embeddings of one shard's texts, and then its `manifest`.

    Args:
        packed: manifest of pack.
        weights: manifest of the encoder's weights.
        manifest: what is written last; the embeddings lie beside it.
        config: the encoder.
        tokenizer: manifest of the tokenizer's vocabulary, None where the encoder takes the usual one.
        batch_size: texts that the encoder sees at once.
        device: auto, cpu, cuda or mps.

    Raises:
        CheckpointError: the weights cannot be used.
        ConfigError: the encoder cannot be used, or vocabulary and tokenizer do not belong together.
        ShardError: an index or tar is gone or changed. Nothing is written then.
    """
    inputs = [packed, weights, *([tokenizer] if tokenizer else [])]
    job = Job(manifest, stage="texts", version=VERSION, config=config, inputs=inputs)
    if job.is_done():
        return
    rows = list(kept_rows(packed, PackRow))
    with ByteRangeReader() as reader:
        samples = (read_description(reader, packed.with_suffix(".tar"), row) for row in rows)
        texts = Counter(text for sample in samples for text in texts_of(sample))
    path = manifest.with_suffix(".safetensors")
    _embed(list(texts), path, weights, config, tokenizer=tokenizer, batch_size=batch_size, device=device)
    log.info("%d texts of %d samples, %d of them different", texts.total(), len(rows), len(texts))
    job.finish([path], read=len(rows), kept=len(rows), regions=sum(row.regions for row in rows))


def _embed(
    texts: Sequence[str],
    path: Path,
    weights: Path,
    config: EncoderConfig,
    *,
    tokenizer: Path | None,
    batch_size: int,
    device: str,
) -> None:
    from fineclip.models.batches import chosen_device
    from fineclip.models.checkpoint import load_encoder
    from fineclip.models.texts import embed_texts, text_tower_hash
    from fineclip.models.tokenizer import load_tokenizer

    tokenize = load_tokenizer(config, vocabulary_at(tokenizer, config))
    encoder = load_encoder(config, weights_at(weights, config.weights)).eval()
    tower = text_tower_hash(encoder)
    features_TD = embed_texts(encoder.to(chosen_device(device)), tokenize(texts), batch_size=batch_size)
    write_texts(path, texts, features_TD.numpy(), text_tower=tower)


def text_files(
    given: Mapping[str, Path], *, packed: Mapping[str, Path], text_tower: str, tokenizer: Path | None = None
) -> dict[str, Path]:
    """The file of embeddings of each shard.

    Args:
        given: manifests of this stage, by shard.
        packed: manifests of pack of the same shards.
        text_tower: hash of the tower that would embed the texts otherwise.
        tokenizer: manifest of its vocabulary.

    Raises:
        ShardError: a manifest is of another stage, text tower, vocabulary or packed shard; a file is gone or damaged.
    """
    for shard, manifest in given.items():
        made = read_manifest(manifest)
        if made.stage != "texts":
            raise ShardError(f"{manifest}: is a manifest of {made.stage}; expected one of texts")
        for needed in (packed[shard], *([tokenizer] if tokenizer else [])):
            if sha256_of(needed) not in made.inputs.values():
                raise ShardError(
                    f"{manifest}: was made from {', '.join(made.inputs)}, but not from {needed} as it lies there now. {_again(manifest)}"
                )
        file = TextsFile(manifest.with_suffix(".safetensors"))
        if file.text_tower != text_tower:
            raise ShardError(
                f"{file.path}: holds embeddings by a text tower of hash {file.text_tower[:12]}, but this training's is {text_tower[:12]}."
                f" {_again(manifest)}"
            )
    return {shard: manifest.with_suffix(".safetensors") for shard, manifest in given.items()}


def _again(manifest: Path) -> str:
    return f"Give the manifest that belongs to its encoder, or delete {manifest} and run `fineclip texts --force`."
