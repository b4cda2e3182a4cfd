"""Stage `filter`: keep or drop each image of a shard by its header, captions and hash. No pixels are decoded.

The rules run in the order of `RULES`; the first that rejects an image gives the reason. An image with several captions
is dropped only if every caption is rejected, for the reason of the first one; `pack` keeps the captions that pass.
With `min_words: 0` an image whose captions are all blank is kept without captions. Duplicates are found within a shard;
`select` finds those in earlier shards.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from fineclip.config import FilterConfig, parse
from fineclip.readers.text import count_words, has_word
from fineclip.shards import ByteRangeReader, FilterRow, SourceRow, kept_rows, read_manifest
from fineclip.shards.images import MAX_PIXELS, read_header
from fineclip.stages.declaration import Input, Stage, stage
from fineclip.stages.upstream import content_of
from fineclip.types import Candidate

Rule = Callable[[Candidate, FilterConfig], str | None]


def unreadable(image: Candidate, _: FilterConfig) -> str | None:
    """Return the reason if the header could not be read."""
    return "unreadable" if image.width == 0 else None


def too_large(image: Candidate, _: FilterConfig) -> str | None:
    """Return the reason if the image has more pixels than are decoded."""
    return "too-large" if image.width * image.height > MAX_PIXELS else None


def too_small(image: Candidate, config: FilterConfig) -> str | None:
    """Return the reason if the shorter side is less than `min_side_px`."""
    return "too-small" if min(image.width, image.height) < config.min_side_px else None


def too_elongated(image: Candidate, config: FilterConfig) -> str | None:
    """Return the reason if the longer side is more than `max_aspect` times the shorter."""
    shorter, longer = sorted((image.width, image.height))
    return "too-elongated" if longer > config.max_aspect * shorter else None


def without_good_caption(image: Candidate, config: FilterConfig) -> str | None:
    """Return the reason of the first caption if every caption is rejected."""
    if good_captions(image.captions, config) or allows_empty_caption(image.captions, config):
        return None
    return caption_rejection_reason(image.captions[0], config) if image.captions else "caption-empty"


RULES: tuple[Rule, ...] = (unreadable, too_large, too_small, too_elongated, without_good_caption)


def limits_of(manifest: Path) -> FilterConfig:
    """Return the configuration that a manifest of `filter` was made with."""
    config: FilterConfig = parse(FilterConfig, dict(read_manifest(manifest).config), where=str(manifest))
    return config


def good_captions(captions: Sequence[str], config: FilterConfig) -> list[str]:
    """Return the captions that pass the filter, in order."""
    return [caption for caption in captions if caption_rejection_reason(caption, config) is None]


def allows_empty_caption(captions: Sequence[str], config: FilterConfig) -> bool:
    """Return whether an image with only blank captions, or none, is kept: `min_words` is 0."""
    return config.min_words == 0 and not any(caption.strip() for caption in captions)


def caption_rejection_reason(caption: str, config: FilterConfig) -> str | None:
    """Return the reason to reject a caption, or None for one that passes."""
    if not caption.strip():
        return "caption-empty"
    if "\0" in caption:
        return "caption-binary"
    if not has_word(caption):
        return "caption-no-letter"
    words = count_words(caption)
    if words < config.min_words:
        return "caption-short"
    if words > config.max_words:
        return "caption-long"
    text = " ".join(caption.split())
    is_boilerplate = any(re.fullmatch(pattern, text, re.IGNORECASE) for pattern in config.boilerplate)
    return "caption-boilerplate" if is_boilerplate else None


def apply_rules(images: Iterable[Candidate], config: FilterConfig) -> Iterator[str | None]:
    """Yield the reason to drop each image of a shard, in order, or None for one that is kept."""
    kept: set[str] = set()
    for image in images:
        reason = next((slug for rule in RULES if (slug := rule(image, config))), None)
        if reason is None and image.sha256 in kept:
            reason = "duplicate"
        if reason is None:
            kept.add(image.sha256)
        yield reason


FILTER = Stage(
    name="filter",
    version=3,
    help="keep or drop each image of a shard by its header, captions and hash",
    config=FilterConfig,
    section="filter",
    inputs={"source": Input(stage="source", reads=(SourceRow,))},
    row=FilterRow,
    reasons={
        "unreadable": "no supported decoder reads the header",
        "too-large": f"the header states more than {MAX_PIXELS // 10**6} million pixels",
        "too-small": "the shorter side is less than min_side_px",
        "too-elongated": "the longer side is more than max_aspect times the shorter",
        "caption-empty": "the caption is empty or blank",
        "caption-binary": "the caption holds NUL characters: it is of another encoding, or no text",
        "caption-no-letter": "the caption has no letter: numbers, such as the labels of YOLO, or punctuation",
        "caption-short": "the caption has fewer than min_words words; in scripts without spaces each letter is a word",
        "caption-long": "the caption has more than max_words words",
        "caption-boilerplate": "the whole caption matches a pattern of boilerplate",
        "duplicate": "the same bytes were kept earlier in this shard",
    },
)


@stage(FILTER)
def filter_shard(source: Path, manifest: Path, config: FilterConfig) -> None:
    """Write the table of one shard, one row per image, and then its manifest.

    Args:
        source: Manifest of the source shard.
        manifest: Path of the manifest to write; the table is written beside it.
        config: Limits of the rules.

    Raises:
        ShardError: A file that `source` names is absent, truncated or changed. Nothing is written then.
    """
    FILTER.write_table(manifest, config, [source], lambda: filtered_rows(source, config))


def filtered_rows(source: Path, config: FilterConfig) -> Iterator[FilterRow]:
    """Yield a row for each image of a source shard, in order."""
    images, formats = list[Candidate](), list[str | None]()
    with ByteRangeReader() as reader:
        for row in kept_rows(source, SourceRow):
            content = content_of(row, reader)
            width, height, image_format = read_header(content) or (0, 0, None)
            digest = hashlib.sha256(content).hexdigest()
            images.append(Candidate(row.key, width, height, tuple(row.captions), digest))
            formats.append(image_format)
    for image, image_format, reason in zip(images, formats, apply_rules(images, config), strict=True):
        yield FilterRow(
            key=image.key,
            kept=reason is None,
            reason=reason,
            width=image.width,
            height=image.height,
            format=image_format,
            sha256=image.sha256,
        )
