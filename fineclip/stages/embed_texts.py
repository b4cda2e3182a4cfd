"""Stage `texts`: embed every text of a shard once with a frozen text tower, for runs that do not train it.

    <shard>.safetensors    one embedding per distinct caption of images and regions: float32, not normalized
    <shard>.json           manifest

The file records the hash of the parameters of the text tower. A sample without captions has the empty text, which training
uses for it. No sample is dropped.

Embeddings equal those computed in training up to rounding: the composition of batches differs, and `train.precision` bf16 or
fp16 rounds embeddings that are stored as float32. One million texts of width 512 take 2 GB.

Legend: T texts, D embedding width.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from fineclip.config import EncoderConfig
from fineclip.errors import ShardError
from fineclip.shards import (
    ByteRangeReader,
    PackRow,
    TextsFile,
    kept_rows,
    read_description,
    sha256_of,
    write_texts,
)
from fineclip.stages.declaration import Input, Stage, stage
from fineclip.stages.upstream import manifest_of
from fineclip.stages.weights import vocabulary_at, weights_at
from fineclip.types import Sample

log = logging.getLogger(__name__)


def texts_of(sample: Sample) -> Iterator[str]:
    """Yield every text of a sample that training may use."""
    yield from sample.captions or ("",)
    yield from (region.caption for region in sample.regions if region.caption)


TEXTS = Stage(
    name="texts",
    version=1,
    help="embed the captions of a shard once, for runs that do not train the text tower",
    config=EncoderConfig,
    section="encoders.{encoder}",
    inputs={
        "packed": Input(stage="pack", reads=(PackRow,)),
        "weights": Input(stage="weights", note="for the encoder"),
        "tokenizer": Input(
            stage="weights", note="for its tokenizer, if it has its own", option="tokenizer", required=False
        ),
    },
    batch_size=64,
)


@stage(TEXTS)
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
    """Write the embeddings of the texts of one shard, and then its manifest.

    Args:
        packed: Manifest of `pack`.
        weights: Manifest of the weights of the encoder.
        manifest: Path of the manifest to write; the embeddings are written beside it.
        config: The encoder.
        tokenizer: Manifest of the vocabulary; None for the default vocabulary of the model.
        batch_size: Texts per batch.
        device: auto, cpu, cuda or mps.

    Raises:
        CheckpointError: The weights cannot be loaded.
        ConfigError: The encoder cannot be built, or `tokenizer` does not match the configuration.
        ShardError: An index or tar is absent or changed. Nothing is written then.
    """
    inputs = [packed, weights, *([tokenizer] if tokenizer else [])]
    job = TEXTS.job(manifest, config, inputs)
    if job.is_up_to_date():
        return
    from fineclip.models.checkpoints import load_encoder
    from fineclip.models.device import resolve_device
    from fineclip.models.embed_texts import embed_texts, text_tower_hash
    from fineclip.models.tokenizer import load_tokenizer

    rows = list(kept_rows(packed, PackRow))
    with ByteRangeReader() as reader:
        samples = (read_description(reader, packed.with_suffix(".tar"), row) for row in rows)
        texts = Counter(text for sample in samples for text in texts_of(sample))
    tokenize = load_tokenizer(config, vocabulary_at(tokenizer, config))
    encoder = load_encoder(config, weights_at(weights, config.weights)).eval()
    tower = text_tower_hash(encoder)
    features_TD = embed_texts(encoder.to(resolve_device(device)), tokenize(list(texts)), batch_size=batch_size)
    path = manifest.with_suffix(".safetensors")
    write_texts(path, list(texts), features_TD.numpy(), text_tower=tower)
    log.info("%d texts of %d samples, %d of them distinct", texts.total(), len(rows), len(texts))
    job.finish([path], read=len(rows), kept=len(rows), regions=sum(row.regions for row in rows))


def text_files(
    given: Mapping[str, Path], *, packed: Mapping[str, Path], text_tower: str, tokenizer: Path | None = None
) -> dict[str, Path]:
    """Return the file of embeddings of each shard after checks.

    Args:
        given: Manifests of this stage by shard.
        packed: Manifests of `pack` by shard.
        text_tower: Hash of the text tower of the run.
        tokenizer: Manifest of the vocabulary of the run.

    Returns:
        Safetensors file of each shard, in the order of `given`.

    Raises:
        ShardError: A manifest is of another stage, text tower, vocabulary or packed shard; a file is absent or damaged.
    """
    for shard, manifest in given.items():
        made = manifest_of(manifest, "texts")
        for needed in (packed[shard], *([tokenizer] if tokenizer else [])):
            if sha256_of(needed) not in made.inputs.values():
                raise ShardError(
                    f"{manifest}: was made from {', '.join(made.inputs)}, but not from {needed} in its current form. {_again(manifest)}"
                )
        file = TextsFile(manifest.with_suffix(".safetensors"))
        if file.text_tower != text_tower:
            raise ShardError(
                f"{file.path}: holds embeddings by a text tower of hash {file.text_tower[:12]}, but this training's is {text_tower[:12]}."
                f" {_again(manifest)}"
            )
    return {shard: manifest.with_suffix(".safetensors") for shard, manifest in given.items()}


def _again(manifest: Path) -> str:
    return f"Pass the manifest of its encoder, or delete {manifest} and run `fineclip texts --force`."
